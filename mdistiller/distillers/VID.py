"""Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ._base import Distiller
from ._common import cross_entropy, full_precision, pair_stages, pool_larger, stages_of


@full_precision
def vid_loss(mean, feat_teacher, log_scale, eps):
    """Negative log-likelihood, less its constant, of the teacher's map under a normal distribution; mean over all.

    mean, feat_teacher: (batch, channels, height, width), of which `mean` is regressed from the student's map;
    log_scale: (channels,), whose softplus plus `eps` is the variance of each channel. Returns a scalar.
    """
    variance = (F.softplus(log_scale) + eps)[:, None, None]
    return ((mean - feat_teacher).square() / variance + variance.log()).mean() / 2


def make_regressor(channels_student, channels_teacher):
    """Three 1x1 convolutions, from the student's channels to the mean of the teacher's."""
    return nn.Sequential(
        nn.Conv2d(channels_student, channels_teacher, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels_teacher, channels_teacher, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels_teacher, channels_teacher, 1, bias=False),
    )


class VID(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · vid_loss, summed over the stages.

    The variances start at INIT_PRED_VAR and are learnt, as in the paper; the released code never optimises them.
    INPUT_SIZE is MDistiller's; the channels do not depend on it.
    """

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.ce_weight = cfg.VID.LOSS.CE_WEIGHT
        self.feat_weight = cfg.VID.LOSS.FEAT_WEIGHT
        self.eps = cfg.VID.EPS
        channels = pair_stages(*(stages_of(network, network.get_stage_channels()) for network in (student, teacher)))
        self.regressors = nn.ModuleList(make_regressor(*pair) for pair in channels)
        weight, log_scale = next(student.parameters()), math.log(math.expm1(cfg.VID.INIT_PRED_VAR - self.eps))
        self.log_scales = nn.ParameterList(weight.new_full((width,), log_scale) for _, width in channels)

    def extra_parameters(self):
        return [*self.regressors.parameters(), *self.log_scales]

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + self.extra_parameters()

    def get_extra_parameters(self):
        return sum(parameter.numel() for parameter in self.extra_parameters())

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        stages = pair_stages(
            stages_of(self.student, features_student["feats"]), stages_of(self.teacher, features_teacher["feats"])
        )
        loss_vid = 0
        for stage, regressor, log_scale in zip(stages, self.regressors, self.log_scales, strict=True):
            feat_student, feat_teacher = pool_larger(*stage)
            loss_vid = loss_vid + vid_loss(regressor(feat_student), feat_teacher, log_scale, self.eps)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * loss_vid,
        }
