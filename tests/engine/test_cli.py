"""The scripts: indices, names, where things go, and one line with status 2 for bad input."""

import shutil
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image

from mdistiller.distillers import DISTILLERS
from mdistiller.engine import teachers
from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100
from mdistiller.engine.runs import PROJECT
from mdistiller.errors import UserError
from mdistiller.models import build_model, model_names
from tests.distillers.test_files import SOURCE
from tests.engine.conftest import TINY
from tests.engine.test_archive import SPECIAL_FILES, make_special

PAIR = "--selected_student resnet8 --selected_teacher resnet14".split()


def save_teacher(path, num_classes, name="resnet14"):
    torch.manual_seed(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(build_model("cifar100", name, num_classes).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def synthetic_classes():
    from mdistiller.dataset import build_data, fill_defaults

    cfg = CFG.clone()
    cfg.DATASET.TYPE, cfg.DATASET.SYNTHETIC.TEST_IMAGES = "synthetic", 1
    fill_defaults(cfg.DATASET)
    return build_data(cfg, torch.device("cpu"), 0, splits=("test",)).num_classes


@pytest.fixture
def teacher(script, synthetic_classes):
    """Weights of resnet14 in the first default place."""
    return save_teacher(script.utils / "model_pth" / "best_model_weights_resnet14.pth", synthetic_classes)


def config_of(script):
    (path,) = script.utils.glob("*_log/*.yaml")
    return yaml.safe_load(path.read_text())


def test_published_indices_keep_their_places():
    assert CIFAR100.students[:9] == (
        *("resnet32", "resnet8x4", "resnet20", "ShuffleV1", "ShuffleV2", "vgg8", "wrn_40_1", "wrn_16_2", "MobileNetV2"),
    )
    assert CIFAR100.teachers[:6] == ("resnet32x4", "resnet56", "resnet110", "vgg13", "wrn_40_2", "ResNet50")
    assert CIFAR100.published[:9] == ("SKD", "KD", "DKD", "CLKD", "MLKD", "RKD", "ReviewKD", "OFD", "CRD")


def test_every_network_has_an_index_in_both_roles():
    assert sorted(CIFAR100.students) == sorted(CIFAR100.teachers) == sorted(model_names("cifar100"))


def test_every_published_method_is_there_with_a_preset():
    for name in CIFAR100.published:
        assert name.upper() in DISTILLERS and (PROJECT / "configs" / "cifar100" / f"{name}.yaml").is_file()


def test_list_prints_indices_and_names(script):
    lines = script(distillation_main, "--list").out.splitlines()
    assert lines[0].split() == ["index", "student", "teacher", "distiller"]
    assert lines[4].split()[:4] == ["3", "ShuffleV1", "vgg13", "CLKD"]
    assert script(training_main, "--list").out.splitlines()[3].split() == ["2", "resnet20"]


def test_files_go_to_the_prescribed_folders(script, teacher):
    assert script(distillation_main, *PAIR, "--selected_distiller", "0", *TINY).status == 0
    (log,) = script.utils.glob("distiller_train_log/*.log")
    run = log.stem.removeprefix("experiment_cifar-100_")
    assert run.endswith("_resnet14_resnet8_SKD")
    assert (script.utils / "distiller_train_log" / log.stem / "metrics.csv").is_file()
    weights = script.utils / "model_distillation_pth"
    assert {path.name for path in (weights / run).iterdir()} == {"best.pth", "last.pth"}
    assert (weights / "best_model_weights_resnet8_SKD.pth").is_file()


def test_indices_select_networks_method_and_preset(script, synthetic_classes):
    weights = save_teacher(script.utils / "t.pth", synthetic_classes, "wrn_40_2")
    flags = "--selected_student 7 --selected_teacher 4 --selected_distiller 2 --seed 5 --teacher_weights".split()
    assert script(distillation_main, *flags, weights, *TINY, "SOLVER.EPOCHS", "1").status == 0, script.err
    config = config_of(script)
    assert [config["DISTILLER"][key] for key in ("TYPE", "TEACHER", "STUDENT")] == ["DKD", "wrn_40_2", "wrn_16_2"]
    assert config["DKD"]["CLAMP"] == 10.0 and config["EXPERIMENT"]["SEED"] == 5


def test_pair_with_a_preset_of_its_own_gets_it(script, synthetic_classes):
    weights = save_teacher(script.utils / "t.pth", synthetic_classes, "resnet32x4")
    flags = "--selected_student 1 --selected_teacher 0 --selected_distiller 0 --teacher_weights".split()
    assert script(distillation_main, *flags, weights, *TINY, "SOLVER.EPOCHS", "1").status == 0, script.err
    assert config_of(script)["SKD"]["LOSS"] == {"CE_WEIGHT": 0.5, "INSTANCE_WEIGHT": 0.5, "DIRECTION_WEIGHT": 0.5}


def test_cfg_file_replaces_the_preset_and_flags_and_pairs_override_it(script, teacher, tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text(
        "DISTILLER: {TYPE: KD, TEACHER: resnet14, STUDENT: vgg8}\nSOLVER: {LR: 0.02, WEIGHT_DECAY: 0.001}\n"
    )
    flags = ["--cfg", path, "--selected_student", "resnet8"]
    assert script(distillation_main, *flags, *TINY, "SOLVER.WEIGHT_DECAY", "0.002").status == 0, script.err
    config = config_of(script)
    assert (config["DISTILLER"]["TYPE"], config["DISTILLER"]["STUDENT"]) == ("KD", "resnet8")
    assert (config["SOLVER"]["LR"], config["SOLVER"]["WEIGHT_DECAY"]) == (0.02, 0.002)


def test_saved_config_repeats_the_run(script, teacher, tmp_path):
    script(distillation_main, *PAIR, "--selected_distiller", "MLKD", *TINY)
    (saved,) = script.utils.glob("distiller_train_log/*.yaml")
    (metrics,) = script.utils.glob("distiller_train_log/*/metrics.csv")
    again = type(script)(tmp_path / "again")
    assert again(distillation_main, "--cfg", saved).status == 0, again.err
    (repeated,) = again.utils.glob("distiller_train_log/*/metrics.csv")
    timing = {"images_per_second", "seconds"}
    header = metrics.read_text().splitlines()[0].split(",")
    kept = [i for i, name in enumerate(header) if name not in timing]
    first, second = ([line.split(",") for line in p.read_text().splitlines()] for p in (metrics, repeated))
    assert [[row[i] for i in kept] for row in first] == [[row[i] for i in kept] for row in second]


def test_saved_config_holds_the_sections_that_the_run_used(script, teacher):
    script(distillation_main, *PAIR, "--selected_distiller", "MLKD", *TINY, "SOLVER.EPOCHS", "1")
    assert set(config_of(script)) == {"EXPERIMENT", "DATASET", "DISTILLER", "SOLVER", "LOG", "MLKD"}


def test_print_cfg_prints_what_a_run_saves_and_stops(script, teacher):
    arguments = [*PAIR, "--selected_distiller", "DKD", "--seed", "7", *TINY, "SOLVER.EPOCHS", "1"]
    printed = yaml.safe_load(script(distillation_main, *arguments, "--print_cfg").out)
    assert not list(script.utils.glob("*_log"))
    script(distillation_main, *arguments)
    saved = config_of(script)
    assert saved["DISTILLER"].pop("TEACHER_WEIGHTS") == str(teacher) and not printed["DISTILLER"].pop("TEACHER_WEIGHTS")
    assert saved["DATASET"].pop("FINGERPRINT") and not printed["DATASET"].pop("FINGERPRINT")
    assert saved["DISTILLER"].pop("TEACHER_SHA256") and not printed["DISTILLER"].pop("TEACHER_SHA256")
    assert saved["EXPERIMENT"].pop("VERSIONS") and not printed["EXPERIMENT"].pop("VERSIONS")
    assert saved == printed and printed["EXPERIMENT"]["SEED"] == 7


def test_print_cfg_of_plain_training_is_one_that_the_script_takes(script, tmp_path):
    printed = script(training_main, "--selected_model", "resnet8", "--print_cfg", *TINY).out
    (tmp_path / "printed.yaml").write_text(printed)
    assert script(training_main, "--cfg", tmp_path / "printed.yaml", "--print_cfg").out == printed


def test_an_index_by_a_pair_is_taken_like_a_flag(script):
    arguments = "--selected_distiller 0 DISTILLER.TYPE 1 DISTILLER.STUDENT 2 --print_cfg".split()
    chosen = yaml.safe_load(script(distillation_main, *arguments).out)["DISTILLER"]
    assert (chosen["TYPE"], chosen["STUDENT"]) == ("KD", "resnet20")


def test_teacher_is_found_by_its_published_name(script, teacher):
    assert script(distillation_main, *PAIR, *TINY, "SOLVER.EPOCHS", "1").status == 0, script.err
    assert config_of(script)["DISTILLER"]["TEACHER_WEIGHTS"] == str(teacher)


def test_missing_teacher_lists_the_places_and_the_command(script):
    script(distillation_main, *PAIR, *TINY).fails_with(
        "model_pth/best_model_weights_resnet14.pth",
        "download_ckpts/cifar_teachers/resnet14_vanilla/ckpt_epoch_240.pth",
        f"python {script.utils}/train.py --selected_model resnet14 DATASET.TYPE synthetic",
    )
    assert list(script.utils.iterdir()) == []


def test_own_distiller_file_trains_from_any_folder(script, teacher, tmp_path):
    path = tmp_path / "hint.py"
    path.write_text(SOURCE)
    extra = "HINT.WEIGHT 2.0 HINT.WARMUP 4 KD.TEMPERATURE 2.5".split()
    assert script(distillation_main, *PAIR, "--distiller", f"{path}:Hint", *TINY, *extra).status == 0, script.err
    (metrics,) = script.utils.glob("distiller_train_log/*_resnet14_resnet8_Hint-file.*/metrics.csv")
    assert metrics.read_text().splitlines()[0].endswith("loss_ce,loss_kd,loss_hint")
    (last,) = script.utils.glob("model_distillation_pth/*_Hint-file.*/last.pth")
    assert "conv_reg.conv.weight" in torch.load(last, weights_only=True)["training"]["distiller"]
    assert config_of(script)["HINT"] == {"WEIGHT": 2.0, "WARMUP": 4}
    assert script(evaluation_main).status == 0 and "Hint" in script.out


SIMILARITY = """
import torch
import torch.nn.functional as F

from ._base import Distiller


class Similarity(Distiller):
    def forward_train(self, image, target, epoch):
        logits_student, feature_student = self.student(image)
        with torch.no_grad():
            _, feature_teacher = self.teacher(image)
        gram = [f["feats"][-1].view(image.shape[0], -1) for f in (feature_student, feature_teacher)]
        gram = [F.normalize(torch.mm(f, f.t())) for f in gram]
        loss = (gram[0] - gram[1]).pow(2).sum().view(-1, 1)
        return logits_student, {"loss_ce": F.cross_entropy(logits_student, target, reduction="none"), "loss_kd": loss}

    def __init__(self, student, teacher, cfg):
        super(Similarity, self).__init__(student, teacher)
"""


def test_own_distiller_may_view_maps_return_unreduced_losses_and_take_only_what_it_needs(script, teacher, tmp_path):
    path = tmp_path / "similarity.v2.py"
    path.write_text(SIMILARITY)
    assert script(distillation_main, *PAIR, "--distiller", f"{path}:Similarity", *TINY).status == 0, script.err


def test_own_distiller_without_its_section_is_told_how_to_give_it(script, teacher, tmp_path):
    path = tmp_path / "hint.py"
    path.write_text(SOURCE)
    script(distillation_main, *PAIR, "--distiller", f"{path}:Hint", *TINY).fails_with(
        "AttributeError: HINT", "KEY VALUE"
    )


@pytest.mark.parametrize("trainer", ["crd", "crd_dot"])
def test_trainers_of_mdistiller_are_accepted(script, teacher, trainer):
    assert script(distillation_main, *PAIR, "--distiller", "CRD", *TINY, "SOLVER.TRAINER", trainer).status == 0, (
        script.err
    )


def test_index_in_a_cfg_file_is_taken_like_a_flag(script, tmp_path, synthetic_classes):
    path = tmp_path / "m.yaml"
    path.write_text("DISTILLER: {TYPE: 1, TEACHER: 10, STUDENT: 9}")
    weights = save_teacher(tmp_path / "t.pth", synthetic_classes, "resnet44")
    assert script(distillation_main, "--cfg", path, "--teacher_weights", weights, *TINY).status == 0, script.err
    chosen = config_of(script)["DISTILLER"]
    assert [chosen[key] for key in ("TYPE", "TEACHER", "STUDENT")] == ["KD", "resnet44", "resnet8"]


def test_method_chosen_by_a_pair_gets_its_preset(script, teacher):
    assert script(distillation_main, *PAIR, *TINY, "DISTILLER.TYPE", "DKD").status == 0, script.err
    assert config_of(script)["DKD"]["CLAMP"] == 10.0


def test_teacher_of_other_classes_of_the_same_number_is_refused(script, tmp_path):
    weights = tmp_path / "t.pth"
    meta = {"dataset": {"classes": ["cat", "cow"]}}
    torch.save({"model": build_model("cifar100", "resnet14", 2).state_dict(), "meta": meta}, weights)
    pairs = ["DATASET.TYPE", "folder", "DATASET.ROOT", make_folder(tmp_path / "data")]
    script(distillation_main, *PAIR, "--teacher_weights", weights, *pairs).fails_with("t.pth", "'cow', not 'dog'")


def test_published_name_of_other_real_data_is_kept(script, tmp_path):
    path = script.utils / "model_pth" / "best_model_weights_resnet8.pth"
    for name, status in (("first", "Best"), ("second", " - Kept ")):
        classes = ("cat", name)
        root = make_folder(tmp_path / name, classes, classes)
        pairs = ["DATASET.TYPE", "folder", "DATASET.ROOT", root, "SOLVER.EPOCHS", "1"]
        script(training_main, "--selected_model", "resnet8", *pairs)
        told = " ".join(line.partition(" - ")[2] for line in script.out.splitlines())  # a long line is wrapped
        assert status in script.out and ("of other data" in " ".join(told.split())) == (name == "second")
    assert torch.load(path, weights_only=True)["meta"]["dataset"]["classes"] == ["cat", "first"]


@pytest.mark.parametrize("top1", ["x", None, torch.zeros(3), float("nan")])
def test_published_file_with_a_damaged_meta_does_not_cost_the_run(script, top1):
    script(training_main, "--selected_model", "resnet8", *TINY)
    path = script.utils / "model_pth" / "best_model_weights_resnet8.pth"
    content = torch.load(path, weights_only=True)
    torch.save(content | {"meta": content["meta"] | {"run": "other", "top1": top1}}, path)
    assert script(training_main, "--selected_model", "resnet8", *TINY).status == 0, script.err


def test_data_of_one_class_is_refused(script, tmp_path):
    root = make_folder(tmp_path / "data", ("cat",), ("cat",))
    pairs = ["DATASET.TYPE", "folder", "DATASET.ROOT", root]
    script(training_main, "--selected_model", "resnet8", *pairs).fails_with("one class only, 'cat'")


def test_two_runs_that_start_together_do_not_share_a_folder(script):
    for _ in range(2):
        script(training_main, "--selected_model", "resnet8", *TINY, "SOLVER.EPOCHS", "1")
    assert len(list(script.utils.glob("model_pth/*/best.pth"))) == 2


def test_published_name_keeps_the_better_run_on_the_same_data(script):
    def published(epochs, seed):
        script(training_main, "--selected_model", "resnet8", "--seed", seed, *TINY, "SOLVER.EPOCHS", epochs)
        path = script.utils / "model_pth" / "best_model_weights_resnet8.pth"
        return torch.load(path, weights_only=True)["meta"]["top1"]

    first = published(1, 0)
    second = published(1, 1)
    runs = [torch.load(path, weights_only=True)["meta"]["top1"] for path in script.utils.glob("model_pth/*/best.pth")]
    assert second == max(runs) >= first


def test_weights_of_unknown_origin_are_never_overwritten(script, synthetic_classes):
    path = save_teacher(script.utils / "model_pth" / "best_model_weights_resnet8.pth", synthetic_classes, "resnet8")
    before = path.read_bytes()
    script(training_main, "--selected_model", "resnet8", *TINY)
    assert path.read_bytes() == before and " - Kept " in script.out


def test_test_script_evaluates_every_student(script, teacher):
    for method in ("KD", "CLKD"):
        script(distillation_main, *PAIR, "--selected_distiller", method, *TINY)
    before = sorted(script.utils.rglob("*"))
    lines = script(evaluation_main).out.splitlines()
    assert len(lines) == 5  # a row and its file for each run; its copy under the published name is none
    for method in ("KD", "CLKD"):
        (path,) = script.utils.glob(f"model_distillation_pth/*_{method}/best.pth")
        meta = torch.load(path, weights_only=True)["meta"]
        file = next(number for number, line in enumerate(lines) if f"{path.parent.name}/best.pth" in line)
        expected = f"{meta['top1']:.2f}", f"{meta['top5']:.2f}", f"{meta['loss']:.4f}", "32"
        row = ["synthetic", "resnet14", "resnet8", method, "2021", str(meta["epoch"]), *expected]
        assert lines[file - 1].split() == row
    assert sorted(script.utils.rglob("*")) == before


def test_test_script_without_students_says_what_to_run(script):
    script(evaluation_main).fails_with("no students in", "distillation_train.py --demo", "--checkpoint")


@pytest.mark.parametrize(
    ("name", "top1"), [("resnet56", "72.16"), ("resnet20", "67.03"), ("resnet32", "68.67"), ("wrn_16_2", "72.38")]
)
def test_published_weights_reach_their_accuracy_on_real_images(script, shared, name, top1):
    checkpoint = shared / "checkpoints" / f"best_model_weights_{name}.pth"
    data = ["DATASET.TYPE", "folder", "DATASET.ROOT", shared / "data" / "cifar100_sample"]
    assert script(evaluation_main, "--model", name, "--checkpoint", checkpoint, *data).status == 0, script.err
    assert script.out.splitlines()[1].split()[-4::3] == [top1, "916"]


def test_published_file_name_tells_the_network(script, shared, tmp_path):
    path = tmp_path / "best_model_weights_wrn_16_2_SKD.pth"
    shutil.copy(shared / "checkpoints" / "best_model_weights_wrn_16_2.pth", path)
    script(
        evaluation_main, "--checkpoint", path, "DATASET.TYPE", "folder", "DATASET.ROOT", shared / "data/cifar100_sample"
    )
    assert script.out.splitlines()[1].split()[2] == "wrn_16_2"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--selected_student", "99"], ["unknown student index 99", "0 resnet32", "22 ResNet50"]),
        (["--selected_teacher", "-1"], ["unknown teacher index -1"]),
        (["--selected_student", "resnet21"], ["unknown network 'resnet21'", "nearest: 'resnet", "wrn_16_2"]),
        (["--selected_distiller", "SKDD"], ["unknown distiller 'SKDD'", "nearest: 'SKD'", "MLKD"]),
        (["--selected_distiller", "77"], ["unknown distiller index 77", "0 SKD"]),
        (["--distiller", "nowhere.py:Mine"], ["no distiller file nowhere.py"]),
        (["SOLVER.EPOCS", "3"], ["unknown config key 'SOLVER.EPOCS'", "SOLVER.EPOCHS"]),
        (["--epochs", "3"], ["unknown flag '--epochs'"]),
        (["--seed", "x"], ["--seed", "invalid int value: 'x'"]),
        (["--seed", "-4"], ["EXPERIMENT.SEED is -4"]),
        (["--device", "tpu9"], ["device 'tpu9' is not available"]),
        (["--device", "meta"], ["device 'meta' is not available"]),
        (["--device", "hpu"], ["device 'hpu' is not available"]),
        (["--selected_student", "²"], ["unknown network '²'"]),
        (["--cfg", "absent.yaml"], ["cannot read config absent.yaml"]),
        (["--teacher_weights", "absent.pth"], ["absent.pth", "No such file"]),
        (["--demo", "--cfg", "a.yaml"], ["--demo", "leave out"]),
        (["--selected_student", "9" * 5000], ["unknown network '9999"]),
        (["--selected_student", "1e3"], ["unknown network '1e3'"]),
        (["--selected_student", ""], ["--selected_student has an empty value"]),
        (["--selected_student", "\udcff"], ["unknown network"]),
        (["--selected_student"], ["--selected_student", "expected one argument"]),
        (["--seed", "1e3"], ["--seed", "invalid int value: '1e3'"]),
        (["--seed", "9" * 30], ["EXPERIMENT.SEED is 9999"]),
        (["--device", ""], ["--device has an empty value"]),
        (["--device", "a\0b"], ["is not available"]),
        (["--cfg", ""], ["--cfg has an empty value"]),
        (["--cfg", "/dev/zero"], ["cannot read config /dev/zero"]),
        (["--cfg", "a\0b"], ["cannot read config"]),
        (["--cfg", "x" * 5000], ["cannot read config"]),
        (["--teacher_weights", ""], ["--teacher_weights has an empty value"]),
        (["--teacher_weights", "a\0b"], ["DISTILLER.TEACHER_WEIGHTS is a", "none of them zero"]),
        (["--selected", "3"], ["unknown flag '--selected'", "nearest: '--se"]),
        (["--", "--foo", "3"], ["unknown flag '--foo'"]),
        (["SOLVER.LR", "-1e5"], ["unknown flag '-1e5'"]),
        (["SOLVER.LR", "-1"], ["SOLVER.LR is -1.0"]),
        (["SOLVER.EPOCHS"], ["'SOLVER.EPOCHS' has no value"]),
        (["SOLVER.EPOCHS=3"], ["'SOLVER.EPOCHS=3' has no value"]),
        (["SOLVER.EPOCHS=3", "SOLVER.LR=1"], ["'SOLVER.EPOCHS=3' is no key"]),
        (["", "3"], ["unknown config key ''"]),
        (["SOLVER..LR", "3"], ["unknown config key 'SOLVER.'"]),
        (["\udcff", "3"], ["unknown config key"]),
        (["DATASET.ROOT", "a\0b"], ["DATASET.ROOT is a", "none of them zero"]),
        (["DISTILLER.STUDENT", ""], ["unknown network ''"]),
        (["DATASET.TYPE", "cifar"], ["cifar", "cifar100, imagenet"]),
        (["DATASET.AUGMENT", "wild"], ["wild", "weak, strong, weak+strong"]),
        (["SOLVER.EPOCHS", "0"], ["SOLVER.EPOCHS is 0"]),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing_behind(script, arguments, parts):
    weights = [] if "--teacher_weights" in arguments or "--demo" in arguments else ["--teacher_weights", __file__]
    script(distillation_main, *weights, *TINY[:6], *arguments).fails_with(*parts)
    assert list(script.utils.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--checkpoint", ""], ["--checkpoint has an empty value"]),
        (["--csv", ""], ["--csv has an empty value"]),
        (["--model", ""], ["--model has an empty value"]),
        (["--dataset", "x"], ["--dataset", "invalid choice: 'x'", "tiny_imagenet"]),
        (["--dataset", "\udcff"], ["--dataset", "invalid choice"]),
        (["--checkpoint", "x" * 5000], ["File name too long"]),
        (["--seed", "3"], ["unknown flag '--seed'"]),
        (["DATASET.ROOT"], ["'DATASET.ROOT' has no value"]),
        (["SOLVER.LR", "1"], ["no effect on an evaluation"]),
    ],
)
def test_bad_input_of_the_test_script_is_one_line(script, arguments, parts):
    script(evaluation_main, *arguments).fails_with(*parts)


def make_folder(root, train=("cat", "dog"), test=("cat", "dog")):
    for split, classes in (("train", train), ("test", test)):
        for name in classes:
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (32, 32), "red").save(root / split / name / "a.png")
    return root


def break_image(root):
    (root / "train" / "dog" / "b.png").write_bytes(b"not an image")


def empty_class(root):
    (root / "train" / "dog" / "a.png").unlink()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (shutil.rmtree, ["data"]),
        (empty_class, ["dog"]),
        (break_image, ["dog/b.png"]),
        (lambda root: shutil.rmtree(root / "test" / "dog"), ["dog"]),
        (lambda root: shutil.rmtree(root / "train"), ["train"]),
    ],
    ids=["missing root", "class without images", "unreadable image", "class missing from test", "no train folder"],
)
def test_bad_folder_is_named(script, tmp_path, damage, parts):
    root = make_folder(tmp_path / "data")
    damage(root)
    pairs = ["DATASET.TYPE", "folder", "DATASET.ROOT", root]
    script(training_main, "--selected_model", "resnet8", *pairs).fails_with(str(root), *parts)
    assert list(script.utils.iterdir()) == []


