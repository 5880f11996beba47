"""Touvron et al., Training Data-Efficient Image Transformers & Distillation through Attention, ICML 2021."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mdistiller.checks import TEMPERATURE, number, one_of

from ._common import cross_entropy
from ._logit import LogitDistiller
from .KD import kd_loss


def soft_loss(logits_student: torch.Tensor, logits_teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """T² KL(softmax(z_t / T) ‖ softmax(z_s / T)), mean over batch and classes, as released.

    logits_*: (batch, classes). Returns a scalar.
    """
    return kd_loss(logits_student, logits_teacher, temperature) / logits_student.shape[1]


def hard_loss(logits_student: torch.Tensor, logits_teacher: torch.Tensor) -> torch.Tensor:
    """Cross-entropy on the teacher's largest class, mean over the batch. logits_*: (batch, classes)."""
    return cross_entropy(logits_student, logits_teacher.argmax(dim=1))


class DeiT(LogitDistiller):
    """(1 − ALPHA) · cross-entropy + ALPHA · soft_loss or, by FORM, hard_loss."""

    defaults = {"FORM": "soft", "ALPHA": 0.5, "TEMPERATURE": 1.0}  # FORM: soft | hard
    checks = {"FORM": one_of("soft", "hard"), "ALPHA": number(0, 1), "TEMPERATURE": TEMPERATURE}
    venue = "ICML 2021"
    transfers = "softened logits or the largest class, to the head of a distillation token where there is one"
    index = 31

    @classmethod
    def weight_of(cls, key: str, cfg: Any) -> float:
        return 1 - cfg.DEIT.ALPHA if key == "CE_WEIGHT" and cfg is not None else super().weight_of(key, cfg)

    @classmethod
    def variant(cls, cfg: Any) -> list[str]:
        return [*([] if cfg.DEIT.FORM == "soft" else [cfg.DEIT.FORM]), *super().variant(cfg)]

    @classmethod
    def unread(cls, cfg: Any) -> Mapping[str, str]:
        return {"TEMPERATURE": "DEIT.FORM hard takes the teacher's largest class"} if cfg.DEIT.FORM == "hard" else {}

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.form = cfg.DEIT.FORM
        self.alpha = cfg.DEIT.ALPHA
        self.temperature = cfg.DEIT.TEMPERATURE

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        logits = logits_student, logits_teacher
        loss = soft_loss(*logits, self.temperature) if self.form == "soft" else hard_loss(*logits)
        return {"loss_kd": self.alpha * loss}
