"""The identity of runs where it is met less often: baselines, SDD's folders, ImageNet's scripts and the demo."""

import pytest
import torch
from PIL import Image

from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100, IMAGENET
from tests.engine.conftest import TINY, Script
from tests.engine.test_identity import folder_of, set_top1

ONE_EPOCH = [*TINY, "SOLVER.EPOCHS", "1"]
SMALL_PHOTOGRAPHS = (
    "DATASET.TYPE imagenet DATASET.IMAGE_SIZE 32 DATASET.NUM_WORKERS 0 SOLVER.BATCH_SIZE 6 SOLVER.LR 0.001"
).split()


def run_of(path):
    return torch.load(path, weights_only=True)["meta"]["run"]


@pytest.fixture(params=[CIFAR100, IMAGENET], ids=lambda benchmark: benchmark.label)
def either(request, tmp_path):
    """The scripts of a benchmark, flags that train its smallest network on class folders, and that network."""
    script = Script(tmp_path, request.param)
    if request.param is CIFAR100:
        return script, ["DATASET.TYPE", "folder"], "resnet8"
    return script, SMALL_PHOTOGRAPHS, "MobileNetV1"


def images_at(root, seed, benchmark):
    folder_of(root, seed)
    if benchmark is IMAGENET:
        (root / "test").rename(root / "val")
    return ["DATASET.ROOT", root]


def test_a_baseline_on_other_images_keeps_the_published_name_of_the_first(either, tmp_path):
    script, data, network = either
    for number in (0, 1):
        root = images_at(tmp_path / str(number), number, script.benchmark)
        script(training_main, "--selected_model", network, *data, *root, "SOLVER.EPOCHS", "1")
        assert script.status == 0, script.err
        published = script.utils / f"model_pth/best_model_weights_{network}.pth"
        if number == 0:
            set_top1(published, 0.0)  # so that the second would win
            first = run_of(published)
    assert run_of(published) == first
    assert "Kept " in script.out


def test_a_baseline_s_variant_has_a_published_name_of_its_own(either, tmp_path):
    script, data, network = either
    flags = ["--selected_model", network, *data, *images_at(tmp_path / "data", 0, script.benchmark)]
    script(training_main, *flags, "SOLVER.EPOCHS", "1")
    script(training_main, *flags, "SOLVER.EPOCHS", "1", "EXPERIMENT.TAG", "long", "SOLVER.AMP", "bf16")
    assert script.status == 0, script.err
    names = {path.name for path in script.utils.glob("model_pth/*.pth")}
    assert names == {f"best_model_weights_{network}.pth", f"best_model_weights_{network}-bf16-long.pth"}


def test_images_that_changed_since_a_saved_config_are_a_warning(either, tmp_path):
    script, data, network = either
    root = images_at(tmp_path / "data", 0, script.benchmark)
    script(training_main, "--selected_model", network, *data, *root, "SOLVER.EPOCHS", "1")
    (saved,) = script.utils.glob("model_train_log/*.yaml")
    assert script(training_main, "--cfg", saved).status == 0 and "have changed" not in script.out
    for number in range(2):  # a last batch of one image is too small for a batch norm
        Image.new("RGB", (32, 32), "red").save(tmp_path / f"data/train/cat/more{number}.png")
    assert script(training_main, "--cfg", saved).status == 0, script.err
    assert "Warning: the images have changed" in script.out


def test_a_teacher_near_chance_is_a_warning_of_imagenet_s_script_too(tmp_path):
    script = Script(tmp_path, IMAGENET)
    data = [*SMALL_PHOTOGRAPHS, *images_at(tmp_path / "data", 0, IMAGENET)]
    script(training_main, "--selected_model", "MobileNetV1", *data, "SOLVER.EPOCHS", "1", "SOLVER.LR", "1e-9")
    (best,) = script.utils.glob("model_pth/*/best.pth")
    pair = ["--selected_student", "MobileNetV1", "--selected_teacher", "MobileNetV1", "--teacher_weights", best]
    assert script(distillation_main, *pair, *data, "SOLVER.EPOCHS", "1").status == 0, script.err
    assert "Teacher's Top-1 Accuracy: 50.00" in script.out and "the teacher is near chance" in script.out


SDD = "--distiller SDD --selected_student resnet8 --selected_teacher resnet8".split()


def test_sdd_s_variants_and_ties_are_kept_apart_in_its_own_folder(script):
    script(training_main, "--selected_model", "resnet8", *ONE_EPOCH)
    for pairs in ([], [], ["SOLVER.TRAINER", "dot"]):
        assert script(distillation_main, *SDD, *ONE_EPOCH, *pairs).status == 0, script.err
    folder = script.utils / "SDD_model_pth"
    published = {path.name for path in folder.glob("*.pth")}
    assert published == {"best_model_weights_resnet8_SDD.pth", "best_model_weights_resnet8_SDD-dot.pth"}
    first, *_ = sorted(folder.glob("*_SDD/best.pth"), key=lambda path: path.stat().st_mtime)
    assert run_of(folder / "best_model_weights_resnet8_SDD.pth") == run_of(first)  # of two equal runs
    assert not list(script.utils.glob("model_distillation_pth/*"))
    rows = [line for line in script(evaluation_main).out.splitlines() if " SDD" in line]
    assert len(rows) == 3


def test_the_demo_s_networks_are_no_teachers_and_no_rivals_of_others(script):
    script(distillation_main, "--demo", *ONE_EPOCH, "DISTILLER.TEACHER", "resnet8", "DISTILLER.STUDENT", "resnet8")
    assert script.status == 0, script.err
    assert not list(script.utils.glob("model_pth/*.pth"))
    script(distillation_main, "--selected_student", "resnet8", "--selected_teacher", "resnet8", *ONE_EPOCH)
    script.fails_with("no weights of the teacher resnet8")
