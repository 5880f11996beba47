"""ResNet18 and ResNet50 of ImageNet's shape with a 3x3 stem and no first pooling, for small images.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, init_convolutions, run_residual_stages


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: (batch, in_channels, h, w) -> (batch, width, h/stride, w/stride), before the ReLU."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = make_shortcut(in_channels, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(out)).add_(self.shortcut(x))

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return self.bn2


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1: (batch, in_channels, h, w) -> (batch, 4 width, h/stride, w/stride), before the ReLU."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int):
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.bn3(self.conv3(out)).add_(self.shortcut(x))

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return self.bn3


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """Four stages of `block`, `depths` blocks each.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the stages' sides are h, h/2, h/4, h/8.
    `zero_init_residual` starts every block as the identity (Goyal et al., 2017).
    """

    def __init__(self, block: Block, depths: Sequence[int], num_classes: int, zero_init_residual: bool = False):
        super().__init__()
        out_channels = [block.expansion * width for width in (64, 128, 256, 512)]
        self.channels = [64, *out_channels]
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = make_stage(block, 64, 64, depths[0], stride=1)
        self.layer2 = make_stage(block, out_channels[0], 128, depths[1], stride=2)
        self.layer3 = make_stage(block, out_channels[1], 256, depths[2], stride=2)
        self.layer4 = make_stage(block, out_channels[2], 512, depths[3], stride=2)
        self.linear = nn.Linear(out_channels[3], num_classes)
        init_convolutions(self)
        if zero_init_residual:
            for stage in self.stages:
                for residual in stage:
                    nn.init.zeros_(cast(nn.BatchNorm2d, residual.last_bn).weight)

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        stem = F.relu(self.bn1(self.conv1(x)), inplace=True)
        features = run_residual_stages(stem, stem, self.stages)
        return self.linear(features["pooled_feat"]), features

    def get_stage_channels(self) -> list[int]:
        return list(self.channels)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [cast(nn.BatchNorm2d, stage[-1].last_bn) for stage in self.stages]


def make_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def make_stage(block: Block, in_channels: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    first = block(in_channels, width, stride)
    return nn.Sequential(first, *(block(block.expansion * width, width, stride=1) for _ in range(blocks - 1)))


NETWORKS = {
    "ResNet18": partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "ResNet50": partial(ResNet, Bottleneck, (3, 4, 6, 3)),
}
