"""Batched augmentation of uint8 images, on any device.

Random numbers are always drawn on the host, from a CPU generator: a seed gives the same pictures on every device, and
the device never has to wait for a choice to be known.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from mdistiller.dataset.operations import operation_table, rotate

CROP_PADDING = 4
ROTATION = 20  # degrees, either way
OPERATIONS_PER_IMAGE = 2
CUTOUT_MAX_SIDE = 0.5  # of the image's width
CUTOUT_COLOUR = (125, 123, 114)


class Draws:
    """Random numbers, one an image, from a generator on the CPU.

    count: of the images that they are drawn for; rows: int64 (n,), those of the images that are augmented here, whose
    numbers are kept. Without both, those that are augmented are all.
    """

    def __init__(self, generator: torch.Generator, count: int = 0, rows: torch.Tensor | None = None):
        self.generator, self.count, self.rows = generator, count, rows

    def integers(self, high: int, images: torch.Tensor, *shape: int) -> torch.Tensor:
        """Whole numbers from 0 to `high` - 1 for `images`, int64 (*shape, len(images))."""
        return self._keep(lambda size: torch.randint(high, size, generator=self.generator), images, shape)

    def uniform(self, low: float, high: float, images: torch.Tensor, *shape: int) -> torch.Tensor:
        """Numbers from `low` to `high` for `images`, float32 (*shape, len(images))."""
        return self._keep(lambda size: torch.empty(size).uniform_(low, high, generator=self.generator), images, shape)

    def among(self, chosen: torch.Tensor) -> "Draws":
        """What draws for some of the images alone. chosen: bool (count,), or of all images."""
        if self.rows is None:
            return self
        places = chosen.cumsum(0) - 1
        return Draws(self.generator, int(chosen.sum()), places[self.rows[chosen[self.rows]]])

    def _keep(
        self, draw: Callable[[tuple[int, ...]], torch.Tensor], images: torch.Tensor, shape: tuple[int, ...]
    ) -> torch.Tensor:
        if self.rows is None:
            return draw((*shape, len(images)))
        return draw((*shape, self.count))[..., self.rows]


def weak(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Pad with 4 black pixels, crop back to the original size at a random place, mirror half of the images.

    images: uint8 (n, 3, H, W). Returns the same shape in channels-last; images in that layout are the fastest.
    Source: Deep Residual Learning, CVPR 2016, section 4.2.
    """
    count, channels, height, width = images.shape
    if count == 0:
        return images
    top, left = draws.integers(2 * CROP_PADDING + 1, images, 2)
    mirrored = draws.integers(2, images).nonzero().flatten()
    padded_height, padded_width = height + 2 * CROP_PADDING, width + 2 * CROP_PADDING
    first = (torch.arange(count) * padded_height + top) * padded_width + left
    mirrored, first = mirrored.to(images.device, non_blocking=True), first.to(images.device, non_blocking=True)
    rows = (first[:, None] + padded_width * torch.arange(height, device=images.device)).flatten()

    pixels = images.permute(0, 2, 3, 1).contiguous()
    pixels = pixels.index_copy(0, mirrored, pixels.index_select(0, mirrored).flip(2))
    padded = F.pad(pixels, [0, 0] + [CROP_PADDING] * 4)
    # `runs` views every run of `width` neighbouring pixels; each row of a crop is one of them, copied in one piece.
    runs = padded.flatten().unfold(0, channels * width, channels)
    return runs.index_select(0, rows).view_as(pixels).permute(0, 3, 1, 2)


