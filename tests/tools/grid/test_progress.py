"""Which run is next, and how long the others will take."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from mdistiller.engine.runs import PROJECT
from tools.grid.find import Found
from tools.grid.jobs import Jobs, claimed
from tools.grid.progress import Progress, next_of, run_all


class Fake:
    """A finder of runs that are as far as `epochs` says, none at first."""

    def __init__(self):
        self.epochs = {}

    def look(self, run):
        epochs = self.epochs.get(run.words, 0)
        state = "finished" if epochs == run.config.SOLVER.EPOCHS else "stopped" if epochs else "missing"
        return Found(state, None, epochs)


@pytest.fixture
def runs(project):
    """The plain student, KD, and the plain teacher that KD learns from, where no weights are given."""
    pair = {"teacher": "resnet14", "student": "resnet8"}
    parts = [{"pairs": [pair]}, {"pairs": [{"student": "resnet14"}], "methods": ["NONE"]}]
    project.write(pairs=None, published=None, seeds=[1], parts=parts)
    return project.read().runs


def jobs_of(tmp_path, *running):
    jobs = Jobs([""], 1, tmp_path)
    jobs.running = [SimpleNamespace(run=run, device="") for run in running]
    return jobs


def test_a_student_waits_for_the_teacher_that_the_grid_trains(runs, tmp_path):
    plain, kd, teacher = runs
    assert next_of([plain, kd, teacher], jobs_of(tmp_path)) is plain
    assert next_of([kd, teacher], jobs_of(tmp_path)) is teacher
    assert next_of([kd], jobs_of(tmp_path, teacher)) is None
    assert next_of([kd], jobs_of(tmp_path)) is kd
    assert next_of([], jobs_of(tmp_path)) is None


def test_what_is_left_is_told_by_how_long_others_took(runs, tmp_path):
    progress = Progress(runs, Fake(), jobs_of(tmp_path))
    assert progress.head() == "0 of 3 runs"
    progress.speeds = {runs[0].words: 100.0}
    progress.found[runs[0].words] = Found("stopped", None, 1)
    assert progress.seconds_left() == 100 * (1 + 2 + 2)
    progress.failed = [(runs[1], "why")]
    assert progress.head() == "0 of 3 runs, 5 min left"


def test_a_run_that_another_call_has_begun_is_left_to_it(runs, tmp_path):
    plain, *_ = runs
    hold = "import sys; from pathlib import Path; from mdistiller.engine.owner import owned\n"
    hold += "with owned(Path(sys.argv[1])): print(flush=True); sys.stdin.read()"
    with claimed(plain):
        (folder,) = (plain.folders[0] / ".claims").iterdir()
    assert not folder.exists()
    folder.mkdir()
    words = [sys.executable, "-c", hold, str(folder)]
    with subprocess.Popen(words, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        progress = Progress(runs, Fake(), jobs_of(tmp_path))
        progress.start(plain)
        other.stdin.close()
    assert progress.elsewhere == [plain] and progress.jobs.running == []


def test_every_run_is_started_once_and_the_jobs_end_with_an_error(runs, tmp_path, monkeypatch):
    finder, started = Fake(), []
    jobs = jobs_of(tmp_path)

    def start(run, resume, claim):
        started.append(run)
        finder.epochs[run.words] = 2
        jobs.running = [SimpleNamespace(run=run, device="", started=0.0, memory=None)]

    def ended():
        over, jobs.running = jobs.running, []
        return over

    monkeypatch.setattr("tools.grid.progress.SECONDS_BETWEEN_LOOKS", 0)
    jobs.start, jobs.ended = start, ended
    progress = Progress(runs, finder, jobs)
    run_all(progress, lambda: None)
    assert started == [runs[0], runs[2], runs[1]] and progress.left == []
    stopped = []
    jobs.stop = lambda: stopped.append(True)
    with pytest.raises(ZeroDivisionError):
        finder.epochs.clear()
        run_all(Progress(runs, finder, jobs), lambda: 1 / 0)
    assert stopped
