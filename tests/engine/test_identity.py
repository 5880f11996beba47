"""What makes runs the same: names of variants, data by its fingerprint, the published name, and teachers."""

import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from mdistiller.distillers import find_method
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.identity import is_same_data, with_variant
from mdistiller.engine.index import CIFAR100
from mdistiller.engine.resolve import Choices, distillation_config
from mdistiller.engine.runlog import RunLog
from mdistiller.engine.runs import RunFiles, published_names, published_weights, save_best
from mdistiller.models import build_model
from tests.engine.conftest import TINY
from tests.engine.test_archive import SPECIAL_FILES, make_special

CPU = torch.device("cpu")
ONE_EPOCH = [*TINY, "SOLVER.EPOCHS", "1"]
PAIR = "--selected_student resnet8 --selected_teacher resnet14".split()
DATA = {"type": "folder", "classes": ["a", "b"], "fingerprints": {"train": "1", "test": "2"}}


def label(method, *pairs):
    cfg = distillation_config(CIFAR100, Choices(selected_distiller=method, pairs=pairs), CPU)
    kind = find_method(cfg.DISTILLER.TYPE)
    return with_variant(kind.__name__, cfg, kind)


@pytest.mark.parametrize("method", CIFAR100.distillers.values())
def test_a_plain_preset_has_the_method_s_name(method):
    assert label(method) == method


@pytest.mark.parametrize(
    ("expected", "method", "pairs"),
    [
        ("KD-dot", "KD", "SOLVER.TRAINER dot"),
        ("KD-bf16", "KD", "SOLVER.AMP bf16"),
        ("KD-standardised", "KD", "DISTILLER.LOGIT_STANDARDIZATION True"),
        ("SKD-paper", "SKD", "SKD.FORM paper"),
        (
            "MLKD-two-view-intended-dot",
            "MLKD",
            "MLKD.VIEWS 2 MLKD.FORM intended DATASET.AUGMENT two-view SOLVER.TRAINER dot",
        ),
        ("CRD+mine+a,b", "CRD", "EXPERIMENT.NAME mine EXPERIMENT.TAG a,b"),
    ],
)
def test_a_variant_says_what_it_is(expected, method, pairs):
    assert label(method, *pairs.split()) == expected


def test_a_user_s_file_is_a_variant_of_its_own(tmp_path):
    (tmp_path / "KD.py").write_text("from ._base import Distiller\n\n\nclass KD(Distiller):\n    pass\n")
    first = label(f"{tmp_path}/KD.py:KD")
    (tmp_path / "KD.py").write_text("from ._base import Distiller\n\n\nclass KD(Distiller):\n    other = 1\n")
    assert first.startswith("KD-file.") and label(f"{tmp_path}/KD.py:KD") != first


@pytest.mark.parametrize("change", [{"train": "9", "test": "2"}, {"train": "1", "test": "9"}, {"train": "1"}])
def test_other_fingerprints_are_other_data(change):
    assert is_same_data(DATA, DATA | {"type": "tiny_imagenet"})
    assert not is_same_data(DATA, DATA | {"fingerprints": change})


def test_data_of_an_older_file_is_compared_by_what_it_tells():
    older = {"type": "folder", "classes": ["a", "b"]}
    assert is_same_data(older, DATA) and not is_same_data(older | {"classes": ["a", "c"]}, DATA)


def files_of(folder, run):
    weights = folder / run
    weights.mkdir(parents=True)
    return RunFiles(run, folder / "log", folder / "logs", weights, folder / "best_model_weights_net.pth")


def content_of(run, top1, **meta):
    return {"model": {"w": torch.tensor([top1])}, "meta": {"run": run, "top1": top1, "dataset": DATA, **meta}}


def published_run(folder):
    return torch.load(folder / "best_model_weights_net.pth", weights_only=True)["meta"].get("run")


def test_a_tie_keeps_the_published_name(tmp_path):
    assert save_best(files_of(tmp_path, "first"), content_of("first", 50.0)) is None
    assert "top-1 50.00" in save_best(files_of(tmp_path, "second"), content_of("second", 50.0))
    assert published_run(tmp_path) == "first"


