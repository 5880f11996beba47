"""Zheng and Yang, Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT, number

from ._common import full_precision
from ._logit import LogitDistiller

POWER = number(1e-4, 1e3)


@full_precision
def transformed_kl(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, power: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL of the student's probabilities to the teacher's, raised to `power` and normalised to sum to one.

    logits_*: (batch, classes). Returns the divergence of each sample, and its sum before normalising, (batch,) each:
    the smoother the teacher's probabilities, the larger for a power below 1.
    """
    log_powers = power * F.log_softmax(logits_teacher, dim=1)
    log_sums = log_powers.logsumexp(dim=1)
    log_p_student = F.log_softmax(logits_student, dim=1)
    divergence = F.kl_div(log_p_student, log_powers - log_sums[:, None], reduction="none", log_target=True).sum(dim=1)
    return divergence, log_sums.exp()


class TTM(LogitDistiller):
    """LOSS.CE_WEIGHT · cross-entropy + LOSS.KD_WEIGHT · the mean of transformed_kl."""

    defaults = {"POWER": 0.1, "LOSS": {"CE_WEIGHT": 1.0, "KD_WEIGHT": 45.0}}
    checks = {"POWER": POWER, "LOSS.CE_WEIGHT": WEIGHT, "LOSS.KD_WEIGHT": WEIGHT}
    venue = "ICLR 2024"
    transfers = "probabilities raised to a power"
    index = 21

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.kd_weight = cfg.TTM.LOSS.KD_WEIGHT
        self.power = cfg.TTM.POWER

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        divergence, _ = transformed_kl(logits_student, logits_teacher, self.power)
        return {"loss_kd": self.kd_weight * divergence.mean()}
