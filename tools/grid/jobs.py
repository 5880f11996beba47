"""Runs as processes of their own, several at once, which end with this one."""

import contextlib
import ctypes
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mdistiller.dataset.streaming import available_cores
from mdistiller.engine.owner import owned
from mdistiller.engine.runs import make_folder
from mdistiller.engine.values import dump
from mdistiller.engine.writing import atomic_write

from .find import read_text
from .run import Run

PATIENCE = 30  # seconds, in which a run that is told to stop saves its state
THREADS = "OMP_NUM_THREADS"
CLAIMS = ".claims"  # below the folder of logs
MEMORY = "memory.json"  # in the output folder: MiB at the peak by the run's name
PR_SET_PDEATHSIG = 1


@dataclass
class Job:
    """A run that goes on in `process`; device: as --device takes it, "" for the script's own choice."""

    run: Run
    device: str
    process: subprocess.Popen
    errors: IO[bytes]
    claim: contextlib.ExitStack
    started: float
    memory: float | None = None  # MiB at its peak

    def is_over(self) -> bool:
        """Whether the process has ended; then `memory` is known, where the system tells it."""
        if self.process.returncode is not None:
            return True
        if not hasattr(os, "wait4"):  # Windows
            return self.process.poll() is not None
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid:
            self.process.returncode = os.waitstatus_to_exitcode(status)
            self.memory = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
        return bool(pid)

    def reason(self) -> str:
        """Why the run failed: the last line that it told, or the signal that ended it."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        told = lines[-1] if lines else f"exit status {self.process.returncode}"
        return told.removeprefix("error: ")


class Jobs:
    """Runs that go on. devices: as --device takes them; each has `on_each` jobs at once."""

    def __init__(self, devices: Iterable[str], on_each: int, folder: Path):
        self.slots = [device for _ in range(on_each) for device in devices]
        self.folder, self.running = folder, list[Job]()

    @property
    def free(self) -> list[str]:
        """The devices that have room, as often as they have."""
        left = list(self.slots)
        for job in self.running:
            left.remove(job.device)
        return left

    def start(self, run: Run, resume: str | None, claim: contextlib.ExitStack) -> None:
        """Start `run`, or go on with the one called `resume`, on a device that has room; `claim` ends with it."""
        device, errors = self.free[0], tempfile.TemporaryFile()
        command = [*run.command(sys.executable, resume), *(["--device", device] if device else [])]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {THREADS: str(threads_of(len(self.slots)))},
            start_new_session=True,  # Ctrl-C reaches this process alone, which tells its runs once
            preexec_fn=end_with_parent(),
        )
        self.running.append(Job(run, device, process, errors, claim, time.monotonic()))

    def ended(self) -> list[Job]:
        """Those that have ended since the last call."""
        over = [job for job in self.running if job.is_over()]
        self.running = [job for job in self.running if job not in over]
        for job in over:
            job.claim.close()
        return over

    def stop(self) -> None:
        """Have all runs save their states and end."""
        for job in self.running:
            with contextlib.suppress(OSError):
                job.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        while self.running and time.monotonic() < until:
            self.ended()
            time.sleep(0.05)
        for job in self.running:
            job.process.kill()


@contextlib.contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Within it no other call of this tool starts `run`. Raises UserError where one has begun to."""
    folder = run.folders[0] / CLAIMS / hashlib.sha256(dump(run.config).encode()).hexdigest()[:16]
    make_folder(folder)
    with owned(folder):
        yield
    with contextlib.suppress(OSError):
        folder.rmdir()


def end_with_parent() -> Callable[[], None] | None:
    """What has a new process get SIGTERM where this one ends, however it does; None where the system cannot."""
    if sys.platform != "linux":
        return None
    parent, library = os.getpid(), ctypes.CDLL(None)

    def prepare() -> None:
        library.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def threads_of(jobs: int) -> int:
    """How many threads each of so many jobs has, unless OMP_NUM_THREADS says."""
    given = os.environ.get(THREADS, "")
    return int(given) if given.isdigit() and int(given) else max(1, available_cores() // jobs)


def remember(path: Path, name: str, memory: float) -> None:
    """Write down that the run called `name` took `memory` MiB, where it had not taken more before."""
    known = remembered(path)
    known[name] = max(round(memory), known.get(name, 0))
    with atomic_write(path) as file:
        file.write(json.dumps(known, indent=1).encode())


def remembered(path: Path) -> dict[str, float]:
    """MiB at the peak, by the runs' names."""
    try:
        known = json.loads(read_text(path) or "{}")
    except ValueError:
        return {}
    return known if isinstance(known, dict) else {}
