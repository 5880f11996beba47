"""The pixels of an image file, the fastest way that reads it right."""

import os
import struct

import numpy as np
import torch
from PIL import Image

from mdistiller.dataset.images import MAX_BYTES, check_size, open_image, to_rgb
from mdistiller.files import open_regular

JPEG_FRAMES = 0xC0, 0xC1, 0xC2  # markers of the segment that tells an image's size
JPEG_SEGMENTS = 0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE  # and of those that may come before it


def decode(path: str | os.PathLike[str], image_size: int) -> torch.Tensor:
    """The image file `path` as uint8 (1, 3, H, W) in channels-last, equal to what PIL reads.

    Raises `UserError` as `open_image` does.
    """
    try:
        image = _decode_jpeg(path, image_size)
    except (ImportError, OSError, RuntimeError, ValueError, Image.DecompressionBombError):
        image = None  # a torchvision without decoders, or a file of which PIL tells more
    if image is not None:
        return image[None].contiguous(memory_format=torch.channels_last)
    with open_image(path, image_size) as file:
        pixels = torch.from_numpy(np.array(to_rgb(file)))
    return pixels.permute(2, 0, 1)[None]


def _decode_jpeg(path, image_size):
    """The JPEG file `path` by torchvision, in half of PIL's time; None for a file that is left to PIL."""
    from torchvision.io import ImageReadMode, decode_image  # torchvision takes seconds to import

    with open_regular(path) as file:
        count = os.fstat(file.fileno()).st_size
        if count > MAX_BYTES or file.read(2) != b"\xff\xd8":
            return None
        file.seek(0)
        content = bytearray(file.read())
    size = jpeg_size(content)
    if size is None:
        return None
    check_size(size, image_size)
    return decode_image(torch.frombuffer(content, dtype=torch.uint8), ImageReadMode.RGB)


def jpeg_size(content: bytes | bytearray) -> tuple[int, int] | None:
    """Width and height in the header of a JPEG file in grey or three colours; None for others and after odd markers.

    This takes a few microseconds, PIL's reading of a header in a worker a tenth of what decoding a photograph takes.
    """
    place = 2
    while place + 10 <= len(content) and content[place] == 0xFF:
        marker, (length,) = content[place + 1], struct.unpack_from(">H", content, place + 2)
        if marker in JPEG_FRAMES:
            height, width, colours = struct.unpack_from(">HHB", content, place + 5)
            return (width, height) if colours in (1, 3) else None
        if marker not in JPEG_SEGMENTS or length < 2:
            return None
        place += 2 + length
    return None
