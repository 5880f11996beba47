"""Ahn et al., Variational Information Distillation for Knowledge Transfer, CVPR 2019."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import HEIGHT_AND_WIDTH, WEIGHT, Check, is_number, number

from ._base import Features
from ._common import full_precision, pool_larger, total
from ._feature import FeatureDistiller


@full_precision
def vid_loss(mean: torch.Tensor, feat_teacher: torch.Tensor, log_scale: torch.Tensor, eps: float) -> torch.Tensor:
    """Negative log-likelihood, less its constant, of the teacher's map under a normal distribution; mean over all.

    mean, feat_teacher: (batch, channels, height, width), of which `mean` is regressed from the student's map;
    log_scale: (channels,), whose softplus plus `eps` is the variance of each channel. Returns a scalar.
    """
    variance = (F.softplus(log_scale) + eps)[:, None, None]
    return ((mean - feat_teacher).square() / variance + variance.log()).mean() / 2


def make_regressor(channels_student: int, channels_teacher: int) -> nn.Sequential:
    """Three 1x1 convolutions, from the student's channels to the mean of the teacher's."""
    return nn.Sequential(
        nn.Conv2d(channels_student, channels_teacher, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels_teacher, channels_teacher, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels_teacher, channels_teacher, 1, bias=False),
    )


class VID(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · vid_loss, summed over the stages.

    The variances start at INIT_PRED_VAR and are learnt, as in the paper; the released code never optimises them.
    """

    defaults = {
        "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 1.0},
        "EPS": 1e-5,
        "INIT_PRED_VAR": 5.0,
        "INPUT_SIZE": (32, 32),
    }
    ignored = {"INPUT_SIZE": "channels are read off the networks"}
    checks = {
        "LOSS.CE_WEIGHT": WEIGHT,
        "LOSS.FEAT_WEIGHT": WEIGHT,
        "EPS": number(1e-8, 1e-3),
        # Above EPS, and such that its exponential is a number
        "INIT_PRED_VAR": Check(lambda value: is_number(value) and 1e-3 < value <= 500, "a number above 0.001 to 500"),
        "INPUT_SIZE": HEIGHT_AND_WIDTH,
    }
    venue = "CVPR 2019"
    transfers = "feature maps, as a variational bound on information"
    index = 15

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.eps = cfg.VID.EPS
        channels = self.pair_channels()
        self.regressors = nn.ModuleList(make_regressor(*pair) for pair in channels)
        weight, log_scale = next(student.parameters()), math.log(math.expm1(cfg.VID.INIT_PRED_VAR - self.eps))
        self.log_scales = nn.ParameterList(weight.new_full((width,), log_scale) for _, width in channels)

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        stages = self.pair(features_student["feats"], features_teacher["feats"])
        losses = []
        for stage, regressor, log_scale in zip(stages, self.regressors, self.log_scales, strict=True):
            feat_student, feat_teacher = pool_larger(*stage)
            losses.append(vid_loss(regressor(feat_student), feat_teacher, log_scale, self.eps))
        return total(losses)
