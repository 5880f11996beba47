"""Networks of torchvision, of timm and of a user's file: named, trained, repeated, evaluated; and mistakes."""

import copy

import pytest
import torch
import yaml

from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.networks import arguments_of, label, no_larger_than
from mdistiller.errors import UserError
from mdistiller.models import build_model
from tests.engine.conftest import TINY

SOURCE = """
from torch import nn


def make_net(num_classes, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, num_classes),
    )
"""
# A network whose `check` of its images is appended.
FAILING = """
from torch import nn


class make_net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(4, num_classes)

    def forward(self, x):
        self.check(x)
        return self.last(self.body(x))

    def check(self, x):
        """
VIT, VIT_ARGUMENTS = "timm:vit_small_patch16_224", "{depth: 2, embed_dim: 64, num_heads: 4, patch_size: 8}"
TEST_IMAGES = "DATASET.SYNTHETIC.TEST_IMAGES", "36"


@pytest.fixture
def file(tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    return f"{tmp_path}/net.py:make_net"


@pytest.fixture(params=["torchvision", "timm", "file"])
def network(request, file):
    """Flags of a small network of others, as a student's, with its arguments."""
    if request.param == "timm":
        pytest.importorskip("timm")
        return VIT, ("DISTILLER.STUDENT_ARGS", VIT_ARGUMENTS)
    return ("torchvision:shufflenet_v2_x0_5", ()) if request.param == "torchvision" else (file, ())


def train(script, name, *arguments):
    return script(training_main, "--selected_model", name, *TINY, *TEST_IMAGES, "SOLVER.LR", "0.01", *arguments)


def columns_of(script, *names):
    """Columns of the newest run's metrics.csv."""
    path = max(script.utils.glob("*_log/*/metrics.csv"), key=lambda path: path.stat().st_mtime)
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    return [[row[header.index(name)] for name in names] for row in rows]


def best_of(script):
    return max(script.utils.glob("model_pth/*/best.pth"), key=lambda path: path.stat().st_mtime)


def test_a_network_of_others_trains_and_is_evaluated_without_flags(script, network):
    name, arguments = network
    assert train(script, name, *arguments).status == 0, script.err
    trained = script.out
    assert script(evaluation_main, "--all").status == 0, script.err
    top1 = trained.split("Best Test Top-1 Accuracy: ")[1].split(",")[0]
    assert f" {top1} " in script.out


def test_a_saved_config_repeats_a_run_of_such_a_network(script, network, tmp_path):
    name, arguments = network
    train(script, name, *arguments)
    (saved,) = script.utils.glob("model_train_log/*.yaml")
    again = type(script)(tmp_path / "again")
    assert again(training_main, "--cfg", saved).status == 0, again.err
    assert columns_of(script, "train_loss", "test_loss") == columns_of(again, "train_loss", "test_loss")


def test_such_a_run_is_resumed_as_if_it_had_not_stopped(script, network, tmp_path):
    name, arguments = network
    train(script, name, *arguments)
    stopped = type(script)(tmp_path / "stopped")
    assert train(stopped, name, *arguments, "SOLVER.EPOCHS", "1").status == 0
    assert stopped(training_main, "--resume", "SOLVER.EPOCHS", "2").status == 0, stopped.err
    assert columns_of(script, "train_loss", "test_loss") == columns_of(stopped, "train_loss", "test_loss")


def test_such_a_student_learns_from_such_a_teacher(script, network):
    name, arguments = network
    train(script, name, *arguments)
    teacher = [word.replace("STUDENT", "TEACHER") for word in arguments]
    flags = "--selected_student", name, "--selected_teacher", name, "--distiller", "KD"
    assert script(distillation_main, *flags, *TINY, *TEST_IMAGES, *arguments, *teacher).status == 0, script.err
    called = label(name, VIT_ARGUMENTS) if arguments else label(name)
    (weights,) = script.utils.glob("model_distillation_pth/best_model_weights_*.pth")
    assert weights.name == f"best_model_weights_{called}_KD.pth"
    assert f"student={called}, teacher={called}" in script.out


@pytest.mark.parametrize(
    ("name", "arguments", "image_size"),
    [
        ("torchvision:resnet18", {}, 32),
        ("timm:vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}, 32),
        ("file", {"width": 16}, 32),
    ],
)
def test_a_network_of_others_learns_a_batch_by_heart(file, name, arguments, image_size):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    network = build_model("cifar100", file if name == "file" else name, 8, arguments, image_size)
    images, target = torch.randn(16, 3, 32, 32), torch.arange(16) % 8
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(100):
        loss = torch.nn.functional.cross_entropy(network(images)[0], target)
        if loss < 0.1:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(f"the loss is {loss:.3f}")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("3", ["is '3'", "YAML mapping"]),
        ("a\nb", ["'a\\nb'", "YAML mapping"]),
        ("{a", ["not valid YAML"]),
        ("{1: 2}", ["key 1"]),
        ("{a: {b: 1}}", ["{'b': 1}", "expected a number"]),
        ("{a: null}", ["a None"]),
        ("{a: .inf}", ["a inf"]),
        ("{a b: 1}", ["'a b'"]),
        ("{num_classes: 3}", ["num_classes", "leave it out"]),
        (f"{{a: {'x' * 500}}}", ["at most 400"]),
    ],
)
def test_arguments_that_cannot_be_are_one_line(script, file, text, parts):
    train(script, file, "DISTILLER.STUDENT_ARGS", text).fails_with("DISTILLER.STUDENT_ARGS", *parts)
    assert list(script.utils.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["{pretrained: true}", "{checkpoint_path: w.pth}", "{pretrained_cfg: 'hf-hub:someone/net'}", "{weights: a}"]
)
def test_arguments_that_would_read_weights_are_one_line(script, text):
    name = text.strip("{}").partition(":")[0]
    train(script, "torchvision:resnet18", "DISTILLER.STUDENT_ARGS", text).fails_with(name, "leave it out")


