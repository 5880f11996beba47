"""Wide residual networks.

Source: Zagoruyko and Komodakis, Wide Residual Networks, BMVC 2016.
"""

from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, global_average, init_convolutions


class BasicBlock(nn.Module):
    """Pre-activation block: (batch, in_channels, h, w) -> (batch, channels, h/stride, w/stride).

    Returns its output, to which no ReLU was applied, and its normalised input.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.convShortcut = None
        if in_channels != channels:
            self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normalised = self.bn1(x)
        activated = F.relu(normalised)
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        out = F.relu(self.bn2(self.conv1(activated)))
        return shortcut + self.conv2(out), normalised


class Stage(nn.Module):
    """`blocks` basic blocks; returns the last one's output and the first one's normalised input."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int):
        super().__init__()
        first = BasicBlock(in_channels, channels, stride)
        self.layer = nn.Sequential(first, *(BasicBlock(channels, channels, stride=1) for _ in range(blocks - 1)))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, *rest = self.layer
        x, normalised_input = first(x)
        for block in rest:
            x, _ = block(x)
        return x, normalised_input


class WideResNet(nn.Module):
    """WRN of `depth` = 6n + 4 layers, `widen_factor` times as wide as the CIFAR ResNet.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the stages' sides are h, h/2, h/4.
    The blocks activate their input, so a stage's map goes through its ReLU only in the next stage: `feats` are the maps
    without any ReLU, as published, and `preact_feats` the same maps after the next stage's first batch norm.
    """

    def __init__(self, depth: int, widen_factor: int, num_classes: int):
        super().__init__()
        blocks = (depth - 4) // 6
        self.channels = [16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor]
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.block1 = Stage(self.channels[0], self.channels[1], blocks, stride=1)
        self.block2 = Stage(self.channels[1], self.channels[2], blocks, stride=2)
        self.block3 = Stage(self.channels[2], self.channels[3], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(self.channels[3])
        self.fc = nn.Linear(self.channels[3], num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        stem = self.conv1(x)
        f1, _ = self.block1(stem)
        f2, preact1 = self.block2(f1)
        f3, preact2 = self.block3(f2)
        preact3 = self.bn1(f3)
        final_map = F.relu(preact3)
        pooled = global_average(final_map)
        features: Features = {
            "feats": [stem, f1, f2, f3],
            "preact_feats": [stem, preact1, preact2, preact3],
            "final_map": final_map,
            "pooled_feat": pooled,
        }
        return self.fc(pooled), features

    def get_stage_channels(self) -> list[int]:
        return list(self.channels)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [*(cast(BasicBlock, stage.layer[0]).bn1 for stage in (self.block2, self.block3)), self.bn1]


NETWORKS = {
    f"wrn_{depth}_{widen_factor}": partial(WideResNet, depth, widen_factor)
    for depth in (16, 40)
    for widen_factor in (1, 2)
}
