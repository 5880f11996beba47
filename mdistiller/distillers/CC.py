"""Peng et al., Correlation Congruence for Knowledge Distillation, ICCV 2019."""

from typing import Any

import torch
from torch import nn

from mdistiller.checks import WEIGHT, whole
from mdistiller.models import find_classifier

from ._base import Features
from ._common import full_precision
from ._feature import FeatureDistiller


@full_precision
def cc_loss(embedding_student: torch.Tensor, embedding_teacher: torch.Tensor) -> torch.Tensor:
    """Of each image and the next in the batch: the product of their differences |s − t|, summed over the dimensions.

    embedding_*: (batch, dimensions). Returns a scalar, the mean over these pairs; 0 for one image.
    """
    difference = (embedding_student - embedding_teacher).abs()
    return (difference[:-1] * difference[1:]).sum() / max(len(difference) - 1, 1)


class CC(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · cc_loss of linear embeddings of the pooled features, both learnt."""

    defaults = {"DIM": 128, "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 0.02}}
    checks = {"DIM": whole(1, 8192), "LOSS.CE_WEIGHT": WEIGHT, "LOSS.FEAT_WEIGHT": WEIGHT}
    venue = "ICCV 2019"
    transfers = "pooled features, correlated between neighbours in a batch"
    relates_images = True
    index = 28

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.embed_student, self.embed_teacher = (
            nn.Linear(find_classifier(network).in_features, cfg.CC.DIM) for network in (student, teacher)
        )

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        embeddings = (
            self.embed_student(features_student["pooled_feat"]),
            self.embed_teacher(features_teacher["pooled_feat"]),
        )
        return cc_loss(*map(self.processes.whole, embeddings))
