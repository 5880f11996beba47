"""Labels of images that lie in one flat folder, as ImageNet and Tiny-ImageNet publish their validation images."""

import itertools
import struct
import zlib
from pathlib import Path

from mdistiller.dataset.wnids import IMAGENET_WNIDS
from mdistiller.errors import UserError

ANNOTATIONS = "val_annotations.txt"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SYNSETS = "meta.mat"
VALIDATION = "val"
DEVKIT = "ILSVRC2012_devkit_t12/data"


def find_label_file(folder):
    """The file with the labels of the images in the folder `val`: in it, beside it, in the devkit's folders; or None.

    Another folder's labels, such as those of `test`, must be in it.
    """
    folder = Path(folder)
    beside = (folder.parent, folder.parent / DEVKIT, folder.parent / Path(DEVKIT).name)
    for place in (folder, *(beside if folder.name == VALIDATION else ())):
        for name in (ANNOTATIONS, GROUND_TRUTH):
            if (place / name).is_file():
                return place / name
    return None


def read_flat_labels(folder, names, train_classes):
    """Class names of the images `names` (sorted) of `folder`, by Tiny-ImageNet's annotations or ILSVRC's devkit.

    train_classes: sorted, or None where there are no training images. Raises `UserError` where there is no such file
    or it disagrees with the images.
    """
    path = find_label_file(folder)
    if path is None:
        raise UserError(
            f"{folder} holds images but neither class folders nor labels: expected {folder}/<class>/<image>, or "
            f"{ANNOTATIONS} or the devkit's {GROUND_TRUTH} in it or, for {VALIDATION}, beside it; move the images into "
            "class folders or add such a file"
        )
    if path.name == ANNOTATIONS:
        return _read_annotations(path, names)
    return _read_ground_truth(path, names, train_classes)


def _read_annotations(path, names):
    """Lines of `file class …`, in any order."""
    rows = [line.split("\t" if "\t" in line else None) for line in _read_lines(path)]
    if short := next((number for number, row in enumerate(rows, 1) if len(row) < 2), None):
        raise UserError(f"line {short} of {path} does not name a file and its class; expected: <file> <class>")
    label_of = {row[0]: row[1] for row in rows}
    if unlabelled := [name for name in names if name not in label_of]:
        raise UserError(f"{path} has no class for {unlabelled[0]} ({len(unlabelled)} images lack one); add its line")
    if missing := sorted(label_of.keys() - set(names)):
        raise UserError(f"{missing[0]} of {path} is missing ({len(missing)} images are); add it or remove its line")
    return [label_of[name] for name in names]


def _read_ground_truth(path, names, train_classes):
    """A class a line, for the images in sorted order: a number, which the devkit's meta.mat names, or a WordNet id."""
    labels = [line.strip() for line in _read_lines(path)]
    if len(labels) != len(names):
        raise UserError(f"{path} has {len(labels)} labels for {len(names)} images; both must be complete")
    if not all(label.isdigit() for label in labels):
        return labels
    numbers = list(map(int, labels))
    for place in (path.parent, path.parent / DEVKIT, path.parent / Path(DEVKIT).name, path.parents[1]):
        if (place / SYNSETS).is_file():
            classes = read_synsets(place / SYNSETS)
            break
    else:
        # ILSVRC numbers its classes in an order of its own; only other data can be meant to count its folders.
        if train_classes is None or len(train_classes) >= len(IMAGENET_WNIDS):
            raise UserError(
                f"{path} numbers the classes in ILSVRC's own order, which the devkit's {SYNSETS} tells; "
                f"put {SYNSETS} beside it"
            )
        classes = dict(enumerate(train_classes, 1))
    if unknown := next((number for number in numbers if number not in classes), None):
        raise UserError(
            f"{path} has the class {unknown}, which is none of {len(classes)}; put the devkit's {SYNSETS} beside it"
        )
    return [classes[number] for number in numbers]


def _read_lines(path):
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); expected a text file of labels") from error


def read_synsets(path):
    """WordNet ids by ILSVRC number, from the devkit's `meta.mat`. Raises `UserError` for another file."""
    try:
        fields = _read_struct(Path(path).read_bytes())
        synsets = zip(fields["ILSVRC2012_ID"], fields["WNID"], strict=True)
        return {int(number[0]): "".join(map(chr, wnid)) for number, wnid in synsets}
    except (OSError, KeyError, IndexError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"cannot read {path}; expected the ILSVRC 2012 devkit's {SYNSETS}") from error


# MATLAB's Level 5 MAT-file format: elements of (type, size, data), aligned to 8 bytes.
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q", 16: "B", 17: "H"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT_CLASS = 2
_HEADER_BYTES = 128


def _elements(data):
    """(type, data) of each element of `data`, unpacked where it is compressed."""
    position = 0
    while position + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, position)
        if kind >> 16:  # a small element: size, type and data share 8 bytes
            kind, size, start, step = kind & 0xFFFF, kind >> 16, position + 4, 8
        else:
            start, step = position + 8, 8 + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if kind == _COMPRESSED:
            yield from _elements(zlib.decompress(data[start : start + size]))
        else:
            yield kind, data[start : start + size]
        position += step


def _numbers(element):
    kind, data = element
    return [value for (value,) in struct.iter_unpack("<" + _NUMBERS[kind], data)]


def _read_struct(data):
    """The numbers in each field of the first struct array of a MAT file, a list a struct, by field name."""
    for kind, matrix in _elements(data[_HEADER_BYTES:]):
        flags, _, _, *rest = _elements(matrix)
        if kind == _MATRIX and _numbers(flags)[0] & 0xFF == _STRUCT_CLASS:
            (width,), packed, *values = _numbers(rest[0]), rest[1][1], *rest[2:]
            names = [packed[i : i + width].split(b"\0")[0].decode() for i in range(0, len(packed), width)]
            columns = {name: [] for name in names}
            for name, (_, value) in zip(itertools.cycle(names), values, strict=False):
                parts = list(itertools.islice(_elements(value), 4))
                is_plain = len(parts) == 4 and parts[3][0] in _NUMBERS
                columns[name].append(_numbers(parts[3]) if is_plain else [])
            return columns
    raise KeyError("no struct array")
