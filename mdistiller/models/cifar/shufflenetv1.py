"""ShuffleNet with three groups for small images.

Source: Zhang et al., ShuffleNet: An Extremely Efficient Convolutional Neural Network for Mobile Devices, CVPR 2018.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, channel_shuffle, run_residual_stages

GROUPS = 3
CHANNELS = (24, 240, 480, 960)  # stem, then the three stages
DEPTHS = (4, 8, 4)


class Bottleneck(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1.

    (batch, in_channels, h, w) -> (batch, channels, h/stride, w/stride), before the ReLU. With stride 2 the pooled input
    is concatenated instead of added, so the convolutions make only the other channels.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        if stride == 2:
            channels -= in_channels
        hidden = channels // 4
        self.groups = 1 if in_channels == CHANNELS[0] else GROUPS
        self.conv1 = nn.Conv2d(in_channels, hidden, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, channels, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(channel_shuffle(out, self.groups))))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)
        return out + x


class ShuffleNet(nn.Module):
    """ShuffleNet, three groups.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the stages' sides are h/2, h/4, h/8.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, CHANNELS[0], 1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.layer1 = make_stage(CHANNELS[0], CHANNELS[1], DEPTHS[0])
        self.layer2 = make_stage(CHANNELS[1], CHANNELS[2], DEPTHS[1])
        self.layer3 = make_stage(CHANNELS[2], CHANNELS[3], DEPTHS[2])
        self.linear = nn.Linear(CHANNELS[3], num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        stem = F.relu(self.bn1(self.conv1(x)))
        features = run_residual_stages(stem, stem, (self.layer1, self.layer2, self.layer3))
        return self.linear(features["pooled_feat"]), features

    def get_stage_channels(self) -> list[int]:
        return list(CHANNELS)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [cast(nn.BatchNorm2d, stage[-1].bn3) for stage in (self.layer1, self.layer2, self.layer3)]


def make_stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride=2)
    return nn.Sequential(first, *(Bottleneck(channels, channels, stride=1) for _ in range(blocks - 1)))


NETWORKS = {"ShuffleV1": ShuffleNet}
