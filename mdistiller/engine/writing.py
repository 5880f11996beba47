"""Writing files: never half-way, and where the system refuses in one line that says why."""

import contextlib
import errno
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from mdistiller.errors import UserError

UNLOCKED = 2  # seconds; a temporary file is locked long before
ADVICE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room in your quota",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EROFS: "it is on a read-only file system",
    errno.ENOENT: "was its folder removed?",
    errno.ENOTDIR: "a file is in the place of a folder",
    errno.EEXIST: "something that is no folder is in its place",
    errno.ENAMETOOLONG: "choose shorter names",
    errno.EMFILE: "allow more open files (ulimit -n)",
}


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and the errors it was raised from, or while they were handled, the last first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def why(error: OSError) -> str:
    """What the system says of `error`, and what to do."""
    return f"{error.strerror or error}; {ADVICE.get(error.errno or 0, 'make it writable')}"


@contextlib.contextmanager
def writing(path: str | Path, kept: str = "") -> Iterator[None]:
    """Within it an error of the system becomes a UserError: `path` cannot be written, why, and what is `kept`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch wraps the system's error in one of its own
        reason = next((cause for cause in causes(error) if isinstance(cause, OSError)), None)
        if reason is None:
            raise
        raise UserError(f"cannot write {path}: {why(reason)}{kept}") from error


@contextlib.contextmanager
def atomic_write(path: str | Path, previous: str | Path | None = None) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the name `path` only when it is whole and on the disk.

    What was at `path` before stays until then, also through a crash, and takes the name `previous` where that is given.
    Raises UserError where writing fails.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise UserError(f"cannot write {path}: it is no file but a folder or a device; name a file")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with writing(path, "; what was there before is kept"):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                try_lock(file)
                yield file
                file.flush()
                os.fsync(file.fileno())
            if previous is not None and path.exists():
                os.replace(path, previous)
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def try_lock(file: IO[bytes]) -> bool:
    """Lock `file` for as long as it is open; whether no other process has. Never where the system has no such locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; locked, or a file system without locks
        return False
    return True


def remove_stale(folders: Iterable[Path]) -> None:
    """Remove what killed processes left of `atomic_write` in `folders`; what a living one, anywhere, writes stays."""
    for folder in folders:
        for path in folder.glob(".*.tmp"):
            with contextlib.suppress(OSError), path.open("r+b") as file:  # NFS locks no others
                if time.time() - os.fstat(file.fileno()).st_mtime > UNLOCKED and try_lock(file):
                    path.unlink()
