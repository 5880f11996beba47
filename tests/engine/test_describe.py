"""What a run tells of itself: the log's head, hints, commands to copy, and the columns that all of it takes."""

import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mdistiller.distillers import DISTILLERS, find_method
from mdistiller.engine import describe, lines
from mdistiller.engine.board import link_runs, short_name
from mdistiller.engine.cfg import config_for
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.describe import HEAD_LINES, commands, describe_run, hint_of_devices, hints
from mdistiller.engine.index import BENCHMARKS
from mdistiller.engine.provenance import describe_versions, git_commit
from mdistiller.engine.resolve import Choices, distillation_config
from mdistiller.engine.runs import CONFIGS, PROJECT, RunFiles, shown
from mdistiller.models import build_model
from tests.engine.conftest import TINY, Script

PRESETS = sorted(path for name in BENCHMARKS for path in (CONFIGS / name).glob("*.yaml"))
VERSIONS = {"mdistiller": "0.1.0", "torch": "2.14.1+cu130", "python": "3.11.7", "commit": "0123abc+"}


def split(images):
    return SimpleNamespace(device=torch.device("cpu"), image_set=range(images))


def facts(run="2026-01-31-12-00-00_resnet14_resnet8_KD", utils=Path("CIFAR-100/Utils"), val=None, **values):
    """What `describe_run` takes; values: of dotted keys of the config."""
    cfg = config_for(find_method(values.get("DISTILLER.TYPE", "KD")))
    cfg.DISTILLER.update({"TYPE": "KD", "TEACHER": "resnet14", "STUDENT": "resnet8"})
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    data = SimpleNamespace(train=split(50_000), test=split(10_000), num_classes=100, image_size=32)
    data.val, data.val_from = split(val) if val else None, "10 % of the training images" if val else ""
    networks = {"teacher": build_model("cifar100", "resnet14", 100), "student": build_model("cifar100", "resnet8", 100)}
    stem, weights = f"experiment_cifar-100_{run}", utils / "model_distillation_pth"
    logs = utils / "distiller_train_log"
    files = RunFiles(run, logs / f"{stem}.log", logs / stem, weights / run, weights / "best_model_weights.pth")
    meta = {"distiller": find_method(cfg.DISTILLER.TYPE).__name__, "versions": VERSIONS}
    return cfg, meta, data, networks, files


def widest(text):
    return max(map(len, text.splitlines()))


def told(head):
    """The head's words, whatever its lines."""
    return " ".join(" ".join(head).split())


def config_of(path):
    """What a preset resolves to, with a pair of networks where it names none."""
    benchmark = BENCHMARKS[path.parent.name]
    choices = Choices(selected_student=benchmark.students[0], selected_teacher=benchmark.teachers[0], cfg=path)
    return distillation_config(benchmark, choices, torch.device("cpu"))


def test_the_head_tells_what_runs():
    values = {"DATASET.ROOT": str(Path("data").resolve()), "DATASET.AUGMENT": "weak+strong", "SOLVER.AMP": "bf16"}
    head = told(describe_run(*facts(**values)))
    for part in (
        *("cifar100 in data, 100 classes", "50,000 training, 10,000 test", "32x32 pixels"),
        *("teacher resnet14 0.18 M", "student resnet8 0.08 M", "KD: TEMPERATURE 4, LOSS.CE_WEIGHT 0.1"),
        *("SGD of momentum 0.9", "learning rate 0.05, times 0.1 after epoch 150, 180, 210"),
        *("240 epochs", "batch 64", "weak+strong", "seed 2021"),
        *("CPU ", "bf16", "1 process", "mdistiller 0.1.0", "torch 2.14.1", "python 3.11.7", "commit 0123abc+"),
        *("2026-01-31-12-00-00_resnet14_resnet8_KD", "CIFAR-100/Utils/model_distillation_pth/{run}"),
        "CIFAR-100/Utils/distiller_train_log/experiment_cifar-100_{run}",
    ):
        assert part in head, part


def test_the_head_tells_what_the_optimiser_does_beside():
    switches = {"SOLVER.NESTEROV": True, "SOLVER.CLIP_GRAD": 5.0, "SOLVER.NO_DECAY_NORMS": True}
    head = told(describe_run(*facts(**switches)))
    assert "0.9 (Nesterov), weight decay 0.0001 but for norms and biases, gradients clipped at 5, learning" in head
    assert "DOT of delta 0.075" in told(describe_run(*facts(**{"SOLVER.TRAINER": "dot"})))


