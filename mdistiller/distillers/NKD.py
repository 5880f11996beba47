"""Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and
Customized Soft Labels, ICCV 2023."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT

from ._common import full_precision, is_target
from ._logit import LogitDistiller


@full_precision
def nkd_loss(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, gamma: float, temperature: float
) -> torch.Tensor:
    """−T_t log S_t − γ λ² Σ_{i≠t} N(T_i) log N(S_i), mean over the batch.

    logits_*: (batch, classes); target t: (batch,). Returns a scalar. S_t and T_t are the target's probabilities at
    temperature 1; N normalises those of the other classes, softened by λ = `temperature`, to sum to one.
    """
    column = target[:, None]
    p_target = F.softmax(logits_teacher, dim=1).gather(1, column)
    target_loss = -(p_target * F.log_softmax(logits_student, dim=1).gather(1, column)).squeeze(1)

    own = is_target(logits_student, target)
    others_student, others_teacher = (
        (z / temperature).masked_fill(own, -torch.inf) for z in (logits_student, logits_teacher)
    )
    log_p_others = F.log_softmax(others_student, dim=1).masked_fill(own, 0.0)
    others_loss = -(F.softmax(others_teacher, dim=1) * log_p_others).sum(dim=1)
    return (target_loss + gamma * temperature**2 * others_loss).mean()


class NKD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + nkd_loss."""

    defaults = {"CE_WEIGHT": 1.0, "GAMMA": 1.5, "T": 1.0}
    checks = {"CE_WEIGHT": WEIGHT, "GAMMA": WEIGHT, "T": TEMPERATURE}
    venue = "ICCV 2023"
    transfers = "target logit, normalised non-target logits"
    needs_one_class = True
    index = 18

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.gamma = cfg.NKD.GAMMA
        self.temperature = cfg.NKD.T

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        return {"loss_kd": nkd_loss(logits_student, logits_teacher, target, self.gamma, self.temperature)}
