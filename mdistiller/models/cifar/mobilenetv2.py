"""MobileNetV2 of half width for small images.

Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, global_average, init_classifier, init_convolutions

EXPANSION, WIDTH = 6, 0.5
STEM_CHANNELS, LAST_CHANNELS = 32, 1280

# expansion, channels at full width, blocks, first stride
SETTINGS = (
    (1, 16, 1, 1),
    (EXPANSION, 24, 2, 1),
    (EXPANSION, 32, 3, 2),
    (EXPANSION, 64, 4, 2),
    (EXPANSION, 96, 3, 1),
    (EXPANSION, 160, 3, 2),
    (EXPANSION, 320, 1, 1),
)

FEATURE_GROUPS = (1, 2, 4, 6)  # groups of blocks whose output is a feature map


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project: (batch, in_channels, h, w) -> (batch, channels, h/stride, w/stride).

    The projection is linear: no ReLU follows it.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * in_channels
        self.has_shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return cast(nn.BatchNorm2d, self.conv[-1])


class MobileNetV2(nn.Module):
    """Half-width MobileNetV2.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the maps' sides are h/2, h/2, h/4, h/8, h/16.
    Block outputs are linear, so `preact_feats` holds the same maps as `feats`; only the stem's differ.
    `pooled_feat` has 1280 channels: it comes after one more 1x1 convolution.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        channels = int(STEM_CHANNELS * WIDTH)
        self.conv1 = nn.Sequential(nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(channels))
        self.blocks = nn.ModuleList()
        for expansion, full_channels, blocks, first_stride in SETTINGS:
            in_channels, channels = channels, int(full_channels * WIDTH)
            first = InvertedResidual(in_channels, channels, first_stride, expansion)
            rest = (InvertedResidual(channels, channels, 1, expansion) for _ in range(blocks - 1))
            self.blocks.append(nn.Sequential(first, *rest))
        self.conv2 = nn.Sequential(nn.Conv2d(channels, LAST_CHANNELS, 1, bias=False), nn.BatchNorm2d(LAST_CHANNELS))
        self.classifier = nn.Sequential(nn.Linear(LAST_CHANNELS, num_classes))
        init_convolutions(self)
        init_classifier(cast(nn.Linear, self.classifier[0]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        stem_preact = self.conv1(x)
        x = stem = F.relu(stem_preact)
        stage_feats = []
        for index, group in enumerate(self.blocks):
            x = group(x)
            if index in FEATURE_GROUPS:
                stage_feats.append(x)
        final_map = F.relu(self.conv2(x))
        pooled = global_average(final_map)
        features: Features = {
            "feats": [stem, *stage_feats],
            "preact_feats": [stem_preact, *stage_feats],
            "final_map": final_map,
            "pooled_feat": pooled,
        }
        return self.classifier(pooled), features

    def get_stage_channels(self) -> list[int]:
        norms = [cast(nn.BatchNorm2d, self.conv1[1]), *self.get_bn_before_relu()]
        return [norm.num_features for norm in norms]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of each feature map's last block, though no ReLU follows it."""
        groups = (cast(nn.Sequential, self.blocks[index]) for index in FEATURE_GROUPS)
        return [cast(InvertedResidual, group[-1]).last_bn for group in groups]


NETWORKS = {"MobileNetV2": MobileNetV2}