def test_the_head_tells_the_recipe():
    recipe = {"TYPE": "AdamW", "SCHEDULER": "cosine", "WARMUP_EPOCHS": 5, "ACCUMULATE": 4, "EMA": 0.9999}
    images = {"RANDAUGMENT": 9, "ERASING": 0.25, "MIXUP": 0.8, "CUTMIX": 1.0}
    values = {f"SOLVER.{key}": value for key, value in recipe.items()}
    values |= {f"DATASET.{key}": value for key, value in images.items()} | {"SOLVER.LABEL_SMOOTHING": 0.1}
    head = told(describe_run(*facts(**values)))
    assert "AdamW, weight decay" in head and "momentum" not in head
    assert "weights averaged by 0.9999, learning rate 0.05 after 5 epochs of warm-up, a cosine to 0" in head
    assert "240 epochs, batch 4 x 64, augmentation" in head
    assert "weak, RandAugment 9, erasing 0.25, mixup 0.8, CutMix 1, label smoothing 0.1, seed 2021" in head


def test_the_head_tells_what_the_student_begins_with_and_what_stays():
    values = {"DISTILLER.STUDENT_WEIGHTS": "/weights/first.pth", "DISTILLER.FREEZE": ["conv1", "layer1"]}
    head = told(describe_run(*facts(**values)))
    assert "the student begins with /weights/first.pth; frozen: conv1, layer1" in head


def test_the_head_tells_of_validation_images():
    assert "5,000 validation (10 % of the training images), 10,000 test" in told(describe_run(*facts(val=5_000)))


def test_the_head_leaves_out_keys_that_do_nothing():
    head = told(describe_run(*facts(**{"DISTILLER.TYPE": "CRD"})))
    assert "NCE.K 16384" in head and "NCE.TEMPERATURE 0.07" in head and "STUDENT_DIM" not in head


@pytest.mark.parametrize("kind", list(DISTILLERS))
def test_the_head_fits_for_every_method_with_all_its_settings(kind):
    head = describe_run(*facts(**{"DISTILLER.TYPE": kind}))
    assert len(head) <= HEAD_LINES and max(map(len, head)) <= lines.LINE
    assert "in the config" not in "".join(head)


def test_the_head_fits_at_its_limits():
    long = {
        "DATASET.ROOT": "/data/" + "a_long_folder/" * 20,
        "SOLVER.LR_DECAY_STAGES": list(range(1, 200)),
        "SOLVER.TRAINER": "dot",
        "DISTILLER.STUDENT": "student" * 20,
        "DISTILLER.TEACHER": "teacher" * 20,
    }
    cfg, meta, data, networks, files = facts("2026-01-31-12-00-00_" + "x" * 180, Path("/" + "folder/" * 40), 99, **long)
    cfg.KD.update({f"KEY_{index}": [1.0] * 40 for index in range(50)})
    meta = meta | {"distiller": "KD-" + "tag" * 30, "versions": VERSIONS | {"torch": "2.99.0a0+git" + "f" * 60}}
    head = describe_run(cfg, meta, data, networks, files)
    assert len(head) <= HEAD_LINES and max(map(len, head)) <= lines.LINE
    assert re.search(r"and \d+ more settings in the config", told(head))
    assert [line.split(":")[0] for line in head if line[0] != " "] == [
        *("Data", "Networks", "Method", "Optimiser", "Training", "Device", "Versions", "Run", "Weights", "Log")
    ]


def test_the_head_counts_processes_that_decode(monkeypatch):
    monkeypatch.setattr(describe, "available_cores", lambda: 4)
    assert "1 process and 4 that decode images" in told(describe_run(*facts(**{"DATASET.NUM_WORKERS": 8})))


def test_the_device_of_a_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    cfg, meta, data, networks, files = facts(**{"SOLVER.COMPILE": True})
    data.train.device = torch.device("cuda")
    assert "NVIDIA H100 80GB HBM3, float32, compiled;" in told(describe_run(cfg, meta, data, networks, files))


def git(folder, *arguments):
    settings = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", folder, *settings, *arguments], check=True, capture_output=True, text=True)


def test_the_commit_is_that_of_a_clone(tmp_path, monkeypatch):
    assert git_commit(tmp_path) == ""
    git(tmp_path, "init")
    assert git_commit.__wrapped__(tmp_path) == ""  # without a commit
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    commit = git(tmp_path, "rev-parse", "--short", "HEAD").stdout.strip()
    assert git_commit.__wrapped__(tmp_path) == commit
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert git_commit.__wrapped__(tmp_path) == commit
    (tmp_path / "file").write_text("two")
    assert git_commit.__wrapped__(tmp_path) == f"{commit}+"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert git_commit.__wrapped__(tmp_path) == ""


