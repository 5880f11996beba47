"""Labels of images that lie in one flat folder, as ImageNet and Tiny-ImageNet publish their validation images."""

import os
from collections.abc import Sequence
from pathlib import Path

from mdistiller.dataset.wnids import ILSVRC_WNIDS
from mdistiller.errors import UserError
from mdistiller.files import open_regular

ANNOTATIONS = "val_annotations.txt"
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
VALIDATION = "val"
DEVKIT = "ILSVRC2012_devkit_t12/data"
MAX_BYTES = 2**27  # of a file of labels: a hundred for each image of ImageNet
SHOWN = 100  # characters of a name that a file holds


def find_label_file(folder: str | os.PathLike[str]) -> Path | None:
    """The file that holds the labels of the images in `folder`, or None where there is none.

    It is looked for in `folder` and, where that is named `val`, beside it and in the devkit's folders too.
    """
    own = Path(folder)
    beside = (own.parent, own.parent / DEVKIT, own.parent / Path(DEVKIT).name)
    for place in (own, *(beside if own.name == VALIDATION else ())):
        for name in (ANNOTATIONS, GROUND_TRUTH):
            if (place / name).is_file():
                return place / name
    return None


def read_flat_labels(
    folder: str | os.PathLike[str], names: Sequence[str], train_classes: Sequence[str] | None
) -> list[str]:
    """The class of each image of `folder`, from Tiny-ImageNet's annotations or the ILSVRC devkit's ground truth.

    names: the images' file names, sorted; train_classes: the training images' classes, sorted, or None where there are
    no training images. Raises `UserError` where `folder` has no file of labels, or one that disagrees with the images
    or with the classes.
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
    """The class of each of `names`, from lines of `<file> <class> …` in any order."""
    rows = [line.split("\t" if "\t" in line else None) for line in _read_lines(path)]
    if short := next((number for number, row in enumerate(rows, 1) if len(row) < 2), None):
        raise UserError(f"line {short} of {path} does not name a file and its class; expected: <file> <class>")
    label_of: dict[str, str] = {}
    for number, (name, label, *_) in enumerate(rows, 1):
        if label_of.setdefault(name, label) != label:
            raise UserError(f"line {number} of {path} has another class for {name:.{SHOWN}}; keep one of the two lines")
    if unlabelled := [name for name in names if name not in label_of]:
        raise UserError(
            f"{path} has no class for {unlabelled[0]:.{SHOWN}} ({len(unlabelled)} images lack one); add its line"
        )
    if missing := sorted(label_of.keys() - set(names)):
        raise UserError(
            f"{missing[0]:.{SHOWN}} of {path} is missing ({len(missing)} images are); add it or remove its line"
        )
    return [label_of[name] for name in names]


def _read_ground_truth(path, names, train_classes):
    """The class of each of `names`, from a file whose lines follow the images in sorted order.

    Lines hold the classes' names, or all of them numbers. Where every training class is one of ImageNet's 1000, be
    there 1000 or fewer, and where there are no training images, a number is ILSVRC's own. With any other training
    classes number 1 is the first of these.
    """
    labels = [line.strip() for line in _read_lines(path)]
    if len(labels) != len(names):
        raise UserError(f"{path} has {len(labels)} labels for {len(names)} images; both must be complete")
    if not all(map(str.isdecimal, labels)):
        return labels
    numbers = [int(label.lstrip("0")[:9] or 0) for label in labels]  # longer ones are out of range in any case
    present = {*(train_classes or ())}
    is_ilsvrc = present <= {*ILSVRC_WNIDS}
    classes, meaning = (ILSVRC_WNIDS, "ILSVRC's numbers") if is_ilsvrc else (train_classes, "the training classes")
    for number in numbers:
        if not 1 <= number <= len(classes):
            raise UserError(f"{path} has the class {number}, expected 1 to {len(classes)}, {meaning}; correct it")
        if present and classes[number - 1] not in present:
            raise UserError(
                f"{path} has the class {number}, by {meaning} {classes[number - 1]}, which the training images lack; "
                "add its class folder, or write the classes' names in place of numbers"
            )
    return [classes[number - 1] for number in numbers]


def _read_lines(path):
    try:
        with open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        return [line for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); expected a text file of labels") from error
