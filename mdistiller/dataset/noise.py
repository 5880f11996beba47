"""Wrong labels, on purpose: symmetric noise."""

from dataclasses import replace

import numpy as np
import torch

from mdistiller.dataset.validation import Found

STREAM = 2  # of the seed's random numbers, apart from those of other uses


def with_label_noise(train: Found, share: float, seed: int) -> Found:
    """`train` with the labels of a `share` of its images, 0 to 1, replaced, each by another class drawn uniformly.

    The number of images is rounded to the nearest, halves up. `seed` alone chooses them and their classes; a larger
    share changes the same labels in the same way, and more. Of a single class nothing changes.
    """
    count, classes = len(train), len(train.classes)
    if classes < 2:
        return train
    rng = np.random.default_rng([seed, STREAM])
    order, shifts = rng.permutation(count), rng.integers(1, classes, size=count)
    chosen = order[: int(np.floor(share * count + 0.5))]
    targets = train.targets.clone()
    targets[chosen] = (targets[chosen] + torch.from_numpy(shifts[chosen])) % classes
    return replace(train, targets=targets)
