"""Jeong, Lee and Choi, Streamlined Knowledge Distillation, CVPR 2026."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT, number, one_of

from ._common import full_precision
from ._kernels import DirectionLoss
from ._logit import LogitDistiller
from .KD import kd_loss
from .MLKD import confidence_shares


@full_precision
def direction_loss(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, tikhonov: float, scale: float = 1.0
) -> torch.Tensor:
    """Mahalanobis distance between the Gram matrices of normalised logits.

    logits_*: (batch, classes). Returns a scalar: with G = ẑẑᵀ / `scale` and D = G_s − G_t, the mean over D's rows d of
    sqrt(dᵀ Σ⁻¹ d), where Σ is the covariance of D's columns plus `tikhonov` · I, which keeps it invertible.
    A row that is 0 has no gradient.
    """
    return DirectionLoss.apply(F.normalize(logits_student, dim=1), F.normalize(logits_teacher, dim=1), tikhonov, scale)


class SKD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + INSTANCE_WEIGHT · kd_loss + DIRECTION_WEIGHT · direction_loss.

    FORM released: the instance term is T² KL times the share of low-confidence samples, the direction term takes Gram
    matrices over the number of classes and is scaled by the share of low-confidence classes (see `confidence_shares`).
    FORM paper: KL and the direction term as in the paper's formulas, without T², shares and division.
    """

    defaults = {
        "FORM": "released",  # released | paper
        "TEMPERATURE": 4.0,
        "TIKHONOV": 0.1,
        "LOSS": {"CE_WEIGHT": 0.1, "INSTANCE_WEIGHT": 0.9, "DIRECTION_WEIGHT": 0.9},
    }
    checks = {
        "FORM": one_of("released", "paper"),
        "TEMPERATURE": TEMPERATURE,
        "TIKHONOV": number(1e-6, 1e6),
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.INSTANCE_WEIGHT", "LOSS.DIRECTION_WEIGHT"), WEIGHT),
    }
    venue = "CVPR 2026"
    transfers = "logits of each image, directions between the images of a batch"
    relates_images = True

    @classmethod
    def variant(cls, cfg: Any) -> list[str]:
        return [*([] if cfg.SKD.FORM == "released" else [cfg.SKD.FORM]), *super().variant(cfg)]

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.form = cfg.SKD.FORM
        self.temperature = cfg.SKD.TEMPERATURE
        self.tikhonov = cfg.SKD.TIKHONOV
        self.instance_weight = cfg.SKD.LOSS.INSTANCE_WEIGHT
        self.direction_weight = cfg.SKD.LOSS.DIRECTION_WEIGHT

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        logits = logits_student, logits_teacher
        instance = kd_loss(*logits, self.temperature)
        if self.form == "released":
            share_of_samples, share_of_classes = confidence_shares(logits_teacher)
            instance = share_of_samples * instance
            direction = share_of_classes * direction_loss(*logits, self.tikhonov, scale=logits_student.shape[1])
        else:
            instance = instance / self.temperature**2
            direction = direction_loss(*logits, self.tikhonov)
        return {"loss_kd": self.instance_weight * instance, "loss_bc": self.direction_weight * direction}
