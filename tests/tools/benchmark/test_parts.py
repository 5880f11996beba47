"""Each part runs and measures what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.benchmark.conftest import PAIR
from tools.benchmark.training import Training

PROJECT = Path(__file__).parents[3]


def ways_of(rows):
    ways = {}
    for row in rows:
        ways.setdefault(row["what"], []).append(row["way"])
    return ways


@pytest.mark.parametrize("method", ["KD", "CRD"])
def test_step_has_a_row_a_setting_and_its_notes(run, method):
    rows, notes = run("step", "--method", method, "--workers", "1" if method == "KD" else "0")
    assert ways_of(rows) == {
        f"resnet8 → resnet8 {method}, weak, batch 4": ["plain", "float32", "bf16", "float32, channels-last off"]
    }
    assert all(float(row["images/s"]) > 0 and float(row["ms a step"]) > 0 and row["peak MiB"] == "" for row in rows)
    assert rows[0]["ratio"] == "1.00"
    assert "equal, largest relative difference" in notes[0]
    assert "GFLOP" in notes[1] and "GB/s" in notes[1] and notes[2].startswith("float32: ")


@pytest.mark.parametrize("error", [1.0, float("nan")])
def test_losses_that_differ_fail_the_benchmark(run, monkeypatch, capsys, error):
    step = Training.step
    monkeypatch.setattr(Training, "step", lambda self, batch: step(self, batch) + error)
    with pytest.raises(SystemExit) as exit_:
        run("step")
    assert exit_.value.code == 1 and "FAILED" in capsys.readouterr().out


def test_epoch_has_each_batch_size(run):
    rows, notes = run("epoch", "--images", "10", "--batch_size", "4", "8", "--augment", "weak+strong")
    ways = ["plain", "float32"]
    assert ways_of(rows) == {f"resnet8 → resnet8 KD, weak+strong, batch {size}": ways for size in (4, 8)}
    assert len(notes) == 4 and all("an epoch of 20 images takes" in note for note in notes)


def test_loader_has_each_augmentation(run):
    rows, _ = run("loader", "--images", "8")
    what = [f"{augment}, a core, batch 4" for augment in ("weak", "strong", "weak+strong")]
    assert ways_of(rows) == {name: ["PIL", "ours"] for name in what}


def test_teacher_has_one_gain_after_the_other(run):
    rows, _ = run("teacher")
    ways = ["plain", "channels-last", "channels-last, folded", "channels-last, folded, bf16"]
    assert ways_of(rows) == {"resnet8 forward, batch 4": ways}


def test_losses_have_both_forms_and_their_memory(run):
    rows, notes = run("losses")
    what = [f"{name}, batch {size}" for name in ("SKD direction", "RKD") for size in (4, 8)] + ["NST, batch 2"]
    assert ways_of(rows) == {name: ["published", "ours"] for name in what}
    assert all(float(row["peak MiB"]) > 0 and row["images/s"] == "" for row in rows)
    assert "profiler" in notes[0]


def test_crd_has_negatives_and_scoring(run):
    rows, _ = run("crd")
    assert ways_of(rows) == {
        "CRD negatives, batch 64": ["np.random.choice an image", "ours"],
        "CRD scoring, batch 64": ["gathered", "ours"],
    }


def test_files_reads_photographs(run, photographs):
    rows, _ = run("files", "--root", str(photographs), "--image_size", "32")
    assert ways_of(rows) == {"photographs, a core": ["PIL, transforms v1", "ours"]}


def test_saving_is_told_as_a_part_of_an_epoch(run, monkeypatch):
    monkeypatch.setattr("tools.benchmark.parts.saving.IMAGES", 64)
    rows, notes = run("saving", "--batch_size", "8", "--steps", "2")
    assert len(rows) == 2 and "an epoch of 64 images takes" in notes[0] and notes[0].endswith("% of it")


@pytest.mark.parametrize("way", ["folder", "module"])
def test_it_runs_as_a_folder_from_anywhere_and_as_a_module(way, tmp_path):
    command, cwd = {
        "folder": ([str(PROJECT / "tools/benchmark")], tmp_path),
        "module": (["-m", "tools.benchmark"], PROJECT),
    }[way]
    words = [sys.executable, *command, "--part", "epoch", *PAIR, "--images", "8", "--no_compile"]
    result = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "resnet8 → resnet8 KD, weak, batch 4" in result.stdout
