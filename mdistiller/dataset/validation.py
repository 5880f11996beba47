"""Validation: a part of the training images that is held out, to choose the best network on."""

from typing import TypeVar

import numpy as np
import torch

from mdistiller.dataset.images import ImageFiles, ImageSet
from mdistiller.errors import UserError

STREAM = 1  # of the seed's random numbers, apart from those of other uses

Found = TypeVar("Found", ImageSet, ImageFiles)


def hold_out(train: Found, fraction: float, seed: int) -> tuple[Found, Found]:
    """What remains of `train`, and the `fraction` of it that validates: both in its order, with all its classes.

    Of each class `fraction` is held out, chosen by `seed` alone: the number of images is rounded to the nearest, halves
    up, and at least one image always stays for training. A larger fraction holds out the same images and more.
    Raises `UserError` when no class has enough images for one.
    """
    targets = train.targets.cpu().numpy()
    counts = np.bincount(targets, minlength=len(train.classes))
    held = np.minimum(np.floor(fraction * counts + 0.5).astype(np.int64), np.maximum(counts - 1, 0))
    if not held.any():
        raise UserError(
            f"DATASET.VAL_FRACTION {fraction:g} holds out none of {len(train)} training images of {len(train.classes)} "
            "classes; type a larger one, or 0"
        )
    draws = np.random.default_rng([seed, STREAM]).random(len(targets))
    shuffled = np.lexsort((draws, targets))  # class by class
    place = np.arange(len(targets)) - np.repeat(counts.cumsum() - counts, counts)  # in its class
    validates = np.empty(len(targets), bool)
    validates[shuffled] = place < np.repeat(held, counts)
    rest, part = (torch.from_numpy(rows.nonzero()[0]) for rows in (~validates, validates))
    return train.select(rest), train.select(part)
