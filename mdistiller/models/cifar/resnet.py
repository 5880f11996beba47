"""ResNets for CIFAR: three stages of basic blocks.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016; the x4 widths are those of Tian et al.,
Contrastive Representation Distillation, ICLR 2020.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, init_convolutions, run_residual_stages


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (batch, in_channels, h, w) -> (batch, channels, h/stride, w/stride).

    The output is the sum before its ReLU.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = make_downsample(in_channels, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(out)).add_(shortcut)

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return self.bn2


class ResNet(nn.Module):
    """CIFAR ResNet of `depth` = 6n + 2 layers; `channels` are those of the stem and the three stages.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the stages' sides are h, h/2, h/4.
    """

    def __init__(self, depth: int, channels: Sequence[int], num_classes: int):
        super().__init__()
        blocks = (depth - 2) // 6
        self.channels = channels
        self.conv1 = nn.Conv2d(3, channels[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1 = make_stage(BasicBlock, channels[0], channels[1], blocks, stride=1)
        self.layer2 = make_stage(BasicBlock, channels[1], channels[2], blocks, stride=2)
        self.layer3 = make_stage(BasicBlock, channels[2], channels[3], blocks, stride=2)
        self.fc = nn.Linear(channels[3], num_classes)
        init_convolutions(self)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        stem = F.relu(self.bn1(self.conv1(x)), inplace=True)
        features = run_residual_stages(stem, stem, (self.layer1, self.layer2, self.layer3))
        return self.fc(features["pooled_feat"]), features

    def get_stage_channels(self) -> list[int]:
        return list(self.channels)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [cast(nn.BatchNorm2d, stage[-1].last_bn) for stage in (self.layer1, self.layer2, self.layer3)]


def make_downsample(in_channels: int, channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def make_stage(
    block: Callable[..., nn.Module], in_channels: int, channels: int, blocks: int, stride: int
) -> nn.Sequential:
    first = block(in_channels, channels, stride)
    return nn.Sequential(first, *(block(channels, channels, stride=1) for _ in range(blocks - 1)))


NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)

NETWORKS = {f"resnet{depth}": partial(ResNet, depth, NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)} | {
    f"resnet{depth}x4": partial(ResNet, depth, WIDE) for depth in (8, 32)
}
