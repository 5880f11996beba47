"""The scripts under torchrun: one run of several processes, which ends and goes on as one."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROJECT = Path(__file__).parents[2]
SETTINGS = (
    "DATASET.TYPE synthetic DATASET.SYNTHETIC.TRAIN_IMAGES 150 DATASET.SYNTHETIC.TEST_IMAGES 70 SOLVER.BATCH_SIZE 15 "
    "SOLVER.LR 0.01 SOLVER.EPOCHS 3 LOG.SAVE_STEPS 1 --selected_model resnet8"
).split()
FROZEN = ("SOLVER.FREEZE_BN", "True")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the scripts, whose runs go below it."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(PROJECT / "CIFAR-100", folder / "CIFAR-100", ignore=shutil.ignore_patterns("experiment*", "20*"))
    for name in ("mdistiller", "configs"):
        (folder / name).symlink_to(PROJECT / name)
    return folder


def start(clone, size, *arguments, **flags):
    """train.py in `size` processes; flags: of torchrun."""
    words = [sys.executable]
    if size:
        words += ["-m", "torch.distributed.run", f"--nproc_per_node={size}"]
        words += [f"--{name}={value}" for name, value in flags.items()]
    words += ["CIFAR-100/Utils/train.py", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(clone)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=clone, env=environment, **pipes)


def run(clone, size, *arguments, **flags):
    """What `start` printed, and its last.pth, once it has ended well."""
    process = start(clone, size, *arguments, **flags)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out, newest(clone)


def newest(clone):
    return max((clone / "CIFAR-100/Utils/model_pth").glob("*/last.pth"), key=lambda path: path.parent.name)


def worker(launcher, rank):
    """The process of `rank` that the process `launcher` has started."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    mine = f"RANK={rank}".encode()
    return next(int(pid) for pid in children if mine in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))


def wait_for(process, text):
    """Read the output of `process` up to a line with `text`."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(process.stderr.read())


def errors_of(err):
    return [line for line in err.splitlines() if line.startswith(("error:", "stopped"))]


def assert_same_student(path, expected):
    student, same = (torch.load(each, weights_only=True)["model"] for each in (path, expected))
    assert all(torch.equal(student[name], same[name]) for name in same)


@pytest.fixture(scope="module")
def alone(clone):
    """What one process reaches with frozen batch norms."""
    return run(clone, 0, *SETTINGS, *FROZEN)[1]


@pytest.fixture(scope="module")
def pair(clone, alone):
    """What two processes reach."""
    return run(clone, 2, *SETTINGS)[1]


def metrics_of(path):
    (table,) = path.parents[2].glob(f"model_train_log/*{path.parent.name}/metrics.csv")
    skipped = ("images_per_second", "seconds")
    with table.open() as file:
        return [[float(v or 0) for k, v in row.items() if k not in skipped] for row in csv.DictReader(file)]


def test_three_processes_make_one_run_with_the_metrics_of_one(clone, alone):
    before = len(list(alone.parents[1].glob("2*")))
    out, last = run(clone, 3, *SETTINGS, *FROZEN)
    assert len(list(alone.parents[1].glob("2*"))) == before + 1
    assert out.count("New Logging Session Started") == 1 and "; 3 processes" in out
    assert "torchrun --nproc_per_node=3" in out
    for found, expected in zip(metrics_of(last), metrics_of(alone), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_killed_process_is_started_anew_and_the_run_ends_as_if_nothing_had_been(clone, pair):
    process = start(clone, 2, *SETTINGS, max_restarts=1)
    wait_for(process, "Epoch: 2")
    os.kill(worker(process, 1), signal.SIGKILL)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert "Logging Session Resumed in epoch" in out
    (line,) = errors_of(err)
    is_told = line.startswith(("error: another of the processes was lost", "stopped by SIGTERM"))  # which comes first
    assert is_told
    assert_same_student(newest(clone), pair)


def test_a_launch_that_is_stopped_goes_on_in_one_process_more(clone, alone):
    process = start(clone, 2, *SETTINGS, *FROZEN)
    wait_for(process, "Epoch: 2")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert errors_of(err)[0].startswith("stopped by SIGTERM in epoch 2;") and len(errors_of(err)) == 1, err
    out, last = run(clone, 3, "--resume")
    assert "Number of processes: 3, was 2" in out
    for found, expected in zip(metrics_of(last), metrics_of(alone), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def test_an_image_that_one_process_cannot_read_ends_all_with_one_line(clone, photographs):
    damaged = next(iter(sorted((photographs / "train").glob("*/*")))).resolve()
    for folder in sorted((photographs / "train").iterdir()):
        source = folder.resolve()
        folder.unlink()
        shutil.copytree(source, folder)
    path = next(iter(sorted((photographs / "train").glob(f"*/{damaged.name}"))))
    path.write_bytes(path.read_bytes()[:300])
    settings = f"DATASET.TYPE imagenet DATASET.ROOT {photographs} DATASET.NUM_WORKERS 0 SOLVER.BATCH_SIZE 6"
    process = start(clone, 2, *settings.split(), "DATASET.IMAGE_SIZE", 32, "--selected_model", "resnet8")
    _, err = process.communicate(timeout=100)
    assert process.returncode != 0
    (line,) = errors_of(err)
    assert line.startswith("error: cannot read image") and damaged.name in line
    assert "exitcode  : 2" in err


def test_a_wrong_flag_is_told_once(clone):
    process = start(clone, 2, *SETTINGS, "SOLVER.EPOCHS", "none")
    _, err = process.communicate(timeout=100)
    assert len(errors_of(err)) == 1 and "exitcode  : 2" in err
