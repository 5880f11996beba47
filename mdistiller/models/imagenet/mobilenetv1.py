"""MobileNetV1, with the default initialisation of PyTorch, as published.

Source: Howard et al., MobileNets: Efficient Convolutional Neural Networks for Mobile Vision Applications, arXiv 2017.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, global_average

STEM_CHANNELS = 32

# channels and stride of each separable convolution
SETTINGS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)

FEATURE_BLOCKS = (3, 5, 11, 13)  # entries of `model` whose output is a feature map


class MobileNetV1(nn.Module):
    """MobileNetV1 of full width.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the maps' sides are h/4, h/8, h/16, h/32. As
    published, the stem's is not among them.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        channels = STEM_CHANNELS
        blocks = [make_stem(channels)]
        for out_channels, stride in SETTINGS:
            blocks.append(make_separable(channels, out_channels, stride))
            channels = out_channels
        self.model = nn.Sequential(*blocks)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        feats, preact_feats = [], []
        for index, block in enumerate(self.model):
            preact = block(x)
            x = F.relu(preact)
            if index in FEATURE_BLOCKS:
                feats.append(x)
                preact_feats.append(preact)
        pooled = global_average(x)
        features: Features = {"feats": feats, "preact_feats": preact_feats, "final_map": x, "pooled_feat": pooled}
        return self.fc(pooled), features

    def get_stage_channels(self) -> list[int]:
        return [norm.num_features for norm in self.get_bn_before_relu()]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [cast(nn.BatchNorm2d, cast(nn.Sequential, self.model[index])[-1]) for index in FEATURE_BLOCKS]


def make_stem(channels: int) -> nn.Sequential:
    """3x3 convolution, before its ReLU: (batch, 3, h, w) -> (batch, channels, h/2, w/2)."""
    return nn.Sequential(nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels))


def make_separable(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3, 1x1: (batch, in_channels, h, w) -> (batch, channels, h/stride, w/stride), before the last ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


NETWORKS = {"MobileNetV1": MobileNetV1}
