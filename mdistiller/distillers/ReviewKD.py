"""Chen et al., Distilling Knowledge via Knowledge Review, CVPR 2021."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WARM_UP, WEIGHT, list_of, whole
from mdistiller.models import probe_features

from ._base import Distiller, Features, Output
from ._common import BatchNorm2d, full_precision, pair_stages, pool_to, stages_of, total, warm_up

LEVELS = (4, 2, 1)  # sides of the pyramid's pooled maps, each weighing half the one before


@full_precision
def hcl_loss(feat_student: torch.Tensor, feat_teacher: torch.Tensor) -> torch.Tensor:
    """Hierarchical context loss: weighted mean of the mean squared errors of two maps and of their pooled versions.

    feat_*: (batch, channels, height, width), of the same shape. Returns a scalar.
    """
    loss, weight, weights = F.mse_loss(feat_student, feat_teacher), 1.0, 1.0
    for side in LEVELS:
        if side < feat_student.shape[2]:
            weight /= 2
            weights += weight
            pooled_student, pooled_teacher = (pool_to(feat, (side, side)) for feat in (feat_student, feat_teacher))
            loss = loss + weight * F.mse_loss(pooled_student, pooled_teacher)
    return loss / weights


class ABF(nn.Module):
    """Attention-based fusion of a student's map with what came out of the next deeper stage, where there is one."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int, fuse: bool):
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_channels, mid_channels, 1, bias=False), BatchNorm2d(mid_channels))
        self.conv2 = nn.Sequential(
            nn.Conv2d(mid_channels, out_channels, 3, padding=1, bias=False), BatchNorm2d(out_channels)
        )
        self.att_conv = nn.Sequential(nn.Conv2d(2 * mid_channels, 2, 1), nn.Sigmoid()) if fuse else None
        for layers in (self.conv1, self.conv2):
            nn.init.kaiming_uniform_(next(layers.parameters()), a=1)  # the convolution's weight

    def forward(
        self, feat: torch.Tensor, deeper: torch.Tensor | None, size: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """feat: (batch, in_channels, h, w); deeper: (batch, mid_channels, ...) or None; size: the teacher's (h, w).

        Returns the maps to compare, (batch, out_channels, *size), and to fuse next, (batch, mid_channels, *size).
        """
        feat = self.conv1(feat)
        if self.att_conv is not None and deeper is not None:
            deeper = F.interpolate(deeper, feat.shape[2:], mode="nearest")
            attention = self.att_conv(torch.cat([feat, deeper], dim=1))
            feat = feat * attention[:, :1] + deeper * attention[:, 1:]
        feat = F.interpolate(feat, size, mode="nearest")
        return self.conv2(feat), feat


class ReviewKD(Distiller):
    """CE_WEIGHT · cross-entropy + warm-up · REVIEWKD_WEIGHT · hcl_loss, summed over the stages and the pooled features.

    Channels are read off the networks when built, sizes off the maps; `abfs` go from the deepest stage to the first.
    """

    defaults = {
        "CE_WEIGHT": 1.0,
        "REVIEWKD_WEIGHT": 1.0,
        "WARMUP_EPOCHS": 20,
        "SHAPES": [1, 8, 16, 32],
        "OUT_SHAPES": [1, 8, 16, 32],
        "IN_CHANNELS": [64, 128, 256, 256],
        "OUT_CHANNELS": [64, 128, 256, 256],
        "MAX_MID_CHANNEL": 512,
        "STU_PREACT": False,  # compare the student's maps before their ReLU
    }
    ignored = dict.fromkeys(
        ("SHAPES", "OUT_SHAPES", "IN_CHANNELS", "OUT_CHANNELS"), "sizes and channels are read off the networks"
    )
    checks = {
        "CE_WEIGHT": WEIGHT,
        "REVIEWKD_WEIGHT": WEIGHT,
        "WARMUP_EPOCHS": WARM_UP,
        **dict.fromkeys(ignored, list_of(whole(1, 65_536), "[1,8,16,32]")),
        "MAX_MID_CHANNEL": whole(1, 65_536),
    }
    venue = "CVPR 2021"
    transfers = "feature maps, each fused with the deeper ones"

    teacher: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.reviewkd_weight = cfg.REVIEWKD.REVIEWKD_WEIGHT
        self.warmup = cfg.REVIEWKD.WARMUP_EPOCHS
        self.takes_preact = cfg.REVIEWKD.STU_PREACT
        size = 2 * [cfg.DATASET.IMAGE_SIZE or 32]
        features_student, features_teacher = (probe_features(network, size) for network in (student, teacher))
        stages = self.pair_maps(features_student, features_teacher)
        mid_channels = min(cfg.REVIEWKD.MAX_MID_CHANNEL, stages[0][0].shape[1])
        self.abfs = nn.ModuleList(
            ABF(feat_student.shape[1], mid_channels, feat_teacher.shape[1], fuse=index > 0)
            for index, (feat_student, feat_teacher) in enumerate(stages)
        )

    def pair_maps(
        self, features_student: Features, features_teacher: Features
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs of maps (student's, teacher's): the pooled features, then the stages from the deepest on."""

        def with_pooled(network: nn.Module, maps: Sequence[torch.Tensor], features: Features) -> list[torch.Tensor]:
            return [*stages_of(network, maps), features["pooled_feat"][:, :, None, None]]

        maps_student = features_student["preact_feats" if self.takes_preact else "feats"]
        student = with_pooled(self.student, maps_student, features_student)
        teacher = with_pooled(self.teacher, features_teacher["preact_feats"], features_teacher)
        return pair_stages(student, teacher)[::-1]

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        losses, deeper = [], None
        stages = self.pair_maps(student.features, teacher.features)
        for abf, (feat_student, feat_teacher) in zip(self.abfs, stages, strict=True):
            out, deeper = abf(feat_student, deeper, feat_teacher.shape[2:])
            losses.append(hcl_loss(out, feat_teacher))
        return {"loss_kd": warm_up(kwargs["epoch"], self.warmup) * self.reviewkd_weight * total(losses)}