@pytest.mark.parametrize(
    "meta",
    [
        {"dataset": {"type": "synthetic"}},
        {"run": "x", "dataset": {"type": "synthetic"}, "top1": 95},
        {"run": "x", "top1": 1.0},
        {},
        "text",
    ],
)
def test_weights_of_unknown_origin_keep_the_published_name(tmp_path, meta):
    path = tmp_path / "best_model_weights_net.pth"
    torch.save({"model": {"w": torch.ones(1)}, "meta": meta}, path)
    before = path.read_bytes()
    assert "names no run of ours" in save_best(files_of(tmp_path, "mine"), content_of("mine", 99.0))
    assert path.read_bytes() == before


def save_at_once(barrier, folder, run, top1):
    files = files_of(folder, run)
    barrier.wait()
    save_best(files, content_of(run, top1))


def test_the_best_of_runs_that_end_together_has_the_published_name(tmp_path):
    spawn, runs = multiprocessing.get_context("fork"), 4
    for number in range(30):
        folder, barrier = tmp_path / str(number), spawn.Barrier(runs)
        scores = [float((number + i) % runs) for i in range(runs)]
        workers = [
            spawn.Process(target=save_at_once, args=(barrier, folder, f"run{i}", score))
            for i, score in enumerate(scores)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert published_run(folder) == f"run{scores.index(max(scores))}"


def folder_of(root, seed):
    """Two classes, 6 training and 4 test images each, of flat colours that `seed` draws."""
    generator = torch.Generator().manual_seed(seed)
    for split, count in (("train", 6), ("test", 4)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                colour = tuple(torch.randint(256, (3,), generator=generator).tolist())
                Image.new("RGB", (32, 32), colour).save(root / split / name / f"{i}.png")
    return ["DATASET.TYPE", "folder", "DATASET.ROOT", root]


def set_top1(path, top1):
    content = torch.load(path, weights_only=True)
    content["meta"]["top1"] = top1
    torch.save(content, path)


def told(out):
    """What a log tells, of which it wraps long lines."""
    return " ".join(line.partition(" - ")[2].strip() for line in out.splitlines())


def test_the_teacher_is_the_best_trained_on_this_very_data(script, tmp_path):
    train = ["--selected_model", "resnet14", "SOLVER.EPOCHS", "1"]
    data = folder_of(tmp_path / "data", 0)
    script(training_main, *train, *data)
    (old,) = script.utils.glob("model_pth/*/best.pth")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "data/train/cat/more.png")
    script(training_main, *train, *data)
    (new,) = {*script.utils.glob("model_pth/*/best.pth")} - {old}
    set_top1(old, 100.0)
    set_top1(new, 1.0)
    assert script(distillation_main, *PAIR, *data, "SOLVER.EPOCHS", "1").status == 0, script.err
    (saved,) = script.utils.glob("distiller_train_log/*.yaml")
    assert yaml.safe_load(saved.read_text())["DISTILLER"]["TEACHER_WEIGHTS"] == str(new)
    assert f"{old.parent.name[-9:]}/best.pth" in script.out and "of other data, with a top-1 of" in told(script.out)
    shutil.rmtree(new.parent)
    script(distillation_main, *PAIR, *data, "SOLVER.EPOCHS", "1")
    assert script.status == 0, script.err
    assert "Warning: the teacher's weights are of other data" in script.out


def test_a_missing_teacher_s_command_carries_the_data(script, tmp_path):
    data = folder_of(tmp_path / "my set", 0)
    script(distillation_main, *PAIR, *data, "DATASET.IMAGE_SIZE", "40").fails_with(
        "--selected_model resnet14 DATASET.TYPE folder DATASET.ROOT '", "my set' DATASET.IMAGE_SIZE 40"
    )


@pytest.fixture
def teacher(script):
    torch.manual_seed(0)
    path = script.utils / "teacher.pth"
    torch.save(build_model("cifar100", "resnet14", 36).state_dict(), path)
    return path


def test_the_teacher_is_evaluated_and_one_near_chance_is_a_warning(script, teacher):
    script(distillation_main, *PAIR, "--teacher_weights", teacher, *ONE_EPOCH)
    assert "Teacher's Top-1 Accuracy: " in script.out and "the teacher is near chance (2.8 %)" in script.out
    (best,) = script.utils.glob("model_distillation_pth/*/best.pth")
    meta = torch.load(best, weights_only=True)["meta"]
    assert 0 <= meta["teacher_top1"] < 13 and len(meta["teacher_sha256"]) == 64


def test_a_config_whose_teacher_has_changed_says_so(script, teacher):
    script(distillation_main, *PAIR, "--teacher_weights", teacher, *ONE_EPOCH)
    (saved,) = script.utils.glob("distiller_train_log/*.yaml")
    script(distillation_main, "--cfg", saved)
    assert script.status == 0 and "has changed" not in script.out
    torch.save(build_model("cifar100", "resnet14", 36).state_dict(), teacher)
    script(distillation_main, "--cfg", saved)
    assert script.status == 0 and "Warning: the teacher's file has changed" in script.out


def test_a_config_whose_images_have_changed_says_so(script, tmp_path):
    data = folder_of(tmp_path / "data", 0)
    script(training_main, "--selected_model", "resnet8", *data, "SOLVER.EPOCHS", "1")
    (saved,) = script.utils.glob("model_train_log/*.yaml")
    assert script(training_main, "--cfg", saved).status == 0 and "have changed" not in script.out
    Image.new("RGB", (32, 32), "red").save(tmp_path / "data/test/cat/more.png")
    assert script(training_main, "--cfg", saved).status == 0 and "Warning: the images have changed" in script.out


def test_weights_for_another_number_of_classes_say_both_numbers(script, tmp_path):
    script(training_main, "--selected_model", "resnet8", *folder_of(tmp_path / "data", 0), "SOLVER.EPOCHS", "1")
    (best,) = script.utils.glob("model_pth/*/best.pth")
    script(evaluation_main, "--checkpoint", best, "DATASET.TYPE", "synthetic").fails_with(
        "were trained on 2 classes, the data has 36"
    )


def test_validation_images_choose_and_the_test_images_are_asked_once(script):
    pairs = ["DATASET.VAL_FRACTION", "0.25", "DATASET.SYNTHETIC.TRAIN_IMAGES", "144"]
    assert script(training_main, "--selected_model", "resnet8", *TINY, *pairs).status == 0, script.err
    lines = [line.partition(" - ")[2] for line in script.out.splitlines()]
    assert sum(line.startswith("Validation Loss: ") for line in lines) == 2
    assert sum(line.startswith("Test Loss: ") for line in lines) == 1
    assert any(line.startswith("Best Validation Top-1 Accuracy: ") for line in lines)
    (metrics,) = script.utils.glob("model_train_log/*/metrics.csv")
    header, first, _ = (line.split(",") for line in metrics.read_text().splitlines())
    row = dict(zip(header, first, strict=True))
    assert row["test_top1"] == "" and float(row["validation_top1"]) >= 0
    (best,) = script.utils.glob("model_pth/*/best.pth")
    assert torch.load(best, weights_only=True)["meta"]["chosen_by"] == "25 % of the training images"
    assert "(chosen by 25 % of the training images)" in script(evaluation_main, "--checkpoint", best).out


@pytest.mark.parametrize("kind", SPECIAL_FILES)
def test_a_special_file_at_the_published_name_is_kept_and_named(kind, tmp_path):
    path = tmp_path / "best_model_weights_net.pth"
    make_special(kind, path)
    before = os.lstat(path)
    line = save_best(files_of(tmp_path, "mine"), content_of("mine", 99.0))
    assert line.startswith(f"Kept {path}") and "\n" not in line and os.lstat(path) == before


def test_a_published_name_is_read_back():
    assert published_names(published_weights(Path("a"), "wrn_16_2", "KD-dot")) == "wrn_16_2_KD-dot"
    assert published_names(Path("best_model_weights_.pth")) is published_names(Path("best.pth")) is None


def test_text_of_a_file_reaches_the_log_escaped(script):
    files = files_of(script.utils, "run")
    for folder in (script.utils / "a", files.folder):
        folder.mkdir()
    with RunLog(replace(files, log=script.utils / "a" / "b.log"), "") as log:
        log.line("teacher \x1b[31m\u202e\x9b2J\nred")
    text = (script.utils / "a" / "b.log").read_text()
    assert text.endswith("teacher \\x1b[31m\\u202e\\x9b2J red\n")
