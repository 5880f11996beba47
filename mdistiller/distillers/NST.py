"""Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, arXiv 2017."""

from typing import Any

import torch

from mdistiller.checks import WEIGHT

from ._base import Features
from ._common import full_precision, pool_larger, total
from ._feature import FeatureDistiller
from ._kernels import SQUARED_EPS, GramMatrix, mean_outer_product


@full_precision
def nst_loss(feat_student: torch.Tensor, feat_teacher: torch.Tensor) -> torch.Tensor:
    """Squared maximum mean discrepancy of the neurons of one stage, under the kernel k(a, b) = (aᵀb)².

    feat_*: (batch, channels, height, width); channels may differ, and where sizes do the larger is pooled. Returns a
    scalar, the mean over the batch. A neuron is one channel's map of an image, scaled to unit length. For unit maps A
    and B (channels, positions) the sum of k over all pairs is ‖ABᵀ‖², which is also the inner product of AᵀA and BᵀB.
    """
    student, teacher = (feat.flatten(2) for feat in pool_larger(feat_student, feat_teacher))
    if student.shape[2] <= min(student.shape[1], teacher.shape[1]):
        difference = mean_outer_product(student) - mean_outer_product(teacher)
        return difference.square().sum(dim=(1, 2)).mean()
    # Scaling the products instead of the maps saves copies of the maps.
    products = GramMatrix.apply(teacher), GramMatrix.apply(student), student @ teacher.mT
    t, s = (product.diagonal(dim1=1, dim2=2).clamp_min(SQUARED_EPS).rsqrt() for product in products[:2])
    scales = (t, t), (s, s), (s, t)
    k_tt, k_ss, k_st = (
        (product * a[:, :, None] * b[:, None]).square().mean() for product, (a, b) in zip(products, scales, strict=True)
    )
    return k_tt + k_ss - 2 * k_st


class NST(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · nst_loss, summed over the stages."""

    defaults = {"LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 50.0}}
    checks = {"LOSS.CE_WEIGHT": WEIGHT, "LOSS.FEAT_WEIGHT": WEIGHT}
    venue = "arXiv 2017"
    transfers = "distribution of neurons' maps"
    index = 12

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        return total(nst_loss(*stage) for stage in self.pair(features_student["feats"], features_teacher["feats"]))
