"""What every data set is once found: its images in one tensor, or their files."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from mdistiller.errors import UserError


@dataclass(frozen=True)
class ImageSet:
    """Labelled images that fit in memory.

    images: uint8 (N, 3, H, W); targets: int64 (N,), indices into `classes`; classes: the class names in index order.
    """

    images: torch.Tensor
    targets: torch.Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.targets)

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set with its tensors on `device`."""
        return ImageSet(self.images.to(device), self.targets.to(device), self.classes)

    def select(self, rows: torch.Tensor) -> "ImageSet":
        """A set of the images in `rows`, int64 (n,), with all classes; its images are in channels-last."""
        images = self.images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
        return ImageSet(images, self.targets[rows], self.classes)


@dataclass(frozen=True)
class ImageFiles:
    """Labelled image files, read when they are needed.

    names: paths relative to `root`, as an array of bytes (one object for a million files, which worker processes share
    without a copy); targets: int64 (N,), indices into `classes`; classes: the class names in index order.
    """

    root: str
    names: np.ndarray
    targets: torch.Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.targets)

    def path(self, row: int) -> Path:
        """The path of the file in `row`, 0 to len - 1."""
        return Path(self.root, self.names[row].decode("utf-8", "surrogateescape"))

    def to(self, device: torch.device | str) -> "ImageFiles":
        """The same files with their targets on `device`."""
        return ImageFiles(self.root, self.names, self.targets.to(device), self.classes)

    def select(self, rows: torch.Tensor) -> "ImageFiles":
        """A set of the files in `rows`, int64 (n,), with all classes."""
        return ImageFiles(self.root, self.names[rows.numpy()], self.targets[rows], self.classes)


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image file `path` as PIL reads it, in RGB. Raises `UserError`, naming the file, where it cannot."""
    try:
        with Image.open(path) as file:
            if file.mode.startswith("I"):  # 16 bits a pixel, which convert would clip instead of scale
                return Image.fromarray((np.asarray(file) // 256).clip(0, 255).astype(np.uint8)).convert("RGB")
            return file.convert("RGB")
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise UserError(
            f"cannot read image {path} ({error}): expected a whole image file; replace it or remove it"
        ) from error


def read_small(path: str | os.PathLike[str], image_size: int) -> torch.Tensor:
    """The image file `path` as uint8 (3, image_size, image_size), brought to that size by `fit`.

    Raises `UserError`, naming the file, where it cannot be read.
    """
    return _to_tensor(fit(read_image(path), image_size))


def fit(image: Image.Image, image_size: int) -> Image.Image:
    """`image` at `image_size` pixels a side; one of that size is returned as it is.

    Another one is scaled (bilinear, anti-aliased) until its shorter side is `image_size`, then its centre square is
    kept.
    """
    if image.size == (image_size, image_size):
        return image
    return ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)


def resize_images(image_set: ImageSet, image_size: int) -> ImageSet:
    """`image_set`, which is in host memory, with each of its images brought to `image_size` by `fit`.

    Its images are uint8 (N, 3, image_size, image_size) in channels-last.
    """
    sources = image_set.images.permute(0, 2, 3, 1).contiguous().numpy()
    images = torch.empty(len(sources), image_size, image_size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    for row, source in enumerate(sources):
        images[row] = _to_tensor(fit(Image.fromarray(source), image_size))
    return replace(image_set, images=images)


def _to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