def test_teacher_for_other_classes_is_refused(script, tmp_path):
    weights = save_teacher(tmp_path / "t.pth", 7)
    script(distillation_main, *PAIR, "--teacher_weights", weights, *TINY).fails_with("t.pth are for 7 classes")


def test_own_images_train_and_evaluate(script, tmp_path):
    root = make_folder(tmp_path / "data")
    pairs = ["DATASET.TYPE", "folder", "DATASET.ROOT", root, "SOLVER.EPOCHS", "1"]
    assert script(training_main, "--selected_model", "resnet8", *pairs).status == 0, script.err
    (best,) = script.utils.glob("model_pth/*/best.pth")
    assert script(evaluation_main, "--checkpoint", best).status == 0
    assert script.out.splitlines()[1].split()[-1] == "2"


def test_published_command_distils_on_real_images(script, shared):
    """ShuffleV1 from resnet56 by DKD, the indices 3 1 2, for an epoch."""
    flags = "--selected_student 3 --selected_teacher 1 --selected_distiller 2 --teacher_weights".split()
    weights = shared / "checkpoints" / "best_model_weights_resnet56.pth"
    pairs = ["DATASET.TYPE", "folder", "DATASET.ROOT", shared / "data" / "cifar100_sample", "SOLVER.EPOCHS", "1"]
    assert script(distillation_main, *flags, weights, *pairs, "DATASET.AUGMENT", "weak").status == 0, script.err
    (best,) = script.utils.glob("model_distillation_pth/*_resnet56_ShuffleV1_DKD/best.pth")
    meta = torch.load(best, weights_only=True)["meta"]
    assert meta["num_classes"] == 100 and meta["dataset"]["test_images"] == 916


