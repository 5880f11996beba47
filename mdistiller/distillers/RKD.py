"""Park et al., Relational Knowledge Distillation, CVPR 2019."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT, number

from ._base import Features
from ._common import full_precision
from ._feature import FeatureDistiller
from ._kernels import AngleLoss


def pairwise_distances(embedding: torch.Tensor, squared: bool, eps: float) -> torch.Tensor:
    """Euclidean distances (batch, batch), squared if so told, of the rows of `embedding` (batch, channels).

    A squared distance is at least `eps`, below which it has no gradient; the diagonal is 0.
    """
    norms = embedding.square().sum(dim=1)
    distances = (norms[:, None] + norms[None] - 2 * embedding @ embedding.T).clamp_min(eps)
    distances = distances if squared else distances.sqrt()
    return distances.masked_fill(torch.eye(len(embedding), dtype=torch.bool, device=embedding.device), 0.0)


@full_precision
def distance_loss(
    embedding_student: torch.Tensor, embedding_teacher: torch.Tensor, squared: bool, eps: float
) -> torch.Tensor:
    """Smooth L1 of the distances between the batch's embeddings, each network's divided by their mean.

    embedding_*: (batch, channels), of which the widths may differ. Returns a scalar.
    """

    def relations(embedding: torch.Tensor) -> torch.Tensor:
        distances = pairwise_distances(embedding, squared, eps)
        return distances / (distances.sum() / (distances > 0).sum().clamp_min(1)).clamp_min(eps)

    return F.smooth_l1_loss(relations(embedding_student), relations(embedding_teacher))


@full_precision
def angle_loss(embedding_student: torch.Tensor, embedding_teacher: torch.Tensor) -> torch.Tensor:
    """Smooth L1 of the cosines of the angles that the embeddings of any three images form.

    embedding_*: (batch, channels), of which the widths may differ. Returns a scalar. Where two embeddings are equal
    there is no angle: its cosine is 0, without a gradient.
    """
    return AngleLoss.apply(embedding_student, embedding_teacher)


class RKD(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · (DISTANCE_WEIGHT · distance_loss + ANGLE_WEIGHT · angle_loss)."""

    defaults = {
        "DISTANCE_WEIGHT": 25,
        "ANGLE_WEIGHT": 50,
        "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 1.0},
        "PDIST": {"EPSILON": 1.0e-12, "SQUARED": False},
    }
    checks = {
        **dict.fromkeys(("DISTANCE_WEIGHT", "ANGLE_WEIGHT", "LOSS.CE_WEIGHT", "LOSS.FEAT_WEIGHT"), WEIGHT),
        "PDIST.EPSILON": number(1e-20, 1),
    }
    venue = "CVPR 2019"
    transfers = "distances and angles between pooled features"
    relates_images = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.distance_weight = cfg.RKD.DISTANCE_WEIGHT
        self.angle_weight = cfg.RKD.ANGLE_WEIGHT
        self.squared = cfg.RKD.PDIST.SQUARED
        self.eps = cfg.RKD.PDIST.EPSILON

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        student, teacher = (self.processes.whole(each["pooled_feat"]) for each in (features_student, features_teacher))
        loss_distance = distance_loss(student, teacher, self.squared, self.eps)
        return self.distance_weight * loss_distance + self.angle_weight * angle_loss(student, teacher)
