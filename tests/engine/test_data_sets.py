"""The scripts on published sets, on images that a CSV file lists, and with wrong labels."""

import re

import pytest
import torch
import yaml

from mdistiller.dataset.torchvision_sets import TORCHVISION_SETS
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100, IMAGENET, benchmark_of
from mdistiller.models import build_model
from tests.dataset.layouts import make
from tests.dataset.test_folder import save
from tests.engine.conftest import TINY, Script

RESNET8 = ("--selected_model", "resnet8")
SHORT = ("SOLVER.EPOCHS", "1", "SOLVER.BATCH_SIZE", "4", "DATASET.NUM_WORKERS", "0")
KINDS = "cifar10", "svhn", "stl10", "flowers102", "food101", "oxford_pets"


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """Makes a small copy of a set of torchvision, and returns the pairs that name it."""

    def of(kind):
        if TORCHVISION_SETS[kind].package:
            pytest.importorskip(TORCHVISION_SETS[kind].package)
        return "DATASET.TYPE", kind, "DATASET.ROOT", make(kind, tmp_path / kind, monkeypatch)

    return of


@pytest.fixture
def csv(tmp_path):
    """The pairs that name a CSV file of ten images of two classes."""
    lines = ["file,label,split"]
    for number in range(10):
        save(tmp_path / f"images/bär{number}.png", colour=(20 * number,) * 3)
        lines.append(f"images/bär{number}.png,{'猫Ä'[number % 2]},{'test' if number > 6 else 'train'}")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return "DATASET.TYPE", "csv", "DATASET.ROOT", tmp_path / "labels.csv"


def log_of(script):
    """What the only run has logged, in one line."""
    (log,) = script.utils.glob("*_train_log/*.log")
    return re.sub(r"\n[-\d:, ]+ - +", " ", log.read_text(encoding="utf-8"))


