"""The identity of runs where it is met less often: baselines, SDD's folders, ImageNet's scripts and the demo."""

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mdistiller.dataset import build_data
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100, IMAGENET
from mdistiller.engine.resolve import Choices, distillation_config
from mdistiller.engine.runs import save_best
from mdistiller.engine.teachers import training_command
from tests.engine.conftest import TINY, Script
from tests.engine.test_identity import CPU, content_of, files_of, folder_of, label, published_run, set_top1, told

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
    assert names == {f"best_model_weights_{network}.pth", f"best_model_weights_{network}-bf16+long.pth"}


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


@pytest.mark.parametrize(
    "pairs",
    [
        ["SKD.FORM", "paper"],
        ["EXPERIMENT.TAG", "paper"],
        ["EXPERIMENT.TAG", "a b"],
        ["EXPERIMENT.TAG", "a-b"],
        ["EXPERIMENT.TAG", "a/b"],
        ["EXPERIMENT.TAG", "???"],
        ["EXPERIMENT.TAG", "x" * 60],
        ["EXPERIMENT.TAG", "x" * 61],
        ["EXPERIMENT.TAG", "教" * 60],
    ],
)
def test_every_variant_has_a_label_of_its_own_that_a_file_can_have(pairs):
    others = [["SKD.FORM", "paper"], *(["EXPERIMENT.TAG", tag] for tag in ("paper", "a b", "a-b", "a/b", "???"))]
    labels = [label("SKD", *other) for other in (*others, []) if other != pairs]
    assert label("SKD", *pairs) not in labels
    assert len(label("SKD", *pairs).encode()) < 100 and "/" not in label("SKD", *pairs)


@pytest.mark.parametrize("run", ["never-was", "../first", "first"])
def test_weights_that_are_no_copy_of_the_run_they_name_are_not_displaced(tmp_path, run):
    save_best(files_of(tmp_path, "first"), content_of("first", 90.0, epoch=9))
    published = tmp_path / "best_model_weights_net.pth"
    torch.save({**content_of(run, 1.0, epoch=9), "model": {"w": torch.ones(2)}}, published)
    assert "no copy of a run's best" in save_best(files_of(tmp_path, "second"), content_of("second", 50.0, epoch=1))
    assert published_run(tmp_path) == run


def test_the_published_best_of_a_run_that_was_killed_before_it_published_a_better_one_gives_way(tmp_path):
    first = files_of(tmp_path, "first")
    save_best(first, content_of("first", 40.0, epoch=1))
    torch.save(content_of("first", 45.0, epoch=2), first.best)
    assert save_best(files_of(tmp_path, "second"), content_of("second", 50.0, epoch=1)) is None


def test_another_network_of_the_same_name_keeps_the_published_name(tmp_path):
    save_best(files_of(tmp_path, "first"), content_of("first", 1.0, models="cifar100"))
    kept = save_best(files_of(tmp_path, "second"), content_of("second", 9.0, models="tiny_imagenet"))
    assert "of another network" in kept and published_run(tmp_path) == "first"


def test_synthetic_images_of_two_seeds_are_kept_apart(script):
    for seed in ("0", "5"):
        script(training_main, "--selected_model", "resnet8", *ONE_EPOCH, "DATASET.SYNTHETIC.SEED", seed)
    first, *_ = sorted(script.utils.glob("model_pth/*/best.pth"), key=lambda path: path.stat().st_mtime)
    assert run_of(script.utils / "model_pth/best_model_weights_resnet8.pth") == run_of(first)
    assert "of other data" in told(script.out)


def test_a_tag_that_ends_like_a_network_makes_no_teacher_of_it(script):
    script(training_main, "--selected_model", "resnet8", *ONE_EPOCH, "EXPERIMENT.TAG", "vs_resnet14")
    script(distillation_main, "--selected_student", "resnet8", "--selected_teacher", "resnet14", *ONE_EPOCH)
    script.fails_with("no weights of the teacher resnet14")


