"""Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018."""

from typing import Any

import torch

from mdistiller.checks import WEIGHT

from ._base import Features
from ._common import full_precision
from ._feature import FeatureDistiller

EPSILON = 1e-7  # keeps norms and the logarithm's arguments above zero, as released


@full_precision
def pkt_loss(feat_student: torch.Tensor, feat_teacher: torch.Tensor) -> torch.Tensor:
    """KL divergence of the images' similarity distributions, its terms averaged over all pairs of images.

    feat_*: (batch, channels), the channels may differ. Returns a scalar. An image's distribution is its cosine
    similarities to all images of the batch, shifted to 0…1 and scaled to sum to one.
    """

    def similarity_distribution(feat: torch.Tensor) -> torch.Tensor:
        unit = feat / (torch.linalg.vector_norm(feat, dim=1, keepdim=True) + EPSILON)
        similarity = (unit @ unit.T + 1) / 2
        return similarity / similarity.sum(dim=1, keepdim=True)

    p_student, p_teacher = similarity_distribution(feat_student), similarity_distribution(feat_teacher)
    return (p_teacher * ((p_teacher + EPSILON) / (p_student + EPSILON)).log()).mean()


class PKT(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · pkt_loss of the pooled features."""

    defaults = {"LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 30000.0}}
    checks = {"LOSS.CE_WEIGHT": WEIGHT, "LOSS.FEAT_WEIGHT": WEIGHT}
    venue = "ECCV 2018"
    transfers = "similarity of pooled features as probabilities"
    index = 13
    relates_images = True

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        return pkt_loss(*(self.processes.whole(each["pooled_feat"]) for each in (features_student, features_teacher)))
