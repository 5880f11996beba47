"""The five crops of an image whose predictions are averaged, with those of their mirror images: ten.

Source: Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012,
section 4.1; torchvision's `TenCrop`.
"""

import torch

from mdistiller.dataset.augment import CROP_PADDING
from mdistiller.dataset.streaming import resize_for_crop

CROPS = 5


def corners_and_centre(images: torch.Tensor, size: int) -> torch.Tensor:
    """Images (batch, channels, H, W) as (5 · batch, channels, size, size): the five crops of an image in a row."""
    height, width = images.shape[2:]
    bottom, right = height - size, width - size
    places = (0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))
    crops = [images[:, :, top : top + size, left : left + size] for top, left in places]
    return torch.stack(crops, dim=1).flatten(0, 1)


def five_crops(image: torch.Tensor, size: int) -> torch.Tensor:
    """Those of a photograph, uint8 (1, 3, H, W), whose shorter side is scaled to 256/224 of `size`: (5, 3, size, size).

    They equal torchvision's `FiveCrop` of its `Resize`, up to rounding.
    """
    return corners_and_centre(resize_for_crop(image, size), size)


def padded_crops(images: torch.Tensor, black: torch.Tensor) -> torch.Tensor:
    """Those of small images (batch, 3, size, size), padded by as many black pixels as in training: (5 · batch, …).

    black: (3, 1, 1), what the value 0 of a pixel is in `images`.
    """
    count, channels, height, width = images.shape
    padded = black.expand(count, channels, height + 2 * CROP_PADDING, width + 2 * CROP_PADDING).clone()
    padded[:, :, CROP_PADDING:-CROP_PADDING, CROP_PADDING:-CROP_PADDING] = images
    return corners_and_centre(padded, height).contiguous(memory_format=torch.channels_last)
