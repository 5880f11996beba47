"""Lv, Yang and Li, Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT, number, one_of, whole
from mdistiller.errors import UserError
from mdistiller.models import find_classifier

from ._base import Distiller, Output
from ._common import BatchNorm2d, ConvReg, full_precision, get_feat_shapes, is_target, pool_larger

EPSILON = 1e-8  # added to costs and to what Sinkhorn's rounds divide by, as released
WIDTH = 256  # channels of the bottleneck


@full_precision
def transport_costs(weight: torch.Tensor, sharpen: float) -> torch.Tensor:
    """What it costs to move probability from a class to another: the less alike their weights, the more.

    weight: (classes, channels), of the classifier. Returns (classes, classes): the cosine distance d, or
    1 − exp(−sharpen · d) where `sharpen` is not 0.
    """
    directions = F.normalize(weight, dim=1)
    distance = 1 - directions @ directions.T
    if sharpen:
        distance = 1 - torch.exp(-sharpen * distance)
    return F.relu(distance) + EPSILON


def sinkhorn_distance(
    p_student: torch.Tensor, p_teacher: torch.Tensor, costs: torch.Tensor, start: torch.Tensor, reg: float, rounds: int
) -> torch.Tensor:
    """Cost of moving one distribution to the other, by `rounds` of Sinkhorn's algorithm with regularisation `reg`.

    p_*, and the scaling to start with: (batch, classes); costs: (classes, classes). Returns (batch,).
    """
    kernel, scale_student = torch.exp(-costs / reg), start
    for _ in range(rounds):
        scale_teacher = p_teacher / (scale_student @ kernel + EPSILON)
        scale_student = p_student / (scale_teacher @ kernel.T + EPSILON)
    return (scale_student * (scale_teacher @ (kernel * costs).T)).sum(dim=1)


@full_precision
def wkd_logit_loss(
    logits_student: torch.Tensor,
    logits_teacher: torch.Tensor,
    target: torch.Tensor,
    costs: torch.Tensor,
    temperature: float,
    gamma: float,
    reg: float,
    rounds: int,
) -> torch.Tensor:
    """−p_t(target) log p_s(target) + γ · sinkhorn_distance of the other classes' softened probabilities, batch mean.

    logits_*: (batch, classes); target: (batch,); costs: (classes, classes). Returns a scalar. The target's class has
    no probability to move, which leaves it out.
    """
    column, own = target[:, None], is_target(logits_student, target)
    p_target = F.softmax(logits_teacher, dim=1).gather(1, column)
    target_loss = -(p_target * F.log_softmax(logits_student, dim=1).gather(1, column)).mean()
    p_student, p_teacher = (
        F.softmax((z / temperature).masked_fill(own, -torch.inf), dim=1) for z in (logits_student, logits_teacher)
    )
    start = (~own).to(p_student.dtype) / (own.shape[1] - 1)
    return target_loss + gamma * sinkhorn_distance(p_student, p_teacher, costs, start, reg, rounds).mean()


def cell_statistics(feat: torch.Tensor, grid: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation sqrt(variance + eps) of each of grid x grid cells of a map (batch, channels, height, width).

    Returns two tensors (batch, channels, cells). A cell of one value has variance 0.
    """
    rows, columns = ([(i * side // grid, -(-(i + 1) * side // grid)) for i in range(grid)] for side in feat.shape[2:])
    cells = [feat[:, :, top:bottom, left:right].flatten(2) for top, bottom in rows for left, right in columns]
    means = torch.stack([cell.mean(dim=2) for cell in cells], dim=2)
    variances = torch.stack([cell.var(dim=2, correction=min(cell.shape[2] - 1, 1)) for cell in cells], dim=2)
    return means, (variances + eps).sqrt()


@full_precision
def wkd_feature_loss(
    feat_student: torch.Tensor, feat_teacher: torch.Tensor, ratio: float, grid: int, eps: float
) -> torch.Tensor:
    """Wasserstein distance between normal distributions of a map's cells: `ratio` · means + deviations.

    feat_*: (batch, channels, height, width), of the same channels. Returns a scalar: squared differences, summed over
    the channels, mean over batch and cells.
    """
    pairs = zip(cell_statistics(feat_student, grid, eps), cell_statistics(feat_teacher, grid, eps), strict=True)
    means, deviations = ((student - teacher).square().sum(dim=1).mean() for student, teacher in pairs)
    return ratio * means + deviations


def make_bottleneck(channels_student: int, channels_teacher: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_student, WIDTH, 1),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        nn.Conv2d(WIDTH, channels_teacher, 1),
        BatchNorm2d(channels_teacher),
        nn.ReLU(inplace=True),
    )


class WKD(Distiller):
    """CE_WEIGHT · cross-entropy + wkd_logit_loss + FEAT_WEIGHT · wkd_feature_loss of the last of `feats`.

    GAMMA 0 leaves out the first of the two, FEAT_WEIGHT 0 the second. After COSINE_DECAY_EPOCH epochs GAMMA and
    FEAT_WEIGHT fall to 0, which the last epoch reaches, by a cosine.
    """

    defaults = {
        "T": 2.0,
        "GAMMA": 25.0,
        "LAMBDA": 0.05,
        "ITER": 10,
        "SHARPEN": 2.0,
        "GRID": 4,  # cells a side
        "MEAN_COV_RATIO": 2.0,
        "EPS": 1e-5,
        "PROJECTOR": "bottleneck",  # bottleneck | conv1x1
        "COSINE_DECAY_EPOCH": -1,  # -1: they do not fall
        "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 0.005},
    }
    checks = {
        "T": TEMPERATURE,
        **dict.fromkeys(("GAMMA", "MEAN_COV_RATIO", "LOSS.CE_WEIGHT", "LOSS.FEAT_WEIGHT"), WEIGHT),
        "LAMBDA": number(1e-2, 1e3),
        "ITER": whole(1, 1000),
        "SHARPEN": number(0, 100),
        "GRID": whole(1, 16),
        "EPS": number(1e-8, 1),
        "PROJECTOR": one_of("bottleneck", "conv1x1"),
        "COSINE_DECAY_EPOCH": whole(-1, 1_000_000),
    }
    venue = "NeurIPS 2024"
    transfers = "logits and feature statistics, by the cost of moving them"
    needs_one_class = True
    index = 23

    teacher: nn.Module
    costs: torch.Tensor

    @classmethod
    def variant(cls, cfg: Any) -> list[str]:
        parts = [*([] if cfg.WKD.LOSS.FEAT_WEIGHT else ["logits"]), *([] if cfg.WKD.GAMMA else ["features"])]
        return [*parts, *super().variant(cfg)]

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        settings = cfg.WKD
        self.gamma, self.feat_weight = settings.GAMMA, settings.LOSS.FEAT_WEIGHT
        if not (self.gamma or self.feat_weight):
            raise UserError("WKD.GAMMA and WKD.LOSS.FEAT_WEIGHT are both 0; expected one of them above 0")
        self.temperature, self.reg, self.rounds = settings.T, settings.LAMBDA, settings.ITER
        self.ratio, self.grid, self.eps = settings.MEAN_COV_RATIO, settings.GRID, settings.EPS
        self.decay_after, self.epochs = settings.COSINE_DECAY_EPOCH, cfg.SOLVER.EPOCHS
        if self.gamma:
            costs = transport_costs(find_classifier(teacher).weight.detach(), settings.SHARPEN)
            self.register_buffer("costs", costs, persistent=False)
        if self.feat_weight:
            side = cfg.DATASET.IMAGE_SIZE or 32
            shape_student, shape_teacher = (shapes[-1] for shapes in get_feat_shapes(student, teacher, (side, side)))
            self.projector = (
                ConvReg(shape_student, shape_teacher)
                if settings.PROJECTOR == "conv1x1"
                else make_bottleneck(shape_student[1], shape_teacher[1])
            )

    def decay(self, epoch: int) -> float:
        """Weight of the distillation losses in epoch `epoch` (from 1)."""
        if not 0 <= self.decay_after < epoch:
            return 1.0
        share = (epoch - self.decay_after) / max(self.epochs - self.decay_after, 1)
        return (1 + math.cos(math.pi * min(share, 1.0))) / 2

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        losses, decay = {}, self.decay(kwargs["epoch"])
        if self.gamma:
            settings = self.temperature, decay * self.gamma, self.reg, self.rounds
            losses["loss_kd"] = wkd_logit_loss(student.logits, teacher.logits, target, self.costs, *settings)
        if self.feat_weight:
            maps = pool_larger(self.projector(student.features["feats"][-1]), teacher.features["feats"][-1])
            losses["loss_feat"] = decay * self.feat_weight * wkd_feature_loss(*maps, self.ratio, self.grid, self.eps)
        return losses
