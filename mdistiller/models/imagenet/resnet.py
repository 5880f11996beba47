"""ResNets: a 7x7 stem, max-pooling and four stages; torchvision's state-dict names.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, init_convolutions, run_residual_stages
from mdistiller.models.cifar.resnet import BasicBlock, make_downsample, make_stage


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, the first two of a quarter of the channels, and a shortcut.

    (batch, in_channels, h, w) -> (batch, channels, h/stride, w/stride), the sum before its ReLU. The stride is the 3x3
    convolution's, as in torchvision.
    """

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        width = channels // 4
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample = make_downsample(in_channels, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return self.bn3(self.conv3(out)).add_(shortcut)

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return self.bn3


class ResNet(nn.Module):
    """Four stages of `block`, `depths` blocks each; `channels` are those of the stem and the stages.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the maps' sides are h/2 for the stem, before
    its max-pooling, then h/4, h/8, h/16, h/32.
    """

    def __init__(
        self, block: Callable[..., nn.Module], depths: Sequence[int], channels: Sequence[int], num_classes: int
    ):
        super().__init__()
        self.channels = channels
        self.conv1 = nn.Conv2d(3, channels[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels[0])
        self.layer1 = make_stage(block, channels[0], channels[1], depths[0], stride=1)
        self.layer2 = make_stage(block, channels[1], channels[2], depths[1], stride=2)
        self.layer3 = make_stage(block, channels[2], channels[3], depths[2], stride=2)
        self.layer4 = make_stage(block, channels[3], channels[4], depths[3], stride=2)
        self.fc = nn.Linear(channels[4], num_classes)
        init_convolutions(self)

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        stem = F.relu(self.bn1(self.conv1(x)), inplace=True)
        features = run_residual_stages(stem, F.max_pool2d(stem, 3, stride=2, padding=1), self.stages)
        return self.fc(features["pooled_feat"]), features

    def get_stage_channels(self) -> list[int]:
        return list(self.channels)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return [cast(nn.BatchNorm2d, stage[-1].last_bn) for stage in self.stages]


BASIC, BOTTLENECK = (64, 64, 128, 256, 512), (64, 256, 512, 1024, 2048)

NETWORKS = {
    "ResNet18": partial(ResNet, BasicBlock, (2, 2, 2, 2), BASIC),
    "ResNet34": partial(ResNet, BasicBlock, (3, 4, 6, 3), BASIC),
    "ResNet50": partial(ResNet, Bottleneck, (3, 4, 6, 3), BOTTLENECK),
    "ResNet101": partial(ResNet, Bottleneck, (3, 4, 23, 3), BOTTLENECK),
}