def rotate_and_mirror(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Turn each image by up to 20 degrees either way, black outside, then mirror half of the images.

    images: uint8 (n, 3, H, W). Returns the same shape. Equal to torchvision's RandomRotation(20) and
    RandomHorizontalFlip of PIL images. Source: MDistiller's training on Tiny-ImageNet.
    """
    angles, mirrored = draws.uniform(-ROTATION, ROTATION, images), draws.integers(2, images).nonzero().flatten()
    angles, mirrored = (numbers.to(images.device, non_blocking=True) for numbers in (angles, mirrored))
    images = rotate(images, angles)
    return images.index_copy_(0, mirrored, images.index_select(0, mirrored).flip(3))


def strong(images: torch.Tensor, draws: Draws, posterize_bits: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """`weak`, then `distort`. images: uint8 (n, 3, H, W). Returns the same shape."""
    return distort(weak(images, draws), draws, posterize_bits)


def distort(images: torch.Tensor, draws: Draws, posterize_bits: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """Apply two random operations to each image, then cutout.

    images: uint8 (n, 3, H, W). Returns the same shape. posterize_bits: the fewest and the most bits that Posterize
    keeps, one in the CIFAR recipe, (4, 8) in the ImageNet one.
    """
    images = images.contiguous()
    for _ in range(OPERATIONS_PER_IMAGE):
        images = random_operation(images, draws, posterize_bits)
    return cutout(images, draws)


def random_operation(images: torch.Tensor, draws: Draws, posterize_bits: tuple[int, int] = (1, 1)) -> torch.Tensor:
    """Apply to each image one of the fourteen operations, at a magnitude uniform in the operation's range.

    images: uint8 (n, 3, H, W). Returns the same shape. Source: RandAugment, NeurIPS 2020, with random magnitudes.
    """
    operations = operation_table(posterize_bits)
    choices, uniform = draws.integers(len(operations), images), draws.uniform(0, 1, images)
    # Sorted by operation, the rows that share one are a slice whose bounds the host knows.
    order = choices.argsort(stable=True)
    counts = choices.bincount(minlength=len(operations)).tolist()
    uniform = uniform[order].to(images.device, non_blocking=True)
    order, inverse = torch.stack([order, order.argsort()]).to(images.device, non_blocking=True)
    groups = zip(operations.values(), images.index_select(0, order).split(counts), uniform.split(counts), strict=True)
    results = [op(group, low + (high - low) * u) for (op, low, high), group, u in groups]
    return torch.cat(results).index_select(0, inverse)


def cutout(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Paint one square on each image as the SKD release does by PIL; its side is uniform in 0 to 0.5 of the width.

    A point is drawn in the image. Half a side left of it and above it, but not outside the image, is the square's
    corner, from which the whole side is measured: near the left and the top edge the whole square remains, near the
    right and the bottom edge a part. Both ends are painted, 8.3 % of the pixels of images of 32 pixels a side.
    images: uint8 (n, 3, H, W). Returns the same shape.
    Source: Improved Regularization of Convolutional Neural Networks with Cutout, arXiv 1708.04552, whose square is
    centred on the point.
    """
    height, width = images.shape[2:]
    y, x, side = draws.uniform(0, 1, images, 3).double()[..., None]
    side = side * CUTOUT_MAX_SIDE * width
    spans = torch.stack([*_cutout_span(y, side, height), *_cutout_span(x, side, width)])
    top, bottom, left, right = spans.to(images.device, non_blocking=True)
    rows, columns = (torch.arange(length, device=images.device) for length in (height, width))
    rows, columns = (top <= rows) & (rows <= bottom), (left <= columns) & (columns <= right)
    square = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)
    images = images.clone()
    for channel, value in enumerate(CUTOUT_COLOUR):
        images[:, channel : channel + 1].masked_fill_(square, value)
    return images


def _cutout_span(uniform, side, length):
    """The first and the last pixel that a square covers along an axis of `length` pixels; the last may lie outside.

    uniform: in 0..1, float64 (n, 1), the place of the point; the release draws it in 1..length, as NumPy's
    `uniform(length)` means. side: float64 (n, 1). Returns two whole float64 (n, 1).
    """
    first = (1 + (length - 1) * uniform - side / 2).clamp(min=0).floor()
    return first, (first + side).floor()
