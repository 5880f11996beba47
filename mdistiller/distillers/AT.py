"""Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017."""

import torch
import torch.nn.functional as F

from ._base import Distiller
from ._common import cross_entropy, full_precision, pair_stages, pool_larger, stages_of


@full_precision
def at_loss(feat_student, feat_teacher, p):
    """Mean squared difference of the attention maps of one stage.

    feat_*: (batch, channels, height, width); channels may differ, and where sizes do the larger is pooled. Returns a
    scalar. A map is the mean over the channels of |feat|^p, each image's scaled to unit length.
    """

    def attention(feat):
        return F.normalize(feat.abs().pow(p).mean(dim=1).flatten(1), dim=1)

    feat_student, feat_teacher = pool_larger(feat_student, feat_teacher)
    return F.mse_loss(attention(feat_student), attention(feat_teacher))


class AT(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · at_loss, summed over the stages."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.p = cfg.AT.P
        self.ce_weight = cfg.AT.LOSS.CE_WEIGHT
        self.feat_weight = cfg.AT.LOSS.FEAT_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        stages = pair_stages(
            stages_of(self.student, features_student["feats"]), stages_of(self.teacher, features_teacher["feats"])
        )
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * sum(at_loss(*stage, self.p) for stage in stages),
        }
