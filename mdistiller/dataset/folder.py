"""A folder of images: ROOT/train/<class>/* and ROOT/test/<class>/*, or val in place of test."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from mdistiller.dataset.images import ImageSet
from mdistiller.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}


def read_folder(root, split, image_size=32):
    """Read one split, "train" or "test", of the folder `root`; classes are its subfolders, in sorted order.

    An image of another size is scaled (bilinear, anti-aliased) until its shorter side is `image_size`, then its centre
    square is kept. Hidden files and files that are not images by their extension are passed over.
    Returns an `ImageSet` of uint8 (N, 3, image_size, image_size). Raises `UserError` when a folder is missing or
    empty, or when an image cannot be read.
    """
    folder = _split_folder(Path(root), split)
    class_folders = [path for path in _visible(folder) if path.is_dir()]
    if not class_folders:
        raise UserError(
            f"no class folders in {folder}: expected {folder}/<class>/<image>; make one folder a class, named for it"
        )
    paths = [_image_paths(path) for path in class_folders]
    images = torch.empty(sum(map(len, paths)), 3, image_size, image_size, dtype=torch.uint8)
    for row, path in enumerate(path for group in paths for path in group):
        images[row] = _read_image(path, image_size)
    targets = torch.arange(len(paths)).repeat_interleave(torch.tensor([len(group) for group in paths]))
    return ImageSet(images, targets, [path.name for path in class_folders])


def check_same_classes(train, test, root):
    """Raise `UserError` unless both splits of `root` have the same classes, without which their labels disagree."""
    if train.classes == test.classes:
        return
    only_train, only_test = sorted({*train.classes} - {*test.classes}), sorted({*test.classes} - {*train.classes})
    missing = [
        f"missing from {split}: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}"
        for split, names in (("test", only_train), ("train", only_test))
        if names
    ]
    raise UserError(
        f"{root} has {len(train.classes)} classes in train and {len(test.classes)} in test ({'; '.join(missing)}): "
        "both need the same class folders; add or remove these"
    )


def _split_folder(root, split):
    names = SPLIT_FOLDERS[split]
    if not root.is_dir():
        raise UserError(
            f"no folder {root}: expected {root}/{names[0]}/<class>/<image>; give its path with DATASET.ROOT <folder>"
        )
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise UserError(
        f"no folder {' or '.join(names)} in {root}: expected {root}/{names[0]}/<class>/<image>; "
        "make it, or give another path with DATASET.ROOT <folder>"
    )


def _visible(folder):
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _image_paths(class_folder):
    paths = [path for path in _visible(class_folder) if path.suffix.lower() in EXTENSIONS and path.is_file()]
    if not paths:
        raise UserError(
            f"class folder {class_folder} has no images: expected files ending in {' '.join(EXTENSIONS)}; "
            "fill it or remove it"
        )
    return paths


def _read_image(path, size):
    """uint8 (3, size, size)."""
    try:
        with Image.open(path) as file:
            if file.mode.startswith("I"):  # 16 bits a pixel, which convert would clip instead of scale
                file = Image.fromarray((np.asarray(file) // 256).clip(0, 255).astype(np.uint8))
            image = file.convert("RGB")
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise UserError(
            f"cannot read image {path} ({error}): expected a whole image file; replace it or remove it"
        ) from error
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
