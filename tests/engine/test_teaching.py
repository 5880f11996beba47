"""Teachers: what they see, several as one, and the pretrained ones of libraries."""

import pytest
import torch
import torch.nn.functional as F
import torchvision

from mdistiller.dataset import IMAGENET_WNIDS
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.ensemble import Ensemble
from mdistiller.engine.index import IMAGENET
from mdistiller.engine.sight import Seeing, Sight
from mdistiller.engine.teaching import folded
from mdistiller.engine.weights import read_meta
from mdistiller.errors import UserError
from mdistiller.models import build_model
from tests.engine.conftest import TINY, Script
from tests.engine.test_networks import TEST_IMAGES, columns_of

GIVEN = Sight(32, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
SMALL = "SOLVER.BATCH_SIZE 3 SOLVER.EPOCHS 1 SOLVER.LR 1e-5 DATASET.IMAGE_SIZE 32 DATASET.NUM_WORKERS 0".split()
SOURCE = """
from ._base import Distiller


class F(Distiller):
    def losses(self, student, teacher, target, **kwargs):
        return {"f": (student.features["pooled_feat"] - teacher.features["pooled_feat"]).abs().mean()}
"""


class Images(torch.nn.Module):
    """Returns the images that it sees."""

    def forward(self, image):
        return image


def normalised(pixels, sight):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (sight.mean, sight.std))
    return (pixels - mean) / std