def best(script):
    return max(script.utils.glob("model_pth/*/best.pth"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_trained_and_tested_on_each_set(script, copy, kind):
    script(training_main, *RESNET8, *copy(kind), *SHORT)
    assert script.status == 0, script.err
    row = TORCHVISION_SETS[kind]
    side = row.image_size or 32
    assert f"4 test images of {side}x{side} pixels" in log_of(script) and f"{kind} in " in log_of(script)
    assert ("3 validation (val)" in log_of(script)) == (kind == "flowers102")
    script(evaluation_main, "--checkpoint", best(script), "--per_class")
    assert script.status == 0, script.err
    assert script.out.splitlines()[1].startswith(kind) and script.out.splitlines()[1].endswith(" 4")


def test_a_network_is_trained_and_tested_on_a_csv_file_s_images(script, csv):
    script(training_main, *RESNET8, *csv, *SHORT, "DATASET.VAL_FRACTION", "0.3")
    assert script.status == 0, script.err
    assert "2 classes; 5 training, 2 validation (30 % of the training images), 3 test images" in log_of(script)
    script(evaluation_main, "--checkpoint", best(script), "--per_class")
    assert script.status == 0 and "猫" in script.out, script.err


def test_a_csv_file_without_splits_is_tested_on_and_not_trained_on(script, csv):
    script(training_main, *RESNET8, *csv, *SHORT)
    (csv[-1]).write_text("file,label\nimages/bär0.png,猫\n", encoding="utf-8")
    script(evaluation_main, "--checkpoint", best(script))
    assert script.status == 0 and "Warning" not in script.err, script.err
    script(training_main, *RESNET8, *csv, *SHORT).fails_with("labels.csv has no column split")


@pytest.mark.parametrize(("network", "benchmark", "size"), [("resnet8", CIFAR100, 32), ("ResNet18", IMAGENET, 224)])
def test_bare_weights_are_tested_on_images_of_their_networks_size(script, csv, tmp_path, network, benchmark, size):
    torch.save(build_model(benchmark.models, network, 2).state_dict(), tmp_path / "bare.pth")
    script(evaluation_main, "--checkpoint", tmp_path / "bare.pth", "--model", network, *csv)
    assert script.status == 0 and script.out.splitlines()[1].endswith(" 3"), script.err
    assert benchmark_of("csv", network).side == size


def test_a_csv_file_of_one_class_is_refused(script, csv):
    (csv[-1]).write_text("file,label,split\nimages/bär0.png,a,train\nimages/bär1.png,a,test\n", encoding="utf-8")
    script(training_main, *RESNET8, *csv, *SHORT).fails_with("one class only, 'a'")


@pytest.mark.parametrize(("benchmark", "side"), [("CIFAR-100", 32), ("ImageNet", 224)])
def test_photographs_are_of_the_size_that_the_networks_are_made_for(tmp_path, benchmark, side):
    script = Script(tmp_path, IMAGENET) if benchmark == "ImageNet" else Script(tmp_path)
    script(training_main, "DATASET.TYPE", "food101", "--print_cfg")
    assert yaml.safe_load(script.out)["DATASET"]["IMAGE_SIZE"] == side


def test_the_networks_of_imagenet_train_on_photographs(tmp_path, copy):
    script = Script(tmp_path, IMAGENET)
    pairs = (*copy("oxford_pets"), *SHORT, "DATASET.IMAGE_SIZE", "128")
    script(training_main, "--selected_model", "MobileNetV1", *pairs)
    assert script.status == 0, script.err
    script(evaluation_main, "--checkpoint", best(script))
    assert script.status == 0 and script.out.splitlines()[1].startswith("oxford_pets"), script.err


def test_a_teacher_that_is_missing_is_one_line_with_the_set_in_its_command(script, copy):
    pair = "--selected_student resnet8 --selected_teacher resnet14 --selected_distiller KD".split()
    script(distillation_main, *pair, *copy("stl10"), *SHORT).fails_with("train it", "DATASET.TYPE stl10")


NOISE = ("DATASET.LABEL_NOISE", "0.25")


def test_label_noise_is_in_the_log_s_head_and_in_the_names(script):
    script(training_main, *RESNET8, *TINY, *NOISE, "SOLVER.EPOCHS", "1")
    assert script.status == 0, script.err
    assert "label noise 0.25" in log_of(script)
    assert best(script).parent.name.endswith("_resnet8-noise0.25")
    assert (script.utils / "model_pth/best_model_weights_resnet8-noise0.25.pth").is_file()


def test_a_teacher_of_the_same_wrong_labels_comes_first(script):
    for noise in ((), NOISE):
        script(training_main, *RESNET8, *TINY, *noise, "SOLVER.EPOCHS", "1")
    pair = "--selected_student resnet8 --selected_teacher resnet8 --selected_distiller KD".split()
    script(distillation_main, *pair, *TINY, *NOISE, "SOLVER.EPOCHS", "1")
    assert script.status == 0, script.err
    (config,) = script.utils.glob("distiller_train_log/*.yaml")
    teacher = yaml.safe_load(config.read_text())["DISTILLER"]["TEACHER_WEIGHTS"]
    assert teacher.endswith("best_model_weights_resnet8-noise0.25.pth")


def test_a_run_with_wrong_labels_goes_on_and_not_with_others(script):
    script(training_main, *RESNET8, *TINY, *NOISE, "SOLVER.EPOCHS", "1")
    script(training_main, "--resume", "SOLVER.EPOCHS", "2")
    assert script.status == 0, script.err
    script(training_main, "--resume", "SOLVER.EPOCHS", "3", "DATASET.LABEL_NOISE", "0.5").fails_with(
        "DATASET.LABEL_NOISE 0.5, was 0.25"
    )


@pytest.mark.parametrize("value", ["-0.1", "1.5", "25"])
def test_a_share_out_of_its_range_is_one_line(script, value):
    script(training_main, *TINY, "DATASET.LABEL_NOISE", value).fails_with("DATASET.LABEL_NOISE is", "from 0 to 1")


def test_label_noise_has_no_effect_on_an_evaluation(script):
    script(training_main, *RESNET8, *TINY, "SOLVER.EPOCHS", "1")
    script(evaluation_main, "--checkpoint", best(script), *NOISE).fails_with("DATASET.LABEL_NOISE has no effect")
