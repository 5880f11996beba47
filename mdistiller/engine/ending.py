"""How a script ends: its exit status and its last line, also where nobody can be told."""

import os
import signal
import sys
from typing import TextIO

from .failures import explain
from .launch import has_the_word
from .signals import Stopped, ignore_workers
from .tables import printable
from .writing import causes, why

FAILED = 2


def open_streams() -> None:
    """Have streams that were closed (`>&-`) lead nowhere, before a file of the run takes their place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
        elif hasattr(stream := getattr(sys, name), "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush(stream: TextIO) -> OSError | None:
    """Write what `stream` still holds; where that fails return why, and have the stream lead nowhere from then on."""
    try:
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return error
    return None


def tell(message: str) -> None:
    """Print `message` in one line on stderr, where that can be written."""
    try:
        print(printable(" ".join(message.split())), file=sys.stderr, flush=True)
    except OSError:
        flush(sys.stderr)


def end(error: BaseException | None) -> int:
    """The exit status of a script that ended, by `error` or None, after telling why. Raises what is not known."""
    if error is not None:
        ignore_workers()
        sys.unraisablehook = lambda *_: None  # what is taken apart after the last line has nothing to add
    unwritten = flush(sys.stdout)
    explanation = explain(error) if error is not None else None
    if not isinstance(error, (SystemExit, type(None))) and not has_the_word(str(explanation or error)):
        return FAILED
    stopped = next((cause for cause in causes(error) if isinstance(cause, (Stopped, KeyboardInterrupt))), None)
    if stopped is not None:
        stopped = stopped if isinstance(stopped, Stopped) else Stopped(signal.SIGINT)
        if stopped.number != signal.SIGPIPE:  # which is to end quietly
            for line in (str(stopped), *stopped.advice):
                tell(line)
        return 128 + stopped.number
    if isinstance(error or unwritten, BrokenPipeError) and not explanation:
        return 0  # whoever reads our output, such as `head`, has enough
    if unwritten is not None and not isinstance(unwritten, BrokenPipeError):
        tell(f"error: cannot write to the standard output: {why(unwritten)}; finished epochs are kept")
        return FAILED
    if error is None:
        return 0
    if explanation is None:
        raise error
    tell(f"error: {explanation}")
    return FAILED
