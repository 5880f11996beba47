"""One run, one writer: which process a run belongs to."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mdistiller.errors import UserError

from .writing import writing

LOCK = ".lock"  # in the folder of a run's weights


@contextlib.contextmanager
def owned(folder: Path, what: str = "run") -> Iterator[None]:
    """Within it this process alone writes the run whose weights are in `folder`, or does there `what` it says.

    The lock is the system's, which a process that dies gives back; a worker that outlives it does not hold it. Raises
    UserError, naming the process, where another has it. Where the system has no such locks, none is held.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / LOCK
    with writing(path):
        file = path.open("a+b", buffering=0)
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            process = file.read(200).decode(errors="replace").strip() or "another process"
            raise UserError(
                f"{what} {folder.name} goes on in {process}; wait for its end, or stop that process"
            ) from error
        with writing(path):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
