"""The tool that runs a grid: what has finished is left alone, what was stopped goes on."""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mdistiller.engine.cli import run_script
from mdistiller.engine.runs import PACKAGE, PROJECT
from tests.tools.conftest import GRID
from tools import results
from tools.grid.find import FINISHED, STOPPED, Finder

START = """
import sys
from pathlib import Path
from mdistiller.engine.cli import run_script
from tools.results import main

sys.exit(run_script(main, sys.argv[2:], Path(sys.argv[1])))
"""


def call(project, *arguments):
    """The tool in this process: its status, output and errors."""
    out, err = io.StringIO(), io.StringIO()
    words = [str(project.file), "--output", str(project.folder / "out"), "--device", "cpu", *map(str, arguments)]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_script(results.main, words, project.folder)
    return status, out.getvalue(), err.getvalue()


@pytest.fixture
def scripts(project):
    """A project whose scripts can be started."""
    (project.folder / "mdistiller").symlink_to(PACKAGE)
    for name in ("train.py", "distillation_train.py"):
        shutil.copy(PROJECT / "CIFAR-100/Utils" / name, project.script.utils / name)
    return project


def test_a_grid_whose_runs_have_finished_ends_at_once(trained, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    status, out, err = call(trained)
    assert (status, err) == (0, "") and "results.html" in out


def test_commands_are_those_of_the_runs_that_are_left(trained, tmp_path):
    _, out, _ = call(trained, "--commands", tmp_path / "all.txt", "EXPERIMENT.TAG", "new")
    lines = (tmp_path / "all.txt").read_text(encoding="utf-8").splitlines()
    assert "4 commands of 4 runs" in out and len(lines) == 4
    assert lines[0].startswith("python ") and "train.py --selected_model resnet8 --seed 1" in lines[0]
    _, out, _ = call(trained, "--commands", tmp_path / "none.txt")
    assert "0 commands of 4 runs" in out and (tmp_path / "none.txt").read_text(encoding="utf-8") == ""


def test_a_dry_run_lists_the_runs_and_what_they_will_take(trained):
    status, out, _ = call(trained, "--dry_run")
    assert status == 0 and out.count("finished") == 4
    status, out, err = call(trained, "--dry_run", "SOLVER.EPOCHS", "9")
    assert status == 0, err
    assert out.count("new") == 4 and "resnet14 → resnet8, KD, seed 2" in out and "about" in out.splitlines()[-1]
    assert not list(trained.folder.rglob("*_KD-9*"))


def test_what_is_there_is_gathered(trained):
    status, out, _ = call(trained, "--gather", "SOLVER.EPOCHS", "2")
    assert status == 0 and "tables in" in out
    assert "4 of 4 runs finished" in (trained.folder / "out/results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--jobs_per_device", "0"], "--jobs_per_device is 0"),
        (["--gather", "--dry_run"], "choose one"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--dryrun"], "nearest: '--dry_run'"),
        (["SOLVER.EPOCHS"], "has no value"),
        (["--output="], "--output has an empty value"),
    ],
)
def test_a_bad_flag_is_one_line(project, arguments, part):
    status, _, err = call(project, *arguments)
    assert status == 2 and err.count("\n") == 1 and part in err


def test_a_grid_that_is_not_there_is_one_line(project):
    project.file.unlink()
    status, _, err = call(project)
    assert status == 2 and err.count("\n") == 1 and "cannot read" in err


def test_a_killed_grid_loses_nothing(scripts):
    scripts.write(methods=["NONE"], seeds=[1], keys=GRID["keys"] | {"SOLVER.EPOCHS": 15, "SOLVER.BATCH_SIZE": 4})
    (run,) = scripts.read().runs
    words = [sys.executable, "-c", START, scripts.folder, scripts.file, "--output", scripts.folder / "out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(list(map(str, words)), cwd=PROJECT, env=environment) as tool:
        wait_for(lambda: Finder().look(run).epochs > 1)
        tool.send_signal(signal.SIGKILL)
    wait_for(lambda: Finder().look(run).state == STOPPED)  # the run has saved and ended
    files, epochs = Finder().look(run).files, Finder().look(run).epochs
    assert 1 < epochs < 15 and files.last.exists()

    status, _, err = call(scripts)
    assert status == 0 and "1 of 1 run: finished resnet14 → resnet8, plain student, seed 1" in err
    found = Finder().look(run)
    assert (found.state, found.files.name, found.epochs) == (FINISHED, files.name, 15)


def test_a_run_that_fails_is_told(scripts, monkeypatch):
    scripts.write(methods=["KD"], seeds=[1])
    monkeypatch.setenv("TEACHER", str(scripts.folder / "missing.pth"))
    status, _, err = call(scripts)
    assert status == 2 and "failed resnet14 → resnet8, KD, seed 1" in err and "missing.pth" in err.splitlines()[-1]


def wait_for(condition, seconds=300):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)
