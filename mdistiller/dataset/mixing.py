"""What training images go through after DATASET.AUGMENT, each as torchvision's transforms v2 have it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mdistiller.dataset.augment import Draws, operate
from mdistiller.dataset.operations import rand_augment_table

RAND_AUGMENT_OPERATIONS = 2  # of each image
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # of the image's area; of height to width
ERASING_ATTEMPTS = 10


@dataclass(frozen=True)
class Extras:
    """The keys of DATASET of these names; 0: not at all.

    randaugment: a magnitude; erasing: the share of images; mixup, cutmix: α of the Beta distribution of the weight that
    an image keeps where its batch is mixed, of both by one or the other in each batch.
    """

    randaugment: int = 0
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether an image is mixed with another one."""
        return self.mixup > 0 or self.cutmix > 0


NONE = Extras()


def rand_augment(images: torch.Tensor, draws: Draws, magnitude: int) -> torch.Tensor:
    """Apply two random operations to each image, as `v2.RandAugment(2, magnitude)` does to a PIL image.

    images: uint8 (n, 3, H, W). Returns the same shape. Source: Cubuk et al., RandAugment, NeurIPS 2020.
    """
    operations = [*rand_augment_table(magnitude, *images.shape[2:]).values()]
    for _ in range(RAND_AUGMENT_OPERATIONS):
        choices, ends = draws.integers(len(operations), images), draws.integers(2, images)
        images = operate(images.contiguous(), operations, choices, ends.double())
    return images


def erase(images: torch.Tensor, draws: Draws, probability: float) -> None:
    """Set a rectangle of some images to 0, in place, as `v2.RandomErasing(probability)` does to one image.

    images: normalised, (n, 3, H, W). Source: Zhong et al., Random Erasing Data Augmentation, AAAI 2020.
    """
    height, width = images.shape[2:]
    is_erased = draws.uniform(0, 1, images) < probability
    area = height * width * draws.uniform(*ERASED_AREA, images, ERASING_ATTEMPTS).double()
    lowest, highest = map(math.log, ERASED_RATIO)
    ratio = draws.uniform(lowest, highest, images, ERASING_ATTEMPTS).double().exp()
    heights, widths = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (heights < height) & (widths < width)
    first = fits.int().argmax(dim=0, keepdim=True)
    sides = torch.cat([each.gather(0, first) for each in (heights, widths)])
    room = torch.tensor([[height], [width]]) - sides + 1
    corners = (draws.uniform(0, 1, images, 2).double() * room).floor()
    sides = sides * (is_erased & fits.any(dim=0))
    spans = torch.stack([corners, corners + sides]).to(images.device, non_blocking=True)
    rows, columns = (
        (spans[0, axis, :, None] <= places) & (places < spans[1, axis, :, None])
        for axis, places in enumerate(torch.arange(size, device=images.device) for size in (height, width))
    )
    images.masked_fill_((rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1), 0)


class Mixture(NamedTuple):
    """How the images of a batch are mixed with partners.

    weight: of an image's own class; box: top, bottom, left and right of what comes from its partner; None: all of it,
    weighed.
    """

    weight: float
    box: tuple[int, int, int, int] | None = None

    def of(self, images: torch.Tensor, partners: torch.Tensor) -> torch.Tensor:
        """The mixed images, of two (n, 3, H, W)."""
        if self.box is None:
            return images * self.weight + partners * (1 - self.weight)
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[..., top:bottom, left:right] = partners[..., top:bottom, left:right]
        return mixed


def draw_mixture(seed: int, extras: Extras, height: int, width: int) -> Mixture:
    """The mixture of a batch of images of `height` and `width` pixels, as `v2.MixUp` or `v2.CutMix` draws it.

    Sources: Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019.
    """
    generator = np.random.default_rng(seed)
    cuts = extras.cutmix > 0 and (extras.mixup == 0 or generator.integers(2) == 1)
    alpha = extras.cutmix if cuts else extras.mixup
    weight = float(generator.beta(alpha, alpha))
    if not cuts:
        return Mixture(weight)
    spans = []
    for size in (height, width):
        centre, half = int(generator.integers(size)), int(0.5 * math.sqrt(1 - weight) * size)
        spans += [max(centre - half, 0), min(centre + half, size)]
    top, bottom, left, right = spans
    return Mixture(1 - (bottom - top) * (right - left) / (height * width), (top, bottom, left, right))
