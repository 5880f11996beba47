"""Li et al., Curriculum Temperature for Knowledge Distillation, AAAI 2023."""

import math
from typing import Any

import torch
from torch import nn

from mdistiller.checks import COUNT, TEMPERATURE, WEIGHT, number

from ._logit import LogitDistiller
from .KD import kd_loss


class ReverseGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by −`strength`."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.strength = strength
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.strength * gradient, None


def curriculum(epoch: int, epochs: int) -> float:
    """Strength of the temperature's adversary in epoch `epoch` (from 1): rises to 1 by a cosine, in `epochs`."""
    return (1 - math.cos(math.pi * min(epoch / epochs, 1.0))) / 2


class CTKD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · kd_loss, at a temperature that maximises it as the student minimises it.

    One global temperature T_START + T_RANGE · sigmoid(`global_t`); the curriculum lets its gradient grow from none.
    """

    defaults = {
        "T_START": 1.0,
        "T_RANGE": 20.0,
        "CURRICULUM_EPOCHS": 10,
        "LOSS": {"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9},
    }
    checks = {
        "T_START": TEMPERATURE,
        "T_RANGE": number(0, 1e4),
        "CURRICULUM_EPOCHS": COUNT,
        "LOSS.CE_WEIGHT": WEIGHT,
        "LOSS.KD_WEIGHT": WEIGHT,
    }
    venue = "AAAI 2023"
    transfers = "softened logits, at a temperature learnt against the student"
    index = 19

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.kd_weight = cfg.CTKD.LOSS.KD_WEIGHT
        self.t_start = cfg.CTKD.T_START
        self.t_range = cfg.CTKD.T_RANGE
        self.epochs = cfg.CTKD.CURRICULUM_EPOCHS
        self.global_t = nn.Parameter(torch.ones(1))

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        global_t = ReverseGradient.apply(self.global_t, curriculum(kwargs["epoch"], self.epochs))
        temperature = self.t_start + self.t_range * torch.sigmoid(global_t)
        return {"loss_kd": self.kd_weight * kd_loss(logits_student, logits_teacher, temperature).squeeze()}
