"""A network that ends in the classifier of another one (Chen et al., CVPR 2022)."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import BatchNorm2d, Features, find_classifier, global_average, probe_features
from mdistiller.models.adapt import attach

PLUS = "+"  # between the names of the two networks


def make_projector(channels: int, channels_to: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolutions, the first two half as wide as the last, each with batch norm and ReLU."""
    widths = channels, channels_to // 2, channels_to // 2, channels_to
    layers: list[nn.Module] = []
    for width, width_to, kernel_size in zip(widths, widths[1:], (1, 3, 1), strict=False):
        layers.append(nn.Conv2d(width, width_to, kernel_size, padding=kernel_size // 2, bias=False))
        layers += [BatchNorm2d(width_to), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Reused(nn.Module):
    """`network` without its classifier, a projector to the final map of `other`, and the classifier of `other`.

    `network` is taken as it is, its classifier is removed; of `other` the classifier is copied. The final map is
    pooled to the size of that of `other` where it is larger, for images of `side` pixels; how far is in the state dict.
    "final_map" and "pooled_feat" are the projector's.
    """

    def __init__(self, network: nn.Module, other: nn.Module, side: int = 32):
        super().__init__()
        maps = [probe_features(each, (side, side))["final_map"] for each in (network, other)]
        self.reduction = max(maps[0].shape[2] // maps[1].shape[2], 1)
        self.network: Any = network
        self.projector = make_projector(maps[0].shape[1], maps[1].shape[1])
        self.classifier = copy.deepcopy(find_classifier(other))
        own = find_classifier(network)
        own = getattr(own, "convolution", own)
        name = next(name for name, module in network.named_modules() if module is own)
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, nn.Identity())
        attach(network)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        _, features = self.network(x)
        final_map = features["final_map"]
        if self.reduction > 1:
            final_map = F.avg_pool2d(final_map, self.reduction, ceil_mode=True)
        projected = self.projector(final_map)
        pooled = global_average(projected)
        features.update(final_map=projected, pooled_feat=pooled)
        return self.classifier(pooled), features

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.reduction)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.reduction = int(state)

    def get_stage_channels(self) -> list[int]:
        return self.network.get_stage_channels()

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return self.network.get_bn_before_relu()
