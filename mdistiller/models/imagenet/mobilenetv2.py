"""MobileNetV2 of full width; torchvision's state-dict names.

Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, global_average, init_classifier, init_convolutions

EXPANSION = 6
STEM_CHANNELS, LAST_CHANNELS = 32, 1280
DROPOUT = 0.2

# expansion, channels, blocks, first stride
SETTINGS = (
    (1, 16, 1, 1),
    (EXPANSION, 24, 2, 2),
    (EXPANSION, 32, 3, 2),
    (EXPANSION, 64, 4, 2),
    (EXPANSION, 96, 3, 1),
    (EXPANSION, 160, 3, 2),
    (EXPANSION, 320, 1, 1),
)

FEATURE_BLOCKS = (3, 6, 13, 17)  # entries of `features` whose output is a feature map


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project: (batch, in_channels, h, w) -> (batch, channels, h/stride, w/stride).

    The projection is linear: no ReLU follows it. Where `expansion` is 1 nothing expands.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * in_channels
        self.has_shortcut = stride == 1 and in_channels == channels
        expand = [nn.Sequential(*make_conv_bn(in_channels, hidden, 1), nn.ReLU6())] if expansion > 1 else []
        depthwise = nn.Sequential(*make_conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6())
        self.conv = nn.Sequential(*expand, depthwise, *make_conv_bn(hidden, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return cast(nn.BatchNorm2d, self.conv[-1])


class MobileNetV2(nn.Module):
    """MobileNetV2 of full width.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the maps' sides are h/2 for the stem, then
    h/4, h/8, h/16, h/32. Block outputs are linear, so `preact_feats` holds the same maps as `feats`; only the stem's
    differ. `pooled_feat` has 1280 channels: it comes after one more 1x1 convolution, and before dropout.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        channels = STEM_CHANNELS
        blocks: list[nn.Module] = [make_conv_bn(3, channels, 3, stride=2)]
        for expansion, out_channels, repeats, first_stride in SETTINGS:
            for index in range(repeats):
                blocks.append(InvertedResidual(channels, out_channels, first_stride if index == 0 else 1, expansion))
                channels = out_channels
        self.features = nn.Sequential(*blocks, make_conv_bn(channels, LAST_CHANNELS, 1))
        self.classifier = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(LAST_CHANNELS, num_classes))
        init_convolutions(self)
        init_classifier(cast(nn.Linear, self.classifier[1]))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        stem, *blocks, last = self.features
        stem_preact = stem(x)
        feats, preact_feats = [F.relu6(stem_preact)], [stem_preact]
        x = feats[0]
        for index, block in enumerate(blocks, start=1):
            x = block(x)
            if index in FEATURE_BLOCKS:
                feats.append(x)
                preact_feats.append(x)
        final_map = F.relu6(last(x))
        pooled = global_average(final_map)
        features: Features = {
            "feats": feats,
            "preact_feats": preact_feats,
            "final_map": final_map,
            "pooled_feat": pooled,
        }
        return self.classifier(pooled), features

    def get_stage_channels(self) -> list[int]:
        return [STEM_CHANNELS, *(norm.num_features for norm in self.get_bn_before_relu())]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of each feature map's last block, though no ReLU follows it."""
        return [cast(InvertedResidual, self.features[index]).last_bn for index in FEATURE_BLOCKS]


def make_conv_bn(in_channels: int, channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution and batch norm: (batch, in_channels, h, w) -> (batch, channels, h/stride, w/stride)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels),
    )


NETWORKS = {"MobileNetV2": MobileNetV2}
