"""The sets of torchvision, as its own classes download, verify and read them."""

import contextlib
import importlib.util
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mdistiller.dataset.images import ImageFiles, ImageSet
from mdistiller.dataset.torchvision_sets import TORCHVISION_SETS
from mdistiller.errors import UserError, printable
from mdistiller.files import open_regular

MAX_BYTES = 2**34  # of one of the files; the largest archive, Country211's, has 11 billion
PATIENCE = 60.0  # seconds, with a server that says nothing


def read_torchvision(name: str, root: str | os.PathLike[str], split: str) -> ImageSet | ImageFiles | None:
    """The split "train", "test" or "val" of the row `name` in `root`, downloaded there where it is missing.

    Returns an `ImageSet` of uint8 (N, 3, H, W) in channels-last, as loaders hold them, or `ImageFiles`; None for a
    "val" that the set has not. Raises `UserError` for files that are neither there nor to be had, are not laid out as
    the class expects, or are incomplete. A file whose MD5 torchvision knows is not opened with another one.
    """
    row, root = TORCHVISION_SETS[name], Path(root)
    if split not in row.splits:
        return None
    if row.package and importlib.util.find_spec(row.package) is None:
        raise UserError(f"DATASET.TYPE {name} needs the package {row.package}; type pip install {row.package}")
    _check_files(row, root)
    folder, own = root / row.folder, root.parent / row.folder
    if row.folder and own.is_dir() and own.is_relative_to(root) and not folder.exists():
        raise UserError(f"{root} is the folder of {row.title} itself; type DATASET.ROOT {root.parent}, which holds it")
    with contextlib.suppress(Exception):  # which is told of where downloading does not help
        return _read(row, root, split, download=False)
    new = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root):
            return _read(row, root, split, download=True)
    except Exception as error:  # of a download, or of a reader, which a damaged file can make raise anything
        for place in new:
            with contextlib.suppress(OSError):
                place.rmdir()
        raise UserError(printable(_explain(row, root, error, folder in new))) from error


def _read(row, root, split, download):
    """One split as one of ours; raises whatever the class does, and ValueError where what it read is no such set."""
    from torchvision import datasets  # torchvision takes seconds to import

    with _patient(PATIENCE):
        data = getattr(datasets, row.source)(root, download=download, **row.splits[split])
    return _found(row, data, root)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within it no other process is, for the same folder: two that download would write the same files."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _patient(seconds: float) -> Iterator[None]:
    """Within it a server that says nothing for so long is an error; torchvision would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _found(row, data, root):
    """What the class has read, as one of ours. Raises ValueError where it does not fit together."""
    classes = list(row.classes or data.classes)
    if row.paths:
        paths = getattr(data, row.paths)
        if paths and isinstance(paths[0], tuple):
            paths, labels = zip(*paths, strict=True)
        else:
            labels = data._labels
        if missing := next((path for path in paths if not os.path.lexists(path)), None):
            raise ValueError(f"{missing} is missing")
        names = np.array([os.fsencode(os.path.relpath(path, root)) for path in paths])
        found: ImageFiles | ImageSet = ImageFiles(str(root), names, torch.tensor(labels, dtype=torch.int64), classes)
    else:
        targets = torch.as_tensor(data.targets if hasattr(data, "targets") else data.labels).long()
        found = ImageSet(_as_rgb(torch.as_tensor(data.data)), targets, classes)
    count = len(found.names if isinstance(found, ImageFiles) else found.images)
    if count == 0 or found.targets.shape != (count,):
        raise ValueError(f"it has {count} images and {found.targets.numel()} labels")
    lowest, highest = int(found.targets.min()), int(found.targets.max())
    if lowest < 0 or highest >= len(classes):
        raise ValueError(f"its labels are {lowest} to {highest}, counted from 0, and there are {len(classes)} classes")
    return found


def _as_rgb(images):
    """uint8 (N, H, W), (N, H, W, 3) or (N, 3, H, W) as (N, 3, H, W) in channels-last."""
    if images.ndim == 3:
        images = images[:, None].expand(-1, 3, -1, -1)
    elif images.shape[3] == 3:
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise ValueError(f"its images are {images.dtype} of shape {tuple(images.shape)}")
    return images.contiguous(memory_format=torch.channels_last)


def _check_files(row, root):
    """Raise `UserError` where torchvision would wait for what it finds in place of a file, or read it for hours."""
    beside = [path for pattern in row.read for path in sorted((root / row.folder).glob(pattern))]
    for path in (*(root / archive for archive in row.archives), *beside):
        try:
            with open_regular(path) as file:
                if os.fstat(file.fileno()).st_size <= MAX_BYTES:
                    continue
            reason: str | None = f"it has more than {MAX_BYTES:,} bytes"
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = error.strerror
        raise UserError(f"cannot read {path} ({reason}): expected a file of {row.title}; remove it")


def _explain(row, root, error, is_new):
    """What to tell of `error`; is_new: whether there was nothing of the set but, perhaps, its archives."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if row.folder and not is_new:
        return (
            f"{row.title} in {root / row.folder} is incomplete or damaged ({reason}): complete it, or move that folder "
            "away to have it downloaded again"
        )
    archives = [root / archive for archive in row.archives]
    damaged = next((path for path in archives if path.exists()), None)
    found = f"{damaged} is damaged or cannot be unpacked" if damaged else f"{row.title} is not in {root}"
    files = " and ".join(f"{row.url}{path.name} as {path}" for path in archives)
    return (
        f"{found}, and downloading it failed ({reason}): fetch by hand and save {files}, or use your own images with "
        "DATASET.TYPE folder DATASET.ROOT <folder>"
    )
