"""Huang and Wang, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, arXiv 2017."""

import torch
import torch.nn.functional as F

from ._base import Distiller
from ._common import cross_entropy, full_precision, pair_stages, pool_larger


@full_precision
def nst_loss(feat_student, feat_teacher):
    """Squared maximum mean discrepancy of the neurons of one stage, under the kernel k(a, b) = (aᵀb)².

    feat_*: (batch, channels, height, width); channels may differ, and where sizes do the larger is pooled. Returns a
    scalar, the mean over the batch. A neuron is one channel's map of an image, scaled to unit length.
    """

    def mean_kernel(a, b):
        return (a @ b.mT).square().mean()

    feat_student, feat_teacher = pool_larger(feat_student, feat_teacher)
    student, teacher = (F.normalize(feat.flatten(2), dim=2) for feat in (feat_student, feat_teacher))
    return mean_kernel(teacher, teacher) + mean_kernel(student, student) - 2 * mean_kernel(student, teacher)


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
        stages = pair_stages(features_student["feats"][1:], features_teacher["feats"][1:])
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * sum(nst_loss(*stage) for stage in stages),
        }