def test_the_commit_runs_no_program_that_the_clone_names(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "one")
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(hook))
    assert git_commit.__wrapped__(tmp_path).endswith("+") and not (tmp_path / "ran").exists()


def test_versions_hold_the_commit():
    assert "commit" in describe_versions()["versions"]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_presets_get_no_hint(path):
    assert hints(config_of(path)) == []


@pytest.mark.parametrize(
    ("kind", "batch", "lr", "is_far"),
    [
        *(("imagenet", 16, 0.2, True), ("imagenet", 1024, 0.01, True), ("cifar100", 1024, 0.01, True)),
        *(("cifar100", 64, 10.0, True), ("imagenet", 256, 0.1, False), ("imagenet", 128, 0.05, False)),
        *(("imagenet", 64, 0.1, False), ("cifar100", 64, 0.05, False), ("cifar100", 64, 0.01, False)),
        *(("cifar100", 256, 0.1, False), ("cifar100", 16, 0.1, False), ("imagenet", 64, 0.025, False)),
    ],
)
def test_hint_at_a_learning_rate_far_from_its_batch(kind, batch, lr, is_far):
    found = hints(facts(**{"DATASET.TYPE": kind, "SOLVER.BATCH_SIZE": batch, "SOLVER.LR": lr})[0])
    assert len(found) == is_far
    if is_far:
        scaled = float(re.search(r"in proportion it is SOLVER\.LR (\S+)$", found[0])[1])
        assert hints(facts(**{"DATASET.TYPE": kind, "SOLVER.BATCH_SIZE": batch, "SOLVER.LR": scaled})[0]) == []


@pytest.mark.parametrize(
    ("epochs", "stages", "end"),
    [
        (2, [150, 180, 210], "150, 180, 210 are not before the last epoch, 2: the learning rate never falls"),
        (180, [150, 180, 210], "180, 210 are not before the last epoch, 180: the learning rate falls after 150 alone"),
        (211, [150, 180, 210], None),
        (2, [], None),
    ],
)
def test_hint_at_stages_that_never_come(epochs, stages, end):
    found = hints(facts(**{"SOLVER.EPOCHS": epochs, "SOLVER.LR_DECAY_STAGES": stages})[0])
    assert found == [f"Hint: SOLVER.LR_DECAY_STAGES {end}"] if end else found == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (2940, "49 min"), (3599, "1 h 0 min")),
        *((5400, "1 h 30 min"), (47 * 3600, "47 h 0 min"), (100 * 3600, "4 d 4 h")),
    ],
)
def test_durations_are_read_at_a_glance(seconds, text):
    assert lines.duration(seconds) == text


def test_an_epoch_tells_its_speed_and_what_is_left():
    assert (
        describe.describe_epoch("epoch 3", 50_000, 12.3, 2940)
        == "Epoch 3 took 12.3 s, 4,065 images a second; 49 min left"
    )
    assert describe.describe_epoch("epoch 240", 100, 0.5, 0) == "Epoch 240 took 0.5 s, 200 images a second"


def test_paths_below_the_working_directory_are_relative():
    folder = Path("/data")
    assert lines.as_lines("Kept /data/a.pth, not /mnt/data/a.pth", folder) == ["Kept a.pth, not /mnt/data/a.pth"]
    assert lines.as_lines("see https://a.b//c of '/data/x'", folder) == ["see https://a.b//c of 'x'"]
    assert lines.as_lines("see https://a.b//c", Path("/")) == ["see https://a.b//c"]


def test_a_long_message_is_wrapped_and_a_long_path_keeps_its_end():
    found = lines.as_lines(f"Kept /{'folder/' * 30}best.pth, of other data; " + "and more words " * 9, Path("/x"))
    assert len(found) > 2 and max(map(len, found)) <= lines.LINE
    assert re.match(r"Kept /folder/.*\.\.\..*/best\.pth, of other data", told(found))


@pytest.mark.parametrize("utils", ["CIFAR-100/Utils", "/" + "long folder/" * 30 + "Utils", "/it's/" + "x" * 300])
def test_commands_fit_and_mean_what_they_would_in_one_line(utils, monkeypatch):
    monkeypatch.setattr(describe, "link_runs", lambda utils: utils / "tensorboard")
    files = facts(utils=Path(utils))[-1]
    printed = commands(files)
    assert max(map(len, printed)) <= lines.COLUMNS
    text = "\n".join(printed).replace("\\\n", "")
    repeat, evaluate, tensorboard = (shlex.split(line)[1:] for line in text.splitlines())
    assert repeat == ["python", f"{utils}/distillation_train.py", "--cfg", str(files.config)]
    assert evaluate == ["python", shown(PROJECT / "test.py"), "--checkpoint", str(files.best)]
    assert tensorboard == ["tensorboard", "--logdir", f"{utils}/tensorboard"]
    shell = "\n".join(printed).split("\nEvaluate:")[0].replace("Repeat:", "printf '%s\n'")
    assert subprocess.run(["bash", "-c", shell], capture_output=True, text=True).stdout.splitlines() == repeat


