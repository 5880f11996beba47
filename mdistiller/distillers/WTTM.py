"""Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024: its weighted form."""

from typing import Any

import torch
from torch import nn

from mdistiller.checks import WEIGHT

from ._logit import LogitDistiller
from .TTM import POWER, transformed_kl


class WTTM(LogitDistiller):
    """LOSS.CE_WEIGHT · cross-entropy + LOSS.KD_WEIGHT · the mean of transformed_kl, each sample's times its sum."""

    defaults = {"POWER": 0.2, "LOSS": {"CE_WEIGHT": 1.0, "KD_WEIGHT": 4.0}}
    checks = {"POWER": POWER, "LOSS.CE_WEIGHT": WEIGHT, "LOSS.KD_WEIGHT": WEIGHT}
    venue = "ICLR 2024"
    transfers = "probabilities raised to a power, weighed by their smoothness"
    index = 22

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.kd_weight = cfg.WTTM.LOSS.KD_WEIGHT
        self.power = cfg.WTTM.POWER

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        divergence, weight = transformed_kl(logits_student, logits_teacher, self.power)
        return {"loss_kd": self.kd_weight * (weight * divergence).mean()}