def test_a_reader_that_has_enough_is_no_error():
    command = f"{sys.executable} {PROJECT}/ImageNet/Utils/distillation_train.py --list | true; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("kind", SPECIAL_FILES)
def test_special_file_as_weights_is_one_line(script, tmp_path, kind):
    make_special(kind, tmp_path / "w.pth")
    script(distillation_main, *PAIR, "--teacher_weights", tmp_path / "w.pth", *TINY).fails_with("cannot read weights")
    script(evaluation_main, "--checkpoint", tmp_path / "w.pth").fails_with("cannot read weights", "w.pth")
    assert list(script.utils.iterdir()) == []


def test_teacher_of_tiny_imagenet_is_found_where_mdistiller_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "PROJECT", tmp_path)
    folder = tmp_path / "download_ckpts/tiny_imagenet_teachers/ResNet18_vanilla"
    folder.mkdir(parents=True)
    for name in ("a", "student_best"):
        (folder / name).touch()
    cfg = CFG.clone()
    cfg.DATASET.TYPE, cfg.DISTILLER.TEACHER = "tiny_imagenet", "ResNet18"
    data = {"type": "tiny_imagenet", "classes": ["a"]}
    assert teachers.find_teacher_weights(CIFAR100, cfg, tmp_path, data) == (folder / "student_best", [])


def test_evaluation_takes_one_process(script, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="evaluation takes one process; type python, not torchrun"):
        evaluation_main(script.utils, [])


@pytest.mark.parametrize("other", ["FREEZE_BN", "COMPILE"])
def test_synchronised_batch_norms_and_what_takes_their_effect_are_refused(script, other):
    script(training_main, *TINY, "SOLVER.SYNC_BN", "True", f"SOLVER.{other}", "True").fails_with(
        f"SOLVER.SYNC_BN and SOLVER.{other} cannot be together"
    )


def test_frozen_batch_norms_keep_their_statistics(script):
    assert script(training_main, *TINY, "--selected_model", "resnet8", "SOLVER.FREEZE_BN", "True").status == 0
    (path,) = script.utils.glob("model_pth/*/last.pth")
    student = torch.load(path, weights_only=True)["model"]
    assert all((values == 0).all() for name, values in student.items() if name.endswith("running_mean"))
    assert any(not (values == 1).all() for name, values in student.items() if name.endswith("bn1.weight"))
