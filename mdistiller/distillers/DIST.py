"""Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT

from ._common import full_precision
from ._logit import LogitDistiller

EPSILON = 1e-8  # added to the product of the lengths, as released


def pearson_distance(a: torch.Tensor, b: torch.Tensor, dim: int) -> torch.Tensor:
    """1 − Pearson's correlation of `a` and `b` along `dim`, mean over the other dimension; 1 where one is constant."""
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    lengths = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    return 1 - ((a * b).sum(dim) / (lengths + EPSILON)).mean()


@full_precision
def dist_loss(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, beta: float, gamma: float, temperature: float
) -> torch.Tensor:
    """T² (β · inter-class + γ · intra-class distance) of the softened probabilities.

    logits_*: (batch, classes). Returns a scalar. Inter-class: how differently student and teacher rank the classes of
    each image (rows); intra-class: how differently they rank the images under each class (columns).
    """
    p_student, p_teacher = (F.softmax(z / temperature, dim=1) for z in (logits_student, logits_teacher))
    inter, intra = (pearson_distance(p_student, p_teacher, dim) for dim in (1, 0))
    return temperature**2 * (beta * inter + gamma * intra)


class DIST(LogitDistiller):
    """CE_WEIGHT · cross-entropy + dist_loss."""

    defaults = {"CE_WEIGHT": 1.0, "BETA": 2.0, "GAMMA": 2.0, "T": 4.0}
    checks = {"CE_WEIGHT": WEIGHT, "BETA": WEIGHT, "GAMMA": WEIGHT, "T": TEMPERATURE}
    venue = "NeurIPS 2022"
    transfers = "correlations of probabilities by image and by class"
    relates_images = True
    index = 17

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.beta = cfg.DIST.BETA
        self.gamma = cfg.DIST.GAMMA
        self.temperature = cfg.DIST.T

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        return {"loss_kd": dist_loss(logits_student, logits_teacher, self.beta, self.gamma, self.temperature)}
