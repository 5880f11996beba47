"""Images that a CSV file lists: the columns `file`, `label` and, where there is more than one split, `split`."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mdistiller.dataset.images import ImageFiles
from mdistiller.dataset.labels import MAX_BYTES, SHOWN
from mdistiller.errors import UserError, printable
from mdistiller.files import open_regular

COLUMNS = "file", "label", "split"
SPLITS = "train", "test", "val"


class Row(NamedTuple):
    """A line of the file, by its number: an image's path below the CSV's folder, its class and its split, or ""."""

    line: int
    file: str
    label: str
    split: str


def find_listed(path: str | os.PathLike[str], split: str) -> ImageFiles | None:
    """The image files of one split, "train", "test" or "val", that the CSV file `path` lists; in its order.

    Classes are the labels of the training images, or of all where there are none, sorted. Without images of "test"
    those of "val" are the test images, and there are none of "val": None. Without the column `split` all images are
    test images. Raises `UserError`, naming the line, for what no split can be made of, and for files that are missing.
    """
    path = Path(path)
    try:
        return _find(path, split)
    except UserError as error:
        raise UserError(printable(error)) from error


def _find(path, split):
    rows = list(_rows(path))
    have = {row.split for row in rows}
    if have == {""} and split == "train":
        raise UserError(f"{path} has no column split; add it, with train, test or val for each image, to train on them")
    wanted = "val" if split == "test" and "test" not in have else split
    if split == "val" and not {"test", "val"} <= have:
        return None
    train = [row for row in rows if row.split == "train"]
    classes = sorted({row.label for row in train or rows})
    index_of = {label: index for index, label in enumerate(classes)}
    chosen = [row for row in rows if row.split in ("", wanted)]
    if not chosen:
        raise UserError(f"{path} has no image of the split {'train' if split == 'train' else 'test or val'}; add some")
    for row in chosen:
        if row.label not in index_of:
            told = f"has an image of {row.split} with the label {row.label:.{SHOWN}}, which no image of train has"
            raise _wrong(path, row.line, f"{told}; correct it or add some")
        _check_file(path, row)
    names = np.array([os.fsencode(row.file) for row in chosen])
    targets = torch.tensor([index_of[row.label] for row in chosen])
    return ImageFiles(str(path.parent), names, targets, classes)


def _check_file(path, row):
    file = path.parent / row.file
    if os.path.isfile(file):
        return
    try:
        open_regular(file).close()
    except OSError as error:
        told = f"names {row.file:.{SHOWN}}, which cannot be read ({error.strerror})"
        raise _wrong(path, row.line, f"{told}; expected an image file below {path.parent}") from error


def _rows(path: Path) -> Iterator[Row]:
    """The lines below the header, each checked by itself and against those before it."""
    lines = _fields(path)
    header = [name.strip().lower() for name in next(lines, (0, []))[1]]
    if {*header} not in ({*COLUMNS}, {*COLUMNS[:2]}) or len({*header}) < len(header):
        told = f"is {','.join(header)!r:.{SHOWN}}; expected the columns file,label or file,label,split"
        raise _wrong(path, 1, told)
    columns = [header.index(name) if name in header else -1 for name in COLUMNS]
    line_of: dict[str, int] = {}
    for line, fields in lines:
        if len(fields) != len(header):
            raise _wrong(path, line, f"has {len(fields)} columns; expected {len(header)}, as its first line has")
        given, label, split = (fields[column] if column >= 0 else "" for column in columns)
        label, split = label.strip(), split.strip().lower()
        if not given or not label:
            raise _wrong(path, line, f"has no {'label' if given else 'file'}; expected {','.join(header)}")
        if split not in SPLITS and columns[-1] >= 0:
            raise _wrong(path, line, f"has the split {split!r:.{SHOWN}}; expected {', '.join(SPLITS)}")
        file = os.path.normpath(given)
        if os.path.isabs(file) or file.split(os.sep, 1)[0] == os.pardir:
            told = f"names {given:.{SHOWN}}, outside the folder of that file; expected a path below {path.parent}"
            raise _wrong(path, line, told)
        if (first := line_of.setdefault(file, line)) != line:
            raise _wrong(path, line, f"names {given:.{SHOWN}}, as line {first} does; keep one of the two lines")
        yield Row(line, file, label, split)
    if not line_of:
        raise UserError(f"{path} lists no images; expected a line of {','.join(header)} for each")


def _fields(path):
    """The number of the first line, and the fields, of each line that has any."""
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        text = content.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read {path} ({getattr(error, 'strerror', None) or error}); expected a CSV file in UTF-8 that "
            "lists images, as DATASET.ROOT"
        ) from error
    reader, line = csv.reader(io.StringIO(text, newline=""), strict=True), 1
    try:
        for fields in reader:
            if any(fields):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise _wrong(path, line, f"is none of a CSV file ({error}); correct it") from error


def _wrong(path, line, what):
    return UserError(f"line {line} of {path} {what}")