def test_a_missing_teacher_s_command_carries_every_key_of_the_data(tmp_path):
    pairs = "DATASET.TYPE synthetic DATASET.SYNTHETIC.SEED 3 DATASET.MEAN [0.5,0.5,0.5] DATASET.AUGMENT none".split()
    cfg = distillation_config(CIFAR100, Choices(selected_distiller="KD", pairs=pairs), CPU)
    command = training_command(CIFAR100, cfg, "resnet14", tmp_path)
    keys = "DATASET.TYPE synthetic DATASET.MEAN '[0.5,0.5,0.5]' DATASET.SYNTHETIC.SEED 3"
    assert command == f"python {tmp_path}/train.py --selected_model resnet14 {keys}"


def test_changed_validation_images_are_a_warning(script, tmp_path):
    data = folder_of(tmp_path / "data", 0)
    folder_of(tmp_path / "more", 1)
    (tmp_path / "more/test").rename(tmp_path / "data/val")
    script(training_main, "--selected_model", "resnet8", *data, "SOLVER.EPOCHS", "1")
    (saved,) = script.utils.glob("model_train_log/*.yaml")
    (tmp_path / "data/val/cat/0.png").unlink()
    script(training_main, "--cfg", saved)
    assert script.status == 0 and "Warning: the images have changed" in script.out


OWN = "from ._base import Distiller\n\n\nclass Mine(Distiller):\n    def losses(self, *_, **__):\n        return {}\n"


def test_a_changed_distiller_file_is_a_warning(script, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    script(training_main, "--selected_model", "resnet8", *ONE_EPOCH)
    pair = "--selected_student resnet8 --selected_teacher resnet8".split()
    script(distillation_main, *pair, "--distiller", f"{tmp_path}/mine.py:Mine", *ONE_EPOCH)
    (saved,) = script.utils.glob("distiller_train_log/*.yaml")
    assert script(distillation_main, "--cfg", saved).status == 0 and "has changed" not in script.out
    (tmp_path / "mine.py").write_text(f"{OWN}# more\n")
    script(distillation_main, "--cfg", saved)
    assert script.status == 0 and "the distiller's file has changed since" in told(script.out)


def test_other_code_than_a_saved_config_s_is_a_warning(script):
    script(training_main, "--selected_model", "resnet8", *ONE_EPOCH)
    (saved,) = script.utils.glob("model_train_log/*.yaml")
    script(training_main, "--cfg", saved, "EXPERIMENT.VERSIONS", "mdistiller 0.0.1")
    assert "Warning: the code has changed since the run of this config" in told(script.out)


def test_a_teacher_chosen_beside_a_config_has_not_the_weights_of_the_config_s(script):
    for name in ("resnet8", "resnet14"):
        script(training_main, "--selected_model", name, *ONE_EPOCH)
    script(distillation_main, "--selected_student", "resnet8", "--selected_teacher", "resnet14", *ONE_EPOCH)
    (saved,) = script.utils.glob("distiller_train_log/*.yaml")
    assert script(distillation_main, "--cfg", saved, "--selected_teacher", "resnet8").status == 0, script.err


def test_a_student_on_images_that_changed_since_is_marked(script, tmp_path):
    data = folder_of(tmp_path / "data", 0)
    script(training_main, "--selected_model", "resnet8", *data, "SOLVER.EPOCHS", "1")
    assert "other images" not in script(evaluation_main, "--all").out
    Image.new("RGB", (32, 32), "red").save(tmp_path / "data/test/cat/more.png")
    assert "(other images than its run was tested on)" in script(evaluation_main, "--all").out


def test_the_fingerprint_does_not_depend_on_free_memory(tmp_path, monkeypatch):
    data = Choices(pairs=list(map(str, folder_of(tmp_path, 0))))
    cfg = distillation_config(CIFAR100, data, CPU)
    held = build_data(cfg, CPU, 0).fingerprints
    monkeypatch.setattr("mdistiller.dataset.available_memory", lambda device: 2**10)
    assert build_data(cfg, CPU, 0).fingerprints == held


def test_validation_s_results_are_called_so_in_tensorboard(script):
    pairs = ["DATASET.VAL_FRACTION", "0.25", "DATASET.SYNTHETIC.TRAIN_IMAGES", "144"]
    script(training_main, "--selected_model", "resnet8", *ONE_EPOCH, *pairs)
    (folder,) = script.utils.glob("model_train_log/*/")
    events = EventAccumulator(str(folder)).Reload()
    assert {"validation/top1", "validation/best_top1", "test/top1"} <= set(events.Tags()["scalars"])
    assert "test/best_top1" not in events.Tags()["scalars"]
