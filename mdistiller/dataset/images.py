"""What every data set is once found: its images in one tensor, or their files."""

from dataclasses import dataclass
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

    def __len__(self):
        return len(self.targets)

    def to(self, device):
        """The same set with its tensors on `device`."""
        return ImageSet(self.images.to(device), self.targets.to(device), self.classes)


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

    def __len__(self):
        return len(self.targets)

    def path(self, row):
        """The path of one file."""
        return Path(self.root, self.names[row].decode("utf-8", "surrogateescape"))

    def to(self, device):
        """The same files with their targets on `device`."""
        return ImageFiles(self.root, self.names, self.targets.to(device), self.classes)


def read_image(path):
    """The image file `path` as PIL reads it, in RGB. Raises `UserError`, naming the file, where it cannot."""
    try:
        with Image.open(path) as file:
            if file.mode.startswith("I"):  # 16 bits a pixel, which convert would clip instead of scale
                file = Image.fromarray((np.asarray(file) // 256).clip(0, 255).astype(np.uint8))
            return file.convert("RGB")
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise UserError(
            f"cannot read image {path} ({error}): expected a whole image file; replace it or remove it"
        ) from error


def read_small(path, image_size):
    """The image file `path` as uint8 (3, image_size, image_size).

    An image of another size is scaled (bilinear, anti-aliased) until its shorter side is `image_size`, then its centre
    square is kept. Raises `UserError`, naming the file, where it cannot be read.
    """
    image = read_image(path)
    if image.size != (image_size, image_size):
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
