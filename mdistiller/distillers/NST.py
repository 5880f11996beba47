"""Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, arXiv 2017."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from ._base import Distiller
from ._common import cross_entropy, full_precision, pair_stages, pool_larger, stages_of

SQUARED_EPS = 1e-24  # a map shorter than 1e-12 is not scaled to unit length, as by F.normalize


def nst_loss_reference(feat_student, feat_teacher):
    """The plain form of `nst_loss`, which takes memory for (batch, channels, channels, positions)."""

    def mean_kernel(a, b):
        return (a[:, None] * b[:, :, None]).sum(dim=3).square().mean()

    feat_student, feat_teacher = pool_larger(feat_student, feat_teacher)
    student, teacher = (F.normalize(feat.flatten(2), dim=2) for feat in (feat_student, feat_teacher))
    return mean_kernel(teacher, teacher) + mean_kernel(student, student) - 2 * mean_kernel(student, teacher)


class GramMatrix(torch.autograd.Function):
    """xxᵀ of x (batch, rows, columns), whose gradient is one product where that of `x @ x.mT` is two and their sum."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x @ x.mT

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return (grad + grad.mT) @ ctx.saved_tensors[0]


def mean_outer_product(maps):
    """Mean over the channels of aaᵀ for unit maps a, (batch, positions, positions).

    maps: (batch, channels, positions), of any length.
    """
    squared_lengths = maps.square().sum(dim=2, keepdim=True).clamp_min(SQUARED_EPS)
    return maps.mT @ (maps / squared_lengths) / maps.shape[1]


@full_precision
def nst_loss(feat_student, feat_teacher):
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


class NST(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · nst_loss, summed over the stages."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.ce_weight = cfg.NST.LOSS.CE_WEIGHT
        self.feat_weight = cfg.NST.LOSS.FEAT_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        stages = pair_stages(
            stages_of(self.student, features_student["feats"]), stages_of(self.teacher, features_teacher["feats"])
        )
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * sum(nst_loss(*stage) for stage in stages),
        }
