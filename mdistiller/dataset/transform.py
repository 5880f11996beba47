"""One image as an evaluation sees it."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from mdistiller.dataset.images import check_size, fit, to_rgb
from mdistiller.dataset.streaming import centre_crop
from mdistiller.errors import UserError


class Transform:
    """An image as the evaluation of a network gives it one, bit for bit.

    It takes a PIL image, or uint8 (3, H, W), of any size, and returns float32 (3, image_size, image_size), normalised
    by `mean` and `std`, three numbers each for values in 0..1. crops: whether the shorter side is scaled to 256/224 of
    `image_size` before the centre is cut out, as of photographs, or to `image_size`, as of small images.
    Raises UserError for what is no such image.
    """

    def __init__(self, image_size: int, mean: Sequence[float], std: Sequence[float], crops: bool):
        self.image_size, self.mean, self.std, self.crops = image_size, tuple(mean), tuple(std), crops

    def __call__(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        pixels = self.pixels_of(image).float().div_(255)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return pixels.sub_(mean).div_(std)

    def pixels_of(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """`image` before it is normalised: uint8 (3, image_size, image_size)."""
        try:
            picture = to_rgb(image) if isinstance(image, Image.Image) else picture_of(image)
            check_size(picture.size, self.image_size)
        except Image.DecompressionBombError as error:
            raise UserError(f"an image of {picture.size[0]} x {picture.size[1]} pixels is too large") from error
        except (ValueError, OSError) as error:
            raise UserError(f"cannot use an image ({error}); expected a whole one in RGB") from error
        picture = picture if self.crops else fit(picture, self.image_size)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return centre_crop(pixels[None], self.image_size)[0] if self.crops else pixels

    def __repr__(self) -> str:
        return f"Transform({self.image_size}, {self.mean}, {self.std}, crops={self.crops})"


def picture_of(image: torch.Tensor) -> Image.Image:
    """uint8 (3, H, W) as a picture. Raises UserError for anything else."""
    if not isinstance(image, torch.Tensor) or image.dtype != torch.uint8 or image.dim() != 3 or len(image) != 3:
        is_tensor = isinstance(image, torch.Tensor)
        got = f"a tensor {tuple(image.shape)} of {image.dtype}" if is_tensor else f"a {type(image).__name__}"
        raise UserError(f"got {got}; expected a PIL image, or a uint8 tensor (3, height, width)")
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())