def test_arguments_are_numbers_text_and_lists_of_them():
    text = "{a: 1e-3, b: '010', c: [1, 2.5], d: true, e: relu}"
    assert arguments_of(text, "K", "timm:resnet18") == {"a": 0.001, "b": "010", "c": [1, 2.5], "d": True, "e": "relu"}


def test_arguments_written_as_a_mapping_in_a_config_are_taken(script, file, tmp_path):
    (tmp_path / "c.yaml").write_text(f"DISTILLER: {{STUDENT: '{file}', STUDENT_ARGS: {{width: 4}}}}\n")
    out = script(training_main, "--cfg", tmp_path / "c.yaml", "--print_cfg").out
    assert yaml.safe_load(out)["DISTILLER"]["STUDENT_ARGS"] == "{width: 4}"


def test_arguments_are_told_in_the_log_and_in_the_weights(script, file):
    train(script, file, "DISTILLER.STUDENT_ARGS", "{width: 4}", "SOLVER.EPOCHS", "1")
    assert "Arguments of the student: {width: 4}" in script.out
    meta = torch.load(best_of(script), weights_only=True)["meta"]
    assert (meta["network"], meta["arguments"], meta["dataset"]["image_size"]) == (file, "{width: 4}", 32)


def test_arguments_for_one_of_our_networks_have_no_effect(script):
    train(script, "resnet8", "DISTILLER.STUDENT_ARGS", "{width: 4}").fails_with("no effect on resnet8", "torchvision:")


def test_arguments_of_a_config_are_left_out_with_its_network(script, file, tmp_path):
    (tmp_path / "c.yaml").write_text(f"DISTILLER: {{STUDENT: '{file}', STUDENT_ARGS: '{{width: 4}}'}}\n")
    out = script(training_main, "--cfg", tmp_path / "c.yaml", "--selected_model", "resnet8", "--print_cfg").out
    assert yaml.safe_load(out)["DISTILLER"]["STUDENT_ARGS"] == "{}"


def test_arguments_that_the_network_does_not_take_are_one_line(script, file):
    train(script, file, "DISTILLER.STUDENT_ARGS", "{depth: 4}").fails_with("cannot be built", "depth")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("torchvision:resnet81", ["no network 'resnet81'", "resnet18"]),
        ("torchvision:", ["no network ''"]),
        ("keras:resnet18", ["unknown network", "torchvision:NAME"]),
        ("nowhere/net.py:make_net", ["no network file nowhere/net.py"]),
        (f"{'a' * 300}.py:make_net", ["no network file"]),
        ("timm:hf-hub:someone/net", ["no network 'hf-hub:someone/net'"]),
    ],
)
def test_a_name_that_is_none_is_one_line(script, name, parts):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    train(script, name).fails_with(*parts)


def test_names_of_files_are_safe_and_tell_networks_apart(file):
    labels = [
        label("resnet8"),
        label("torchvision:resnet18"),
        label(VIT),
        label(VIT, "{depth: 2}"),
        label(VIT, "{depth: 3}"),
        label(file),
        label(file, "{width: 4}"),
        label("resnet8,torchvision:resnet18"),
    ]
    assert len(set(labels)) == len(labels)
    assert labels[:3] == ["resnet8", "torchvision.resnet18", "timm.vit_small_patch16_224"]
    assert labels[5].startswith("net-make_net.") and labels[7] == "resnet8,torchvision.resnet18"
    assert not any(set(each) & set('/:{}" +') for each in labels)


def test_equal_arguments_make_the_same_run_however_they_are_written(script, file):
    train(script, file, "DISTILLER.STUDENT_ARGS", "{width: 4}", "SOLVER.EPOCHS", "1")
    train(script, file, "DISTILLER.STUDENT_ARGS", "{ 'width':   4 }", "SOLVER.EPOCHS", "1")
    assert len(list(script.utils.glob("model_pth/best_model_weights_*.pth"))) == 1


