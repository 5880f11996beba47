"""Class-aware Logit Knowledge Distillation."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT

from ._common import full_precision
from ._logit import LogitDistiller


@full_precision
def instance_loss(logits_student: torch.Tensor, logits_teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the logits, each row (a sample) of unit length. logits_*: (batch, classes)."""
    return F.mse_loss(F.normalize(logits_student, dim=1), F.normalize(logits_teacher, dim=1))


@full_precision
def class_loss(logits_student: torch.Tensor, logits_teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the logits, each column (a class) of unit length. logits_*: (batch, classes)."""
    return F.mse_loss(F.normalize(logits_student, dim=0), F.normalize(logits_teacher, dim=0))


@full_precision
def class_correlation_loss(logits_student: torch.Tensor, logits_teacher: torch.Tensor) -> torch.Tensor:
    """Frobenius norm of the difference of the class covariances, over classes².

    logits_*: (batch, classes). The covariances (classes, classes) are sums over the batch divided by classes − 1,
    as released.
    """
    classes = logits_student.shape[1]

    def covariance(logits: torch.Tensor) -> torch.Tensor:
        centred = logits - logits.mean(dim=0)
        return centred.T @ centred / (classes - 1)

    return torch.linalg.matrix_norm(covariance(logits_student) - covariance(logits_teacher)) / classes**2


class CLKD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · (instance_loss + BETA · class_loss)
    + CORRELATION_WEIGHT · class_correlation_loss.
    """

    defaults = {"BETA": 2.0, "LOSS": {"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.5, "CORRELATION_WEIGHT": 0.4}}
    checks = dict.fromkeys(("BETA", "LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.CORRELATION_WEIGHT"), WEIGHT)
    transfers = "normalised logits by image and by class, class covariance"
    relates_images = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.kd_weight = cfg.CLKD.LOSS.KD_WEIGHT
        self.correlation_weight = cfg.CLKD.LOSS.CORRELATION_WEIGHT
        self.beta = cfg.CLKD.BETA

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        logits = logits_student, logits_teacher
        alignment = instance_loss(*logits) + self.beta * class_loss(*logits)
        return {"loss_kd": self.kd_weight * alignment + self.correlation_weight * class_correlation_loss(*logits)}
