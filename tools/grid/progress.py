"""Having a grid's runs finished, and one line that says how far they are."""

import contextlib
import sys
import time
from collections.abc import Callable

from mdistiller.engine.lines import COLUMNS, count, duration, shortened
from mdistiller.errors import UserError

from .find import FINISHED, RUNNING, Finder, Found
from .jobs import MEMORY, Job, Jobs, claimed, remember
from .run import Run

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_LINES = 5
ERASE = "\r\033[K"  # the line that stands there


class Progress:
    """How many of `runs` are behind, and what the others will take.

    left: those to do; elsewhere: those that other processes have under way; failed: those that ended early, and why.
    """

    def __init__(self, runs: list[Run], finder: Finder, jobs: Jobs):
        self.runs, self.finder, self.jobs = runs, finder, jobs
        self.found = {run.words: finder.look(run) for run in runs}
        self.left = [run for run in runs if self.found[run.words].state != FINISHED]
        self.elsewhere, self.failed = list[Run](), list[tuple[Run, str]]()
        self.begun = dict[tuple[str, ...], int]()  # epochs that were behind a run when its job started
        self.speeds = dict[tuple[str, ...], float]()  # seconds of an epoch, by the run
        self.shown_at = 0.0
        self.is_terminal = sys.stderr.isatty()

    def look(self, run: Run) -> Found:
        self.found[run.words] = found = self.finder.look(run)
        return found

    def start(self, run: Run) -> None:
        """Start `run`, or go on with it, where nobody else does."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(claimed(run))
            except UserError:
                self.elsewhere.append(run)
                return
            found = self.look(run)
            if found.state == RUNNING:
                self.elsewhere.append(run)
            elif found.state == FINISHED:
                self.left.remove(run)
            else:
                self.begun[run.words] = found.epochs
                self.jobs.start(run, found.files and found.files.name, stack.pop_all())

    def end(self, job: Job) -> None:
        """Count a job that has ended, and tell."""
        found = self.look(job.run)
        self.measure(job)
        if found.files and job.memory:
            remember(self.jobs.folder / MEMORY, found.files.name, job.memory)
        if found.state == FINISHED:
            self.left.remove(job.run)
        else:
            self.failed.append((job.run, job.reason()))
        self.tell(f"{'finished' if found.state == FINISHED else 'failed'} {job.run.name}")

    def measure(self, job: Job) -> None:
        """Learn how long an epoch of a job takes."""
        epochs = self.found[job.run.words].epochs - self.begun[job.run.words]
        if epochs > 0:
            self.speeds[job.run.words] = (time.monotonic() - job.started) / epochs

    def show(self) -> None:
        """Show the line, where a terminal is there to show it and it is time to."""
        if not self.is_terminal or not self.jobs.running or time.monotonic() - self.shown_at < SECONDS_BETWEEN_LINES:
            return
        self.shown_at = time.monotonic()
        for job in self.jobs.running:
            self.look(job.run)
            self.measure(job)
        running = [f"{job.run.name} {self.of_epochs(job.run)}" for job in self.jobs.running]
        line = shortened(f"{self.head()}: {', '.join(running)}", COLUMNS - 1)
        print(f"{ERASE}{line}", end="", file=sys.stderr, flush=True)

    def tell(self, news: str) -> None:
        """Print a line that stays."""
        print(f"{ERASE if self.is_terminal else ''}{self.head()}: {news}", file=sys.stderr, flush=True)
        self.shown_at = 0.0

    def close(self) -> None:
        """Take the line away."""
        if self.is_terminal:
            print(ERASE, end="", file=sys.stderr, flush=True)

    def of_epochs(self, run: Run) -> str:
        return f"{self.found[run.words].epochs}/{run.config.SOLVER.EPOCHS}"

    def head(self) -> str:
        """How many runs are behind, and how long the others will take."""
        done = f"{len(self.runs) - len(self.left)} of {count(len(self.runs), 'run')}"
        seconds = self.seconds_left()
        return done if not seconds else f"{done}, {duration(seconds)} left"

    def seconds_left(self) -> float | None:
        """What the runs that are left will take, by how long others' epochs took; None before the first of them."""
        if not self.speeds:
            return None
        given_up = [run for run, _ in self.failed] + self.elsewhere
        left = [run for run in self.left if run not in given_up]
        total = sum(self.speed_of(run) * (run.config.SOLVER.EPOCHS - self.found[run.words].epochs) for run in left)
        return total / min(len(self.jobs.slots), max(1, len(left)))

    def speed_of(self, run: Run) -> float:
        """Seconds of an epoch of `run`: its own, else of runs that differ in the seed, else of all, on average."""
        if run.words in self.speeds:
            return self.speeds[run.words]
        alike = [self.speeds[each.words] for each in self.runs if each.words in self.speeds and each.is_like(run)]
        known = alike or [*self.speeds.values()]
        return sum(known) / len(known)


def run_all(progress: Progress, changed: Callable[[], object]) -> None:
    """Have all runs finished that are not; `changed` is called after each. However this ends, its processes end."""
    todo, jobs = list(progress.left), progress.jobs
    try:
        while todo or jobs.running:
            while jobs.free and (run := next_of(todo, jobs)):
                todo.remove(run)
                progress.start(run)
            for job in jobs.ended():
                progress.end(job)
                changed()
            progress.show()
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        jobs.stop()
        progress.close()


def next_of(todo: list[Run], jobs: Jobs) -> Run | None:
    """The first of `todo` whose teacher is not still to be trained; with nothing under way the first."""
    before = [*todo, *(job.run for job in jobs.running)]
    ready = (run for run in todo if not any(run.learns_from(other) for other in before))
    return next(ready, None if jobs.running or not todo else todo[0])
