"""Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT, number

from ._base import Features
from ._common import full_precision, pool_larger, total
from ._feature import FeatureDistiller


@full_precision
def at_loss(feat_student: torch.Tensor, feat_teacher: torch.Tensor, p: float) -> torch.Tensor:
    """Mean squared difference of the attention maps of one stage.

    feat_*: (batch, channels, height, width); channels may differ, and where sizes do the larger is pooled. Returns a
    scalar. A map is the mean over the channels of |feat|^p, each image's scaled to unit length.
    """

    def attention(feat: torch.Tensor) -> torch.Tensor:
        return F.normalize(feat.abs().pow(p).mean(dim=1).flatten(1), dim=1)

    feat_student, feat_teacher = pool_larger(feat_student, feat_teacher)
    return F.mse_loss(attention(feat_student), attention(feat_teacher))


class AT(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · at_loss, summed over the stages."""

    defaults = {"P": 2, "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 1000.0}}
    # Of a map of large values a higher power overflows; below 1 its slope at 0 is infinite.
    checks = {"P": number(1, 4), "LOSS.CE_WEIGHT": WEIGHT, "LOSS.FEAT_WEIGHT": WEIGHT}
    venue = "ICLR 2017"
    transfers = "spatial attention maps"

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.p = cfg.AT.P

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        stages = self.pair(features_student["feats"], features_teacher["feats"])
        return total(at_loss(*stage, self.p) for stage in stages)
