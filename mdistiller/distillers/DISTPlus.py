"""Huang et al., DIST+: Knowledge Distillation from a Stronger Adaptive Teacher, TPAMI 2025."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT, one_of

from ._base import Distiller, Output
from ._common import full_precision, pool_larger, stage_channels

EPSILON = 1e-8  # the least length that a vector is divided by, and added to lengths of channels, as released


def correlation(a: torch.Tensor, b: torch.Tensor, dim: int) -> torch.Tensor:
    """Pearson's correlation of `a` and `b` along `dim`, mean over the other dimension; 0 where one is constant."""
    units = (F.normalize(x - x.mean(dim, keepdim=True), dim=dim, eps=EPSILON) for x in (a, b))
    return torch.mul(*units).sum(dim).mean()


@full_precision
def logit_relations(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, beta: float, gamma: float, temperature: float
) -> torch.Tensor:
    """T² (β · (1 − correlation by image) + γ · (1 − correlation by class)) of the softened probabilities.

    logits_*: (batch, classes). Returns a scalar.
    """
    p_student, p_teacher = (F.softmax(z / temperature, dim=1) for z in (logits_student, logits_teacher))
    inter, intra = (1 - correlation(p_student, p_teacher, dim) for dim in (1, 0))
    return temperature**2 * (beta * inter + gamma * intra)


@full_precision
def channel_correlation(feat_student: torch.Tensor, feat_teacher: torch.Tensor) -> torch.Tensor:
    """Correlation over the channels at each position, mean over batch and positions; 0 where a map is constant there.

    feat_*: (batch, channels, height, width), of one shape. Returns a scalar.
    """
    student, teacher = (feat - feat.mean(dim=1, keepdim=True) for feat in (feat_student, feat_teacher))
    squares = student.square().sum(dim=1) * teacher.square().sum(dim=1)
    # The root of 0 would have an infinite slope.
    lengths = torch.where(squares > 0, squares, 1).sqrt() * (squares > 0)
    return ((student * teacher).sum(dim=1) / (lengths + EPSILON)).mean()


@full_precision
def spatial_distance(feat_student: torch.Tensor, feat_teacher: torch.Tensor) -> torch.Tensor:
    """1 − correlation over the batch, at each position, of the channels' sums.

    feat_*: (batch, channels, height, width), of one size. Returns a scalar.
    """
    sums_student, sums_teacher = (feat.sum(dim=1).flatten(1) for feat in (feat_student, feat_teacher))
    return 1 - correlation(sums_student, sums_teacher, dim=0)


class DISTPlus(Distiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · (logit_relations + IOTA · channel relation + KAPPA · spatial_distance).

    The maps are the last of `feats`; a student's of other channels goes through a 1x1 convolution, and the larger is
    pooled. FORM released: the channel relation is channel_correlation itself, which training then lowers, and so looks
    like a slip. FORM intended: 1 − channel_correlation.
    """

    defaults = {
        "FORM": "released",  # released | intended
        "BETA": 2.0,
        "GAMMA": 2.0,
        "IOTA": 1.0,
        "KAPPA": 1.0,
        "T": 1.0,
        "LOSS": {"CE_WEIGHT": 1.0, "KD_WEIGHT": 2.0},
    }
    checks = {
        "FORM": one_of("released", "intended"),
        **dict.fromkeys(("BETA", "GAMMA", "IOTA", "KAPPA", "LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT"), WEIGHT),
        "T": TEMPERATURE,
    }
    venue = "TPAMI 2025"
    transfers = "correlations of probabilities and of the last feature map"
    relates_images = True
    index = 37

    teacher: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        settings = cfg.DISTPLUS
        self.of_logits = settings.BETA, settings.GAMMA, settings.T
        self.iota, self.kappa, self.kd_weight = settings.IOTA, settings.KAPPA, settings.LOSS.KD_WEIGHT
        self.is_intended = settings.FORM == "intended"
        widths = [stage_channels(network)[-1] for network in (student, teacher)]
        self.connector = nn.Identity() if widths[0] == widths[1] else nn.Conv2d(widths[0], widths[1], 1, bias=False)

    @classmethod
    def variant(cls, cfg: Any) -> list[str]:
        form = [] if cfg.DISTPLUS.FORM == "released" else [cfg.DISTPLUS.FORM]
        return [*form, *super().variant(cfg)]

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        maps = pool_larger(self.connector(student.features["feats"][-1]), teacher.features["feats"][-1])
        channels = channel_correlation(*maps)
        sums = (feat.sum(dim=1, keepdim=True) for feat in maps)  # all that the spatial distance reads
        spatial = spatial_distance(*map(self.processes.whole, sums))
        logits = self.processes.whole(student.logits), self.processes.whole(teacher.logits)
        return {
            "loss_kd": self.kd_weight * logit_relations(*logits, *self.of_logits),
            "loss_channel": self.kd_weight * self.iota * (1 - channels if self.is_intended else channels),
            "loss_spatial": self.kd_weight * self.kappa * spatial,
        }
