"""Hinton et al., Distilling the Knowledge in a Neural Network, NIPS 2014 Deep Learning Workshop."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT

from ._common import full_precision
from ._logit import LogitDistiller


@full_precision
def kd_loss(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, temperature: float | torch.Tensor
) -> torch.Tensor:
    """T² KL(softmax(z_t / T) ‖ softmax(z_s / T)), mean over the batch.

    logits_*: (batch, classes). Returns a scalar.
    """
    log_p_student = F.log_softmax(logits_student / temperature, dim=1)
    log_p_teacher = F.log_softmax(logits_teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)


class KD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · kd_loss."""

    defaults = {"TEMPERATURE": 4, "LOSS": {"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}}
    checks = {"TEMPERATURE": TEMPERATURE, "LOSS.CE_WEIGHT": WEIGHT, "LOSS.KD_WEIGHT": WEIGHT}
    venue = "NIPS-W 2014"
    transfers = "softened logits"

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.kd_weight = cfg.KD.LOSS.KD_WEIGHT
        self.temperature = cfg.KD.TEMPERATURE

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        return {"loss_kd": self.kd_weight * kd_loss(logits_student, logits_teacher, self.temperature)}
