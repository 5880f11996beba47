"""Lv, Yang and Li, Wasserstein Distance Rivals Kullback-Leibler Divergence for Knowledge Distillation, NeurIPS 2024."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, TEXT, WEIGHT, number, one_of, whole
from mdistiller.errors import UserError
from mdistiller.files import open_regular
from mdistiller.models import find_classifier

from ._base import Distiller, Output
from ._common import BatchNorm2d, ConvReg, full_precision, get_feat_shapes, is_target, pool_larger

EPSILON = 1e-8  # added to costs and to what Sinkhorn's rounds divide by, as released
WIDTH = 256  # channels of the bottleneck


@full_precision
def cosine_distances(weight: torch.Tensor) -> torch.Tensor:
    """How little alike classes are, (classes, classes), by the weights (classes, channels) of the classifier."""
    directions = F.normalize(weight, dim=1)
    return 1 - directions @ directions.T


def distances_in(path: str, num_classes: int) -> torch.Tensor:
    """Distances between classes (num_classes, num_classes) in a file: one array of NumPy (.npy), or one tensor.

    Raises UserError for what is no such file.
    """
    expected = f"expected finite numbers ({num_classes}, {num_classes}), saved by numpy.save or torch.save"
    try:
        with open_regular(path) as file:
            is_array = path.lower().endswith(".npy")
            values = np.load(file, allow_pickle=False) if is_array else torch.load(file, "cpu", weights_only=True)
        distances = torch.as_tensor(values)
    except OSError as error:
        raise UserError(f"WKD.COST_FILE {path} cannot be read: {error.strerror or error}; {expected}") from error
    except Exception as error:  # of whatever the file holds instead
        raise UserError(f"WKD.COST_FILE {path} holds no distances; {expected}") from error
    if distances.shape != (num_classes, num_classes) or distances.is_complex() or not distances.isfinite().all():
        raise UserError(f"WKD.COST_FILE {path} holds {tuple(distances.shape)} numbers, or some not finite; {expected}")
    return distances.float()


@full_precision
def transport_costs(distances: torch.Tensor, sharpen: float) -> torch.Tensor:
    """What it costs to move probability from a class to another: the larger their distance d, the more.

    distances: (classes, classes). Returns as many: d, or 1 − exp(−sharpen · d) where `sharpen` is not 0.
    """
    if sharpen:
        distances = 1 - torch.exp(-sharpen * distances)
    return F.relu(distances) + EPSILON


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
        "COST_FILE": "",  # of distances between classes; empty: those of the teacher's classifier
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
        "COST_FILE": TEXT,
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

    @classmethod
    def unread(cls, cfg: Any) -> Mapping[str, str]:
        keys: dict[str, str] = {}
        if not cfg.WKD.GAMMA:
            keys |= dict.fromkeys(("T", "LAMBDA", "ITER", "SHARPEN", "COST_FILE"), "WKD.GAMMA is 0")
        if not cfg.WKD.LOSS.FEAT_WEIGHT:
            keys |= dict.fromkeys(("GRID", "MEAN_COV_RATIO", "EPS", "PROJECTOR"), "WKD.LOSS.FEAT_WEIGHT is 0")
        return {**cls.ignored, **keys}

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
            weight, path = find_classifier(teacher).weight.detach(), settings.COST_FILE
            distances = distances_in(path, len(weight)).to(weight) if path else cosine_distances(weight)
            costs = transport_costs(distances, settings.SHARPEN)
            self.register_buffer("costs", costs, persistent=bool(path))  # so that a run goes on with the same
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
