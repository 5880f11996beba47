"""Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019."""

from typing import Any

import torch
import torch.nn.functional as F

from mdistiller.checks import WEIGHT

from ._base import Features
from ._common import full_precision
from ._feature import FeatureDistiller


@full_precision
def sp_loss(feat_student: torch.Tensor, feat_teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of the batch's similarity matrices.

    feat_*: (batch, ...), of any shapes. Returns a scalar. A similarity matrix (batch, batch) holds the inner products
    of the images' flattened maps, each row scaled to unit length.
    """

    def similarity(feat: torch.Tensor) -> torch.Tensor:
        feat = feat.flatten(1)
        return F.normalize(feat @ feat.T, dim=1)

    return F.mse_loss(similarity(feat_student), similarity(feat_teacher))


class SP(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · sp_loss of the last stage."""

    defaults = {"LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 3000.0}}
    checks = {"LOSS.CE_WEIGHT": WEIGHT, "LOSS.FEAT_WEIGHT": WEIGHT}
    venue = "ICCV 2019"
    transfers = "similarity of feature maps within a batch"
    index = 14
    relates_images = True

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        return sp_loss(*(self.processes.whole(each["feats"][-1]) for each in (features_student, features_teacher)))
