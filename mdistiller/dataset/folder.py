"""Folders of images: ROOT/train/<class>/* and ROOT/test/<class>/*, or val in place of test or beside it."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mdistiller.dataset.images import ImageFiles, ImageSet, read_small, unreadable
from mdistiller.dataset.labels import find_label_file, read_flat_labels
from mdistiller.errors import UserError, printable
from mdistiller.files import open_regular

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val"), "val": ("val",)}
IMAGES = "images"  # Tiny-ImageNet keeps a folder's images in a subfolder of this name
BLOCK = 256  # images that a thread reads in one go
SHOW_PROGRESS_FROM = 20_000  # images


def find_images(root: str | os.PathLike[str], split: str) -> ImageFiles:
    """The image files of one split, "train", "test" or "val", of the folder `root`; classes are its subfolders, sorted.

    A "test" or "val" without subfolders gets its labels from a file (`read_flat_labels`); nothing is moved or written.
    Hidden files and files whose extension is not in EXTENSIONS are passed over.
    Raises `UserError` when a folder is missing, empty or cannot be read, and where the labels do not fit the images.
    """
    with _named():
        return _find_images(Path(root), split)


def find_validation(root: str | os.PathLike[str]) -> ImageFiles | None:
    """The image files of `val` of the folder `root` where `test` has labels too, else None; raises as `find_images`.

    Without a `test` that has labels, `val` is the test split; without labels of its own, or as a link to `test`, it is
    passed over.
    """
    test, val = (Path(root, name) for name in SPLIT_FOLDERS["test"])
    with _named():
        if not all(folder.is_dir() and _has_labels(folder) for folder in (test, val)) or test.samefile(val):
            return None
        return _find_images(Path(root), "val")


@contextmanager
def _named():
    """Turns an error of a folder into a `UserError` that names it, in one line whatever its name is."""
    try:
        yield
    except UserError as error:
        raise UserError(printable(error)) from error
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror}; expected a folder of images"
        raise UserError(printable(message)) from error


def _find_images(root, split):
    folder = _split_folder(root, split)
    classes = _class_folders(folder)
    if classes:
        groups = [_image_names(folder / name) for name in classes]
        for name, group in zip(classes, groups, strict=True):
            if not group:
                raise UserError(
                    f"class folder {folder / name} has no images: expected files ending in {' '.join(EXTENSIONS)}; "
                    "fill it or remove it"
                )
        targets = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
        names = [f"{name}/{image}" for name, group in zip(classes, groups, strict=True) for image in group]
        return _image_files(folder, names, targets, classes)
    names = _image_names(folder)
    if split == "train" or not names:
        raise UserError(
            f"no class folders in {folder}: expected {folder}/<class>/<image>; make one folder a class, named for it"
        )
    train_folder = root / SPLIT_FOLDERS["train"][0]
    train_classes = _class_folders(train_folder) if train_folder.is_dir() else None
    labels = read_flat_labels(folder, [name.removeprefix(f"{IMAGES}/") for name in names], train_classes)
    classes = train_classes or sorted(set(labels))
    index_of = {name: index for index, name in enumerate(classes)}
    if unknown := next((label for label in labels if label not in index_of), None):
        raise UserError(f"{folder} has images of class {unknown!r}, which {train_folder} lacks; add its class folder")
    return _image_files(folder, names, torch.tensor([index_of[label] for label in labels]), classes)


def read_images(files: ImageFiles, image_size: int) -> ImageSet:
    """Read `files` into memory, each by `read_small`.

    The images are uint8 (N, 3, image_size, image_size) in channels-last. Raises `UserError`, naming the file, when one
    cannot be read.
    """
    # Channels-last, as the loader has it, which needs no copy then.
    images = torch.empty(len(files), image_size, image_size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)

    def read(rows):
        for row in rows:
            images[row] = read_small(files.path(row), image_size)
        return len(rows)

    blocks = [range(start, min(start + BLOCK, len(files))) for start in range(0, len(files), BLOCK)]
    hidden = None if len(files) >= SHOW_PROGRESS_FROM else True
    with (
        ThreadPoolExecutor() as pool,
        tqdm(
            desc=f"Reading {printable(files.root)}", total=len(files), unit=" images", leave=False, disable=hidden
        ) as bar,
    ):
        for count in pool.map(read, blocks):
            bar.update(count)
    return ImageSet(images, files.targets, files.classes)


def read_folder(root: str | os.PathLike[str], split: str, image_size: int = 32) -> ImageSet:
    """The images that `find_images` finds, read into memory by `read_images`; raises `UserError` as these do."""
    return read_images(find_images(root, split), image_size)


def check_same_classes(
    train: ImageSet | ImageFiles, other: ImageSet | ImageFiles, root: str | os.PathLike[str], split: str = "test"
) -> None:
    """Raise `UserError` unless both splits of `root` have the same classes: a label must mean the same in both.

    split: the name of the `other`.
    """
    if train.classes == other.classes:
        return
    only_train, only_other = sorted({*train.classes} - {*other.classes}), sorted({*other.classes} - {*train.classes})
    missing = [
        f"missing from {name}: {printable(', '.join(names[:5]))}{' …' if len(names) > 5 else ''}"
        for name, names in ((split, only_train), ("train", only_other))
        if names
    ]
    raise UserError(
        f"{root} has {len(train.classes)} classes in train and {len(other.classes)} in {split} ({'; '.join(missing)}): "
        "both need the same classes; add or remove these"
    )


def _split_folder(root, split):
    names = SPLIT_FOLDERS[split]
    if not root.is_dir():
        raise UserError(
            f"no folder {root}: expected {root}/{names[0]}/<class>/<image>; give its path with DATASET.ROOT <folder>"
        )
    folders = [root / name for name in names if (root / name).is_dir()]
    if folders:
        # ImageNet and Tiny-ImageNet come with a `test` that has no labels, beside `val`.
        return next((folder for folder in folders if _has_labels(folder)), folders[-1])
    raise UserError(
        f"no folder {' or '.join(names)} in {root}: expected {root}/{names[0]}/<class>/<image>; "
        "make it, or give another path with DATASET.ROOT <folder>"
    )


def _has_labels(folder):
    return bool(_class_folders(folder) or find_label_file(folder))


def _image_files(folder, names, targets, classes):
    return ImageFiles(str(folder), np.array([os.fsencode(name) for name in names]), targets, classes)


def _class_folders(folder):
    """Names of the visible subfolders, sorted; none where the only one, `images`, holds a flat folder's images."""
    with os.scandir(folder) as entries:
        # A link to nowhere is listed, so that reading it says so.
        names = sorted(
            entry.name
            for entry in entries
            if not entry.name.startswith(".") and (entry.is_dir() or (entry.is_symlink() and not entry.is_file()))
        )
    return [] if names == [IMAGES] else names


def _image_names(folder):
    """Paths, relative to `folder` and sorted, of the images in it or, where it has one, in its subfolder `images`.

    Raises `UserError` for one that is no file: a pipe, a device, a link to one or to nowhere.
    """
    prefix = f"{IMAGES}/" if (folder / IMAGES).is_dir() else ""
    with os.scandir(folder / prefix) as entries:
        images = [
            entry
            for entry in entries
            if entry.name.lower().endswith(EXTENSIONS) and not entry.name.startswith(".") and not entry.is_dir()
        ]
    for entry in images:
        if not entry.is_file():
            try:
                open_regular(entry.path).close()
            except OSError as error:
                raise unreadable(entry.path, error) from error
    return sorted(prefix + entry.name for entry in images)
