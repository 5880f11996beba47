"""MobileNetV2 of full width as MDistiller trains it on Tiny-ImageNet: a stem of 1x1, and convolutions with biases.

Source: Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._common import Features, global_average

EXPANSION = 6
STEM_CHANNELS, LAST_CHANNELS = 32, 1280

# expansion, channels, blocks, first stride
SETTINGS = (
    (1, 16, 1, 1),
    (EXPANSION, 24, 2, 2),
    (EXPANSION, 32, 3, 2),
    (EXPANSION, 64, 4, 2),
    (EXPANSION, 96, 3, 1),
    (EXPANSION, 160, 3, 1),
    (EXPANSION, 320, 1, 1),
)

FEATURE_STAGES = (2, 3, 4)  # whose output is a feature map


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project: (batch, in_channels, h, w) -> (batch, channels, h/stride, w/stride), rounded up.

    The projection is linear: no ReLU follows it.
    """

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int):
        super().__init__()
        hidden = expansion * in_channels
        self.has_shortcut = stride == 1 and in_channels == channels
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, channels, 1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.residual(x) if self.has_shortcut else self.residual(x)

    @property
    def last_bn(self) -> nn.BatchNorm2d:
        return cast(nn.BatchNorm2d, self.residual[-1])


class PointwiseLinear(nn.Linear):
    """A linear layer whose weight has in weight files the shape of a 1x1 convolution's, (out, in, 1, 1)."""

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"][..., None, None]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        name = f"{prefix}weight"
        if name in state_dict:
            state_dict = {**state_dict, name: state_dict[name].flatten(1)}
        super()._load_from_state_dict(state_dict, prefix, *args)


class MobileNetV2(nn.Module):
    """Full-width MobileNetV2 for images of 64 pixels.

    forward: (batch, 3, h, w) -> logits (batch, num_classes) and features; the stem adds a border of one pixel, so that
    of 64 pixels the maps' sides are 66, 33, 17, 9, 9. Block outputs are linear, so `preact_feats` holds the same maps
    as `feats`; the stem's and the last, of 1280 channels, differ, which follow a ReLU6. That last map is `final_map`.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        channels = STEM_CHANNELS
        self.pre = nn.Sequential(nn.Conv2d(3, channels, 1, padding=1), nn.BatchNorm2d(channels))
        for stage, (expansion, out_channels, blocks, first_stride) in enumerate(SETTINGS, start=1):
            first = InvertedResidual(channels, out_channels, first_stride, expansion)
            rest = [InvertedResidual(out_channels, out_channels, 1, expansion) for _ in range(blocks - 1)]
            self.add_module(f"stage{stage}", nn.Sequential(first, *rest) if rest else first)
            channels = out_channels
        self.conv1 = nn.Sequential(nn.Conv2d(channels, LAST_CHANNELS, 1), nn.BatchNorm2d(LAST_CHANNELS))
        self.conv2 = PointwiseLinear(LAST_CHANNELS, num_classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        stem_preact = self.pre(x)
        x = stem = F.relu6(stem_preact)
        stage_feats = []
        for stage in range(1, len(SETTINGS) + 1):
            x = self.get_submodule(f"stage{stage}")(x)
            if stage in FEATURE_STAGES:
                stage_feats.append(x)
        final_preact = self.conv1(x)
        final_map = F.relu6(final_preact)
        pooled = global_average(final_map)
        features: Features = {
            "feats": [stem, *stage_feats, final_map],
            "preact_feats": [stem_preact, *stage_feats, final_preact],
            "final_map": final_map,
            "pooled_feat": pooled,
        }
        return self.conv2(pooled), features

    def get_stage_channels(self) -> list[int]:
        return [STEM_CHANNELS, *(norm.num_features for norm in self.get_bn_before_relu())]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of each feature map's last block, though no ReLU follows it but the last."""
        stages = (cast(nn.Sequential, self.get_submodule(f"stage{stage}")) for stage in FEATURE_STAGES)
        norms = [cast(InvertedResidual, stage[-1]).last_bn for stage in stages]
        return [*norms, cast(nn.BatchNorm2d, self.conv1[1])]


NETWORKS = {"MobileNetV2": MobileNetV2}
