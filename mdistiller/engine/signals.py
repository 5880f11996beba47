"""Signals that end a script, as an exception: what is open is closed, and the last line says what is kept."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
PATIENCE = 4  # seconds
SAME = 0.25  # seconds in which a signal that comes again is the same; `timeout` sends its own twice


class Stopped(BaseException):
    """A signal asks the script to end; SIGPIPE: nobody reads its output.

    where: what went on when it came, and what is kept; advice: what to type next, as lines.
    """

    def __init__(self, number: int, where: str = "", advice: Sequence[str] = ()):
        super().__init__(f"stopped by {signal.Signals(number).name}{where}")
        self.number, self.advice = number, advice


class Stopper:
    """Handles SIGNALS: the first raises Stopped in the main thread, the next ends the process at once."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.first_at: float | None = None
        self.is_held = False
        self.waiting: int | None = None

    def __call__(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:  # a worker, forked from the script, which ends it; Ctrl-C reaches both
            if number == signal.SIGTERM:
                end_by(number)
            return
        now = time.monotonic()
        if self.first_at is not None:
            if now - self.first_at > SAME:
                end_by(number)
            return
        self.first_at = now
        ignore_workers()
        if self.is_held:
            self.waiting = number
            if hasattr(signal, "setitimer"):
                signal.signal(signal.SIGALRM, lambda *_: end_by(number))
                signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        else:
            raise Stopped(number)


def ignore_workers() -> None:
    """Have the ends of worker processes, of which torch makes errors, be none any more."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, lambda *_: None)  # of SIG_DFL, Python complains where one has just come


def end_by(number: int) -> None:
    """End this process as the signal `number` does where nothing handles it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within it SIGNALS raise Stopped, but for those that the script was started to ignore, as `nohup` does."""
    stopper = Stopper()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):
                signal.signal(number, stopper)
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is stopper:
                signal.signal(number, handler)


def end_later() -> None:
    """Have SIGNALS end this process PATIENCE after they come, by a thread of its own, whatever it waits for.

    The first of several processes needs the others until it has stopped; they end without it.
    """
    signals = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def forget() -> None:  # in a worker, which the script ends; Ctrl-C reaches both
        for number in signals:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    os.register_at_fork(after_in_child=forget)

    def wait() -> None:
        number = signal.sigwait(signals)
        time.sleep(PATIENCE)
        os._exit(128 + number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    for number in signals:  # which a thread from before can still get
        signal.signal(number, lambda number, _: signal.pthread_kill(thread.ident or 0, number))


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Within it a signal that would raise Stopped waits for the end, PATIENCE at most; the next ends the process."""
    stopper = next((each for each in map(signal.getsignal, SIGNALS) if isinstance(each, Stopper)), Stopper())
    stopper.is_held = True
    try:
        yield
    finally:
        stopper.is_held = False
        if stopper.waiting is not None and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
    if stopper.waiting is not None:
        raise Stopped(stopper.waiting)