@pytest.mark.parametrize("title", ["resnet8", "resnet32x4_MobileNetV2_ReviewKD", "wrn_40_2_wrn_16_2_KD-" + "tag" * 40])
def test_names_in_tensorboard_are_short_and_differ(title):
    stems = [f"experiment_cifar-100_2026-01-31-12-00-0{again}_{title}" for again in ("1", "2", "1-2", "1-999")]
    names = [short_name(stem) for stem in stems]
    assert len(set(names)) == 4 and max(map(len, names)) < 40
    assert names[0].startswith("0131-120001_") and names[0].endswith(title[-15:])


@pytest.fixture
def deep(tmp_path):
    return Script(tmp_path / "/".join(["a_folder_with_a_long_name"] * 5))


def test_no_line_of_a_run_is_too_long(deep):
    name = ["EXPERIMENT.TAG", "a-long-tag-" * 5, "EXPERIMENT.NAME", "a-long-name-" * 5]
    pairs = [*TINY, *name, "SOLVER.LR", "1e-7"]
    teacher = ["--selected_model", "resnet14", "--device", "cpu", *pairs]
    pair = ["--selected_teacher", "resnet14", "--selected_student", "resnet8", "--selected_distiller", "CRD", *pairs]
    for main, flags in ((training_main, teacher), (training_main, teacher), (distillation_main, pair)):
        assert deep(main, *flags).status == 0, deep.err
        published = [line for line in deep.out.splitlines() if " - Running main with " in line]
        assert len(published) == 1
        assert widest(deep.out.replace(published[0], "")) <= lines.COLUMNS
    for log in deep.utils.rglob("*.log"):
        text = "".join(line for line in log.read_text().splitlines(True) if " - Running main with " not in line)
        assert widest(text) <= lines.COLUMNS
    for part in (
        "Hint: SOLVER.LR_DECAY_STAGES",
        "Hint: SOLVER.LR 1e-07",
        "Teacher's weights:",
        ", float32; 1 process\n",
    ):
        assert part in deep.out


def test_the_commands_at_the_end_work(deep):
    deep(training_main, "--selected_model", "resnet8", "--device", "cpu", *TINY)
    text = deep.out.replace("\\\n", "")
    repeat, evaluate, tensorboard = (shlex.split(line)[1:] for line in text.splitlines()[-3:])
    assert "Repeat:" not in next(deep.utils.glob("*/*.log")).read_text()
    first = {Path(path).parent for path in deep.utils.glob("model_pth/*/best.pth")}
    assert deep(evaluation_main, *evaluate[2:]).status == 0, deep.err
    assert Path(repeat[1]) == deep.utils / "train.py"
    assert deep(training_main, *repeat[2:]).status == 0, deep.err
    assert len(set(deep.utils.glob("model_pth/*/")) - first) == 1
    runs = sorted(Path(tensorboard[-1]).iterdir())
    assert [run.resolve().parent.name for run in runs] == ["model_train_log"] * 2


def test_links_of_runs_that_are_gone_go_too(script):
    for folder in ("distiller_train_log", "SDD_train_log", "model_train_log"):
        (script.utils / folder / f"experiment_cifar-100_2026-01-31-12-00-00_{folder[0]}").mkdir(parents=True)
    folder = link_runs(script.utils)
    assert len(list(folder.iterdir())) == 3
    (script.utils / "SDD_train_log" / "experiment_cifar-100_2026-01-31-12-00-00_S").rmdir()
    assert len(list(link_runs(script.utils).iterdir())) == 2


def test_without_links_the_folder_of_all_logs_is_shown(script, monkeypatch):
    (script.utils / "model_train_log" / "experiment_cifar-100_2026-01-31-12-00-00_a").mkdir(parents=True)

    def refuse(*_, **__):
        raise OSError("not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert link_runs(script.utils) == script.utils


def test_a_run_on_one_of_several_gpus_gets_the_line_that_uses_all(monkeypatch):
    files = facts()[-1]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    (hint,) = hint_of_devices(torch.device("cuda:0"), 1, files)
    assert "8 GPUs are visible and this run uses one; torchrun --nproc_per_node=8 " in hint
    assert hint_of_devices(torch.device("cuda:0"), 8, files) == hint_of_devices(torch.device("cpu"), 1, files) == []
