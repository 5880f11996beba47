"""What every data set is once found: its images in one tensor, or their files."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, TiffImageFile

from mdistiller.errors import UserError, printable
from mdistiller.files import open_regular

# What PIL may take a file for, whatever its name: others of its formats start programs (EPS) or hold no photographs.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 2**28 // 3  # of an image: 256 MiB in RGB
MAX_RATIO = 1000  # of an image's longer side to its shorter one
MAX_BYTES = 6 * MAX_PIXELS  # of a file: so many pixels of 16 bits a colour, uncompressed


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


@contextmanager
def open_image(path: str | os.PathLike[str], image_size: int) -> Iterator[Image.Image]:
    """The image in the file `path`, open, of which no more than the header has been read.

    image_size: what its shorter side will be scaled to, in pixels. Raises `UserError`, naming the file, where that is
    not of FORMATS or has more than MAX_PIXELS pixels, before or after scaling; and for whatever else goes wrong while
    the image is read.
    """
    # PIL warns of what either is an error here or does no harm. Appended, which changes no filter that a user has set.
    warnings.filterwarnings("ignore", module=r"PIL\.", append=True)
    try:
        with open_regular(Path(path)) as file:
            if os.fstat(file.fileno()).st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES:,} bytes")
            with Image.open(file, formats=FORMATS) as image:
                check_size(image.size, image_size)
                yield image
    except Image.UnidentifiedImageError as error:
        raise unreadable(path, f"a damaged file, or none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise unreadable(path, f"more than {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # a damaged file can make a decoder raise anything
        raise unreadable(path, error) from error


def unreadable(path: str | os.PathLike[str], reason: Exception | str) -> UserError:
    """The error to raise where the image file `path` cannot be read for `reason`, which may be another error."""
    if isinstance(reason, Exception):
        reason = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return UserError(
        printable(
            f"cannot read image {os.fspath(path)} ({reason}): expected a whole image file; replace it or remove it"
        )
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in RGB, without its transparency; of 16 bits the upper 8 are kept. Later frames or pages do not count.

    Raises `ValueError` where the numbers of its pixels have no range: fractions, signed ones and those of 32 bits.
    """
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    signed_or_float = set(tags.get(SAMPLEFORMAT, (1,))) - {1}
    wide = image.mode == "I" and image.format not in ("PNG", "PPM")  # which have 16 bits at most
    inverted = image.mode.startswith("I") and tags.get(PHOTOMETRIC_INTERPRETATION) == 0  # PIL takes its white for black
    if signed_or_float or wide or inverted or image.mode == "F":
        raise ValueError("its pixels are no unsigned numbers of 1 to 16 bits from black to white")
    if image.mode.startswith("I"):  # which convert would clip instead of scale
        bits = tags.get(BITSPERSAMPLE, (16,))[0]
        return Image.fromarray((np.asarray(image) >> (bits - 8)).clip(0, 255).astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def read_small(path: str | os.PathLike[str], image_size: int) -> torch.Tensor:
    """The image file `path` as uint8 (3, image_size, image_size), brought to that size by `fit`.

    Raises `UserError`, naming the file, where it cannot be read.
    """
    with open_image(path, image_size) as image:
        return _to_tensor(fit(to_rgb(image), image_size))


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


def check_size(size: tuple[int, int], image_size: int) -> None:
    """Raise an error where an image of `size`, width and height, has none or more than MAX_PIXELS pixels, or is a line.

    Those that it has with its shorter side scaled to `image_size` count too.
    """
    shorter, longer = sorted(size)
    if shorter < 1:
        raise ValueError("it has no pixels")
    if shorter * longer > MAX_PIXELS:
        raise Image.DecompressionBombError
    if longer > MAX_RATIO * shorter:
        raise ValueError(f"{size[0]} x {size[1]} pixels, one side over {MAX_RATIO:,} times the other")
    if longer * image_size**2 > MAX_PIXELS * shorter:
        raise ValueError(
            f"{size[0]} x {size[1]} pixels, and when its shorter side is scaled to {image_size} more than "
            f"{MAX_PIXELS:,}"
        )


def _to_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
