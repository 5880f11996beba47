"""Lee, Kim and Song, Self-supervised Knowledge Distillation Using Singular Value Decomposition, ECCV 2018."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT, whole
from mdistiller.errors import UserError
from mdistiller.models import probe_features

from ._base import Features
from ._common import full_precision, pool_larger, total
from ._feature import FeatureDistiller
from ._kernels import RightSingularVectors

MORE_OF_THE_STUDENT = 3  # the student's vectors beyond k, among which alignment chooses
RBF_WIDTH = 8


@full_precision
def aligned_vectors(
    feat_student: torch.Tensor, feat_teacher: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k leading singular vectors over the columns of one stage's maps, the student's and the teacher's.

    feat_*: (batch, channels, height, width); channels may differ, and where sizes do the larger is pooled. Returns two
    (batch, width, k). A map is decomposed as a matrix (channels · height, width). For each of the teacher's
    vectors the student's is that one of its first k + 3 which is nearest to parallel, pointing the same
    way; both are scaled by the teacher's singular values, of unit length together.
    """

    def decompose(feat: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        vectors, values = RightSingularVectors.apply(feat.flatten(1, 2), k)
        return F.normalize(vectors, dim=1), F.normalize(values[:, None, :k], dim=2)

    feat_student, feat_teacher = pool_larger(feat_student, feat_teacher)
    v_student, _ = decompose(feat_student, k + MORE_OF_THE_STUDENT)
    v_teacher, s_teacher = decompose(feat_teacher, k)
    # The relation of two stages depends on their vectors' signs, which the decomposition leaves open.
    v_teacher = torch.where(v_teacher.sum(dim=1, keepdim=True) < 0, -v_teacher, v_teacher)
    cosine = (v_student.mT @ v_teacher).detach()
    is_nearest = cosine.abs() == cosine.abs().amax(dim=1, keepdim=True)
    return (v_student @ (cosine.sign() * is_nearest)) * s_teacher, v_teacher * s_teacher


@full_precision
def relation_loss(
    student: torch.Tensor, teacher: torch.Tensor, previous_student: torch.Tensor, previous_teacher: torch.Tensor
) -> torch.Tensor:
    """Squared difference of the relations between the vectors of two successive stages, summed but for the batch.

    student, teacher: (batch, width, k); previous_*: (batch, width of the stage before, k). Returns a scalar, the mean
    over the batch. A relation is exp(−d² / 8) of the difference d of an entry of one stage and an entry of the other.
    """

    def relation(vectors: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(vectors.unsqueeze(2) - previous.unsqueeze(1)).square() / RBF_WIDTH)

    difference = relation(student, previous_student) - relation(teacher, previous_teacher)
    return difference.square().sum() / len(student)


class KDSVD(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · relation_loss, summed over the pairs of successive stages."""

    defaults = {"K": 1, "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 1.0}}
    checks = {"K": whole(1, 1024), "LOSS.CE_WEIGHT": WEIGHT, "LOSS.FEAT_WEIGHT": WEIGHT}
    venue = "ECCV 2018"
    transfers = "singular vectors of feature maps"
    index = 16

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.k = cfg.KDSVD.K
        features = (probe_features(network, 2 * [cfg.DATASET.IMAGE_SIZE or 32]) for network in (student, teacher))
        stages = [pool_larger(*stage) for stage in self.pair(*(maps["feats"] for maps in features))]
        if len(stages) < 2:
            raise UserError(
                "KDSVD relates successive stages of maps, and student and teacher share one stage; choose other "
                "networks, or another method of maps"
            )
        most = min(min(feat.flatten(1, 2).shape[1:]) for stage in stages for feat in stage)
        if self.k > most:
            raise UserError(f"KDSVD.K is {self.k}; expected at most {most}, the singular vectors of the smallest map")

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        stages = self.pair(features_student["feats"], features_teacher["feats"])
        vectors = [aligned_vectors(*stage, self.k) for stage in stages]
        return total(relation_loss(*current, *previous) for previous, current in pairwise(vectors))