@pytest.mark.parametrize(
    "own",
    [
        Sight(32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        Sight(48, GIVEN.mean, GIVEN.std),
        Sight(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_a_network_sees_the_pixels_resized_and_normalised_its_own_way(own):
    pixels = torch.rand(2, 3, 32, 32)
    size = (own.image_size, own.image_size)
    expected = normalised(F.interpolate(pixels, size, mode="bilinear", antialias=True), own)
    torch.testing.assert_close(Seeing(Images(), own, GIVEN)(normalised(pixels, GIVEN)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "meta",
    [
        {},
        {"dataset": {"image_size": "32"}, "normalisation": {"mean": [0.5], "std": [1, 1, 1]}},
        {"dataset": {"image_size": 10**6}, "normalisation": {"mean": 3 * [0.5], "std": 3 * [0]}},
        {"dataset": {"image_size": True}, "normalisation": {"mean": 3 * [float("nan")], "std": 3 * [1]}},
    ],
)
def test_what_weights_tell_and_cannot_be_is_passed_over(meta):
    assert GIVEN.over(meta) == GIVEN


def test_a_teacher_that_sees_otherwise_is_folded_and_keeps_its_contract():
    torch.manual_seed(0)
    network = build_model("cifar100", "resnet8", 10).eval()
    teacher = Seeing(network, Sight(64, (0.1, 0.2, 0.3), (0.5, 0.5, 0.5)), GIVEN).eval()
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(folded(teacher)(image)[0], teacher(image)[0], rtol=1e-4, atol=1e-5)
    assert folded(teacher).get_stage_channels() == network.get_stage_channels()


def test_several_teachers_give_the_mean_of_their_probabilities():
    networks = [build_model("cifar100", name, 10).eval() for name in ("resnet8", "vgg8")]
    image = torch.randn(4, 3, 32, 32)
    expected = torch.stack([network(image)[0].softmax(dim=1) for network in networks]).mean(dim=0)
    for teacher in (Ensemble(networks).eval(), folded(Ensemble(networks).eval())):
        torch.testing.assert_close(teacher(image)[0].softmax(dim=1), expected, rtol=1e-4, atol=1e-6)


def test_features_of_several_teachers_are_one_line():
    with pytest.raises(UserError, match=r"no pooled_feat in common; name one teacher"):
        Ensemble([build_model("cifar100", "resnet8", 10)])(torch.zeros(1, 3, 32, 32))[1]["pooled_feat"]


def train(script, name, *arguments):
    assert script(training_main, "--selected_model", name, *TINY, *TEST_IMAGES, *arguments).status == 0, script.err


def distil(script, *arguments):
    return script(distillation_main, "--selected_student", "resnet8", *TINY, *TEST_IMAGES, *arguments)


def told(script):
    """The log's text without times and line breaks."""
    return " ".join(word for line in script.out.splitlines() for word in line.partition(" - ")[2].split())


@pytest.fixture
def larger(script):
    """A run's resnet8 that was trained on larger images, normalised otherwise."""
    train(script, "resnet8", "DATASET.IMAGE_SIZE", "40", "DATASET.MEAN", "[0.5,0.5,0.5]", "SOLVER.EPOCHS", "1")
    return script.utils / "model_pth/best_model_weights_resnet8.pth"


def test_a_teacher_sees_what_its_weights_say_it_was_trained_on(script, larger):
    assert distil(script, "--selected_teacher", "resnet8", "--distiller", "KD").status == 0, script.err
    assert "The teacher resnet8 sees images of 40x40 pixels, mean [0.5, 0.5, 0.5]" in told(script)


def test_keys_of_the_config_say_what_a_teacher_sees(script, larger):
    keys = "DISTILLER.TEACHER_IMAGE_SIZE 32 DISTILLER.TEACHER_MEAN [0.5071,0.4867,0.4408]".split()
    assert distil(script, "--selected_teacher", "resnet8", "--distiller", "KD", *keys).status == 0, script.err
    assert "sees images" not in told(script)


@pytest.mark.parametrize("distiller", ["SDD", "RKD", "OFD", "ReviewKD", "CRD"])
def test_features_of_a_teacher_that_sees_otherwise_are_compared(script, larger, distiller):
    run = distil(script, "--selected_teacher", "resnet8", "--distiller", distiller, "SOLVER.EPOCHS", "1")
    assert run.status == 0, run.err


@pytest.mark.parametrize(
    "pair", ["DISTILLER.TEACHER_IMAGE_SIZE 4", "DISTILLER.TEACHER_MEAN [2,2,2]", "DISTILLER.TEACHER_STD [0,0,0]"]
)
def test_what_no_teacher_can_see_is_one_line(script, pair):
    distil(script, *pair.split()).fails_with(pair.split()[0], "expected")


@pytest.fixture
def two(script):
    for name in ("resnet8", "resnet14"):
        train(script, name, "SOLVER.EPOCHS", "1")
    return script


@pytest.mark.parametrize("distiller", ["KD", "SKD", "DKD"])
def test_several_teachers_teach(two, distiller):
    assert distil(two, "--selected_teacher", "resnet8,resnet14", "--distiller", distiller).status == 0, two.err
    (best,) = two.utils.glob(f"model_distillation_pth/*_resnet8,resnet14_resnet8_{distiller}/best.pth")
    meta = read_meta(best)
    assert meta["teacher"] == "resnet8,resnet14" and len(meta["teacher_sha256"].split(",")) == 2


def test_several_teachers_are_repeated_and_resumed(two, tmp_path):
    chosen = "--selected_teacher", "6,7", "--distiller", "KD"
    distil(two, *chosen)
    whole = columns_of(two, "train_loss", "test_loss")
    (saved,) = two.utils.glob("distiller_train_log/*.yaml")
    again = Script(tmp_path / "again")
    assert again(distillation_main, "--cfg", saved).status == 0, again.err
    assert columns_of(again, "train_loss", "test_loss") == whole
    distil(two, *chosen, "SOLVER.EPOCHS", "1")
    assert two(distillation_main, "--resume", "SOLVER.EPOCHS", "2").status == 0, two.err
    assert columns_of(two, "train_loss", "test_loss") == whole


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--distiller RKD", ["RKD compares features", "KD"]),
        ("--distiller SDD", ["SDD compares features"]),
        ("--distiller KD --teacher_weights a.pth", ["TEACHER_WEIGHTS has 1", "2 teachers"]),
        ("--distiller KD --teacher_weights a.pth,b.pth", ["cannot read weights", "a.pth"]),
        ("--distiller KD DISTILLER.TEACHER_ARGS {a:1}", ["TEACHER_ARGS"]),
    ],
)
def test_mistakes_with_several_teachers_are_one_line(script, arguments, parts):
    distil(script, "--selected_teacher", "resnet8,resnet14", *arguments.split()).fails_with(*parts)
    assert list(script.utils.iterdir()) == []


def test_a_file_that_compares_features_of_several_teachers_is_one_line(two, tmp_path):
    (tmp_path / "f.py").write_text(SOURCE)
    distil(two, "--selected_teacher", "resnet8,resnet14", "--distiller", f"{tmp_path}/f.py:F").fails_with(
        "no pooled_feat in common"
    )


def test_weights_of_a_plain_network_are_a_teachers(script, tmp_path):
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=36).state_dict(), tmp_path / "plain.pth")
    flags = "--selected_teacher", "torchvision:resnet18", "--teacher_weights", tmp_path / "plain.pth"
    assert distil(script, *flags, "--distiller", "KD", "SOLVER.EPOCHS", "1").status == 0, script.err


def test_weights_trained_with_other_arguments_are_named(script, tmp_path):
    pytest.importorskip("timm")
    vit = "timm:vit_small_patch16_224"
    arguments = "{depth: 1, embed_dim: 64, num_heads: 4, patch_size: 8}"
    train(script, vit, "SOLVER.EPOCHS", "1", "DISTILLER.STUDENT_ARGS", arguments)
    (weights,) = script.utils.glob("model_pth/*/best.pth")
    distil(script, "--selected_teacher", vit, "--teacher_weights", weights).fails_with(
        "other arguments", f"type DISTILLER.TEACHER_ARGS '{arguments}'"
    )


@pytest.fixture
def imagenet(tmp_path, monkeypatch):
    """A script with an empty cache of downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return Script(tmp_path / "project", IMAGENET)


@pytest.fixture
def fetched(monkeypatch):
    """Random weights of torchvision's networks in place of a download; the addresses that were asked for."""
    asked = []

    def load(url, *_, **__):
        asked.append(url)
        torch.manual_seed(0)
        return torchvision.models.shufflenet_v2_x0_5().state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    return asked


PRETRAINED = "--selected_teacher", "torchvision:shufflenet_v2_x0_5", "--teacher_weights", "pretrained"


def distil_on(imagenet, photographs, *arguments):
    flags = "--selected_student", "ResNet18", "--distiller", "KD", *arguments
    return imagenet(distillation_main, *flags, "DATASET.ROOT", photographs, *SMALL)


def test_a_pretrained_teacher_is_fetched_once_and_sees_its_own_resolution(imagenet, photographs, fetched):
    for _ in range(2):
        assert distil_on(imagenet, photographs, *PRETRAINED).status == 0, imagenet.err
    assert len(fetched) == 1
    assert "sees images of 224x224 pixels, mean [0.485, 0.456, 0.406]" in told(imagenet)


def test_a_pretrained_teacher_scores_the_datas_classes_by_their_wnids(imagenet, photographs, fetched):
    distil_on(imagenet, photographs, *PRETRAINED)
    (config,) = imagenet.utils.glob("distiller_train_log/*.yaml")
    (file,) = (imagenet.utils.parents[2] / "torch").rglob("*.pth")
    assert str(file) in config.read_text()
    assert read_meta(file)["dataset"]["classes"] == IMAGENET_WNIDS
    assert imagenet(evaluation_main, "--checkpoint", file, "DATASET.ROOT", photographs).status == 0, imagenet.err
    assert imagenet.out.splitlines()[1].split()[-1] == "6" or imagenet.out.splitlines()[1].split()[-2] == "6"


def test_a_librarys_network_on_imagenet_is_pretrained_unless_one_is_trained(imagenet, photographs, fetched):
    assert distil_on(imagenet, photographs, *PRETRAINED[:2]).status == 0, imagenet.err
    assert len(fetched) == 1


def test_test_evaluates_a_librarys_pretrained_network(imagenet, photographs, fetched):
    flags = "--dataset", "imagenet", "--model", PRETRAINED[1]
    assert imagenet(evaluation_main, *flags, "DATASET.ROOT", photographs).status == 0, imagenet.err


def test_a_library_that_cannot_be_reached_is_one_line(imagenet, photographs, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    distil_on(imagenet, photographs, *PRETRAINED).fails_with("no route to host", "torchvision", "--teacher_weights")
    assert not list(imagenet.utils.rglob("*.log"))


def test_pretrained_weights_are_for_classes_of_imagenet(script):
    distil(script, *PRETRAINED).fails_with("classes of ImageNet", "train.py")


def test_a_network_without_pretrained_weights_is_one_line(imagenet, photographs):
    flags = "--selected_teacher", "MobileNetV1", "--teacher_weights", "pretrained"
    distil_on(imagenet, photographs, *flags).fails_with("MobileNetV1 has no pretrained weights", "--teacher_weights")


def test_a_pretrained_teacher_of_timm_sees_what_its_config_says(imagenet, photographs, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    flags = "--selected_teacher", "timm:mobilenetv3_small_050.lamb_in1k", "--teacher_weights", "pretrained"
    assert distil_on(imagenet, photographs, *flags).status == 0, imagenet.err
    assert "sees images of 224x224 pixels" in told(imagenet)


def test_pretrained_weights_of_other_classes_are_one_line(imagenet, photographs, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *_, **__: None)
    flags = "--selected_teacher", "timm:vit_tiny_patch16_224.augreg_in21k", "--teacher_weights", "pretrained"
    distil_on(imagenet, photographs, *flags).fails_with("21843 classes, not ImageNet's 1000")
