"""One run, one writer: which process a run belongs to."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mdistiller.errors import UserError

LOCK = ".lock"  # in the folder of a run's weights


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Within it this process alone writes the run whose weights are in `folder`.

    The lock is the system's, which a process that dies gives back; a worker that outlives it does not hold it. Raises
    UserError, naming the process, where another has it. Where the system has no such locks, none is held.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = folder / LOCK
    try:
        with path.open("a+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                file.seek(0)
                owner = file.read(200).strip() or "another process"
                raise UserError(
                    f"run {folder.name} goes on in {owner}; wait for its end, or stop that process"
                ) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
    except OSError as error:
        if error.filename != str(path):
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}; make its folder writable") from error
