"""Opening files that may come from anywhere."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Open the file `path` for reading bytes, without ever waiting for its content.

    Raises OSError, whose `strerror` says why in words, for what cannot be read: of what is neither a file nor a folder
    (a pipe, a socket, a device, or a link to one) reading might wait, or go on, for ever.
    """
    try:
        mode = os.stat(path).st_mode
    except ValueError as error:
        raise OSError(errno.EINVAL, "a path cannot hold a zero character", os.fspath(path)) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "it is a pipe, socket or device, not a file", os.fspath(path))
    return Path(path).open("rb")
