"""A teacher sees images as it was trained on them: its normalisation, its resolution."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import is_number, is_whole


class Sight(NamedTuple):
    """How a network's images look: a side in pixels, and three means and deviations of values in 0..1."""

    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def over(self, meta: Mapping[str, Any]) -> "Sight":
        """This, where the `meta` of the network's weights says nothing else, or nothing that can be."""
        size, normalisation = meta.get("dataset", {}).get("image_size"), meta.get("normalisation", {})
        mean, std = normalisation.get("mean"), normalisation.get("std")
        sight = self
        if is_whole(size) and 8 <= size <= 1024:
            sight = sight._replace(image_size=size)
        if are_three(mean, 0, 1) and are_three(std, 0.001, 1):
            sight = sight._replace(mean=tuple(mean), std=tuple(std))
        return sight

    def __str__(self) -> str:
        mean, std = ("[{}]".format(", ".join(f"{value:g}" for value in values)) for values in (self.mean, self.std))
        return f"{self.image_size}x{self.image_size} pixels, mean {mean}, deviation {std}"


def are_three(values: Any, low: float, high: float) -> bool:
    """Whether `values` are three numbers from `low` to `high`."""
    is_list = isinstance(values, (list, tuple)) and len(values) == 3
    return is_list and all(is_number(value) and low <= value <= high for value in values)


class Seeing(nn.Module):
    """`network`, which sees images by its own `Sight`, of images (batch, 3, height, width) by another.

    They are resized bilinearly, antialiased; that a resized image is a mean of pixels lets the order not matter.
    Everything else of it is that of `network`.
    """

    def __init__(self, network: nn.Module, own: Sight, given: Sight):
        super().__init__()
        self.network, self.own, self.given = network, own, given
        own_mean, own_std, mean, std = (
            torch.tensor(values, dtype=torch.float64).view(3, 1, 1)
            for values in (own.mean, own.std, given.mean, given.std)
        )
        self.register_buffer("scale", (std / own_std).float(), persistent=False)
        self.register_buffer("shift", ((mean - own_mean) / own_std).float(), persistent=False)
        self.is_resized = own.image_size != given.image_size
        self.is_normalised = (own.mean, own.std) != (given.mean, given.std)

    def forward(self, image: torch.Tensor) -> Any:
        if self.is_normalised:
            image = image * self.scale + self.shift
        if self.is_resized:
            image = F.interpolate(image, 2 * (self.own.image_size,), mode="bilinear", antialias=True)
        return self.network(image)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":
                raise
            return getattr(self.network, name)