@pytest.mark.parametrize("words", [["torchvision", "resnet1*8"], ["torchvision", "RESNET18"]])
def test_list_searches_a_library(script, words):
    assert "torchvision:resnet18" in script(training_main, "--list", *words).out.splitlines()


def test_list_of_an_unknown_library_is_one_line(script):
    script(distillation_main, "--list", "keras").fails_with("torchvision or timm", "keras")


def test_a_network_file_that_has_changed_is_a_warning(script, file, tmp_path):
    train(script, file, "SOLVER.EPOCHS", "1")
    (saved,) = script.utils.glob("model_train_log/*.yaml")
    (tmp_path / "net.py").write_text(SOURCE.replace("make_net(", "make_net(", 1) + "\n# more\n")
    again = type(script)(tmp_path / "again")
    assert again(training_main, "--cfg", saved).status == 0, again.err
    assert "the student's network file has changed" in " ".join(again.out.split()).replace(" - ", " ")


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("def make_net(num_classes):\n    raise ValueError('no luck')", ["cannot be built", "no luck", "net.py, line"]),
        ("def make_net(num_classes):\n    raise SystemExit(3)", ["cannot be built", "SystemExit"]),
        ("raise SystemExit(3)", ["does not import", "SystemExit"]),
        ("def other(num_classes):\n    return None", ["no class or function 'make_net'", "other"]),
        ("def make_net(num_classes):\n    return 'net'", ["makes str", "torch.nn.Module"]),
        (f"{FAILING}if self.training:\n            raise ValueError('no luck')", ["fails in epoch 1", "no luck"]),
        (
            f"{FAILING}if len(x) > 1 and not self.training:\n            raise ValueError('no luck')",
            ["no luck", "line"],
        ),
    ],
)
def test_a_network_file_that_fails_is_one_line(script, file, tmp_path, body, parts):
    (tmp_path / "net.py").write_text(body)
    train(script, file).fails_with(*parts)


class TestSafety:
    """What a weight file says is data: nothing that it names is run."""

    @pytest.fixture
    def weights(self, script, file, tmp_path):
        """Weights of the file's network, outside of the project."""
        train(script, file, "SOLVER.EPOCHS", "1")
        return best_of(script).rename(tmp_path / "theirs.pth")

    def test_a_network_file_that_only_weights_name_is_not_run(self, script, weights, file):
        script(evaluation_main, "--checkpoint", weights).fails_with("network in a file", f"add --model {file}")

    def test_a_network_file_that_the_user_names_is_run(self, script, weights, file):
        assert script(evaluation_main, "--checkpoint", weights, "--model", file).status == 0, script.err

    def test_a_network_file_that_has_moved_is_found_by_its_new_name(self, script, weights, file, tmp_path):
        (tmp_path / "net.py").rename(tmp_path / "moved.py")
        flags = "--checkpoint", weights, "--model", f"{tmp_path}/moved.py:make_net"
        assert script(evaluation_main, *flags).status == 0, script.err

    def test_a_config_beside_weights_from_elsewhere_lets_no_file_run(self, script, file, tmp_path):
        ours, theirs = (type(script)(tmp_path / name) for name in ("ours", "theirs"))
        train(theirs, file, "SOLVER.EPOCHS", "1")
        ours(evaluation_main, "--checkpoint", best_of(theirs)).fails_with("network in a file", "add --model")

    def test_a_network_of_the_projects_own_run_is_run(self, script, file):
        train(script, file, "SOLVER.EPOCHS", "1")
        assert script(evaluation_main, "--checkpoint", best_of(script)).status == 0, script.err

    @pytest.mark.parametrize(
        ("arguments", "part"),
        [
            ("{checkpoint_path: /etc/passwd}", "checkpoint_path"),
            ("{pretrained: true}", "pretrained"),
            ("{embed_dim: 1000000}", "above 4,096"),
            ("{embed_dim: 4096, depth: 4096, num_heads: 4}", "parameters"),
            ("[1]", "YAML mapping"),
        ],
    )
    def test_arguments_that_weights_tell_fetch_and_fill_nothing(self, script, tmp_path, arguments, part):
        pytest.importorskip("timm")
        train(script, VIT, "SOLVER.EPOCHS", "1", "DISTILLER.STUDENT_ARGS", VIT_ARGUMENTS)
        content = torch.load(best_of(script), weights_only=True)
        changed = copy.deepcopy(content)
        changed["meta"]["arguments"] = arguments
        torch.save(changed, tmp_path / "theirs.pth")
        script(evaluation_main, "--checkpoint", tmp_path / "theirs.pth").fails_with(part)

    def test_a_network_larger_than_its_weights_is_not_built(self):
        with no_larger_than(1000), pytest.raises(UserError, match="more than 1,000 parameters"):
            torch.nn.Linear(100, 100)
        torch.nn.Linear(100, 100)
