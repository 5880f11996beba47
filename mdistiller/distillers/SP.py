"""Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019."""

import torch
import torch.nn.functional as F

from ._base import Distiller
from ._common import cross_entropy, full_precision


@full_precision
def sp_loss(feat_student, feat_teacher):
    """Mean squared difference of the batch's similarity matrices.

    feat_*: (batch, ...), of any shapes. Returns a scalar. A similarity matrix (batch, batch) holds the inner products
    of the images' flattened maps, each row scaled to unit length.
    """

    def similarity(feat):
        feat = feat.flatten(1)
        return F.normalize(feat @ feat.T, dim=1)

    return F.mse_loss(similarity(feat_student), similarity(feat_teacher))


class SP(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · sp_loss of the last stage."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.ce_weight = cfg.SP.LOSS.CE_WEIGHT
        self.feat_weight = cfg.SP.LOSS.FEAT_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        loss_sp = sp_loss(features_student["feats"][-1], features_teacher["feats"][-1])
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * loss_sp,
        }
