"""Sun et al., Knowledge Distillation with Refined Logits, ICCV 2025."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WARM_UP, WEIGHT

from ._common import full_precision, is_target, warm_up
from ._logit import LogitDistiller

HIDDEN = -1e9  # a logit without probability; an infinite one has no softmax where it is that of every class


def log_p_binary(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (batch, 2) of the class `chosen` (batch,) and of all others together.

    logits: (batch, classes).
    """
    one = logits.gather(1, chosen[:, None]).squeeze(1)
    others = logits.masked_fill(is_target(logits, chosen), -torch.inf).logsumexp(dim=1)
    return F.log_softmax(torch.stack([one, others], dim=1), dim=1)


@full_precision
def confidence_loss(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T² KL of (target class, all others) of the student to (largest class, all others) of the teacher.

    logits_*: (batch, classes); target: (batch,). Returns a scalar, the mean over the batch. The student learns how
    sure the teacher is, even where the teacher is wrong.
    """
    log_p_student = log_p_binary(logits_student / temperature, target)
    log_p_teacher = log_p_binary(logits_teacher / temperature, logits_teacher.argmax(dim=1))
    return temperature**2 * F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)


@full_precision
def correlation_loss(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, temperature: float
) -> torch.Tensor:
    """T² KL over the classes whose logit the teacher has below that of the target class.

    logits_*: (batch, classes); target: (batch,). Returns a scalar, the mean over the batch. A sample without such a
    class adds 0.
    """
    is_hidden = logits_teacher >= logits_teacher.gather(1, target[:, None])
    log_p_student, log_p_teacher = (
        F.log_softmax((z / temperature).masked_fill(is_hidden, HIDDEN), dim=1) for z in (logits_student, logits_teacher)
    )
    return temperature**2 * F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)


class RLD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + warm-up · (ALPHA · confidence_loss at ALPHA_T + BETA · correlation_loss at T)."""

    defaults = {"CE_WEIGHT": 1.0, "ALPHA": 1.0, "BETA": 8.0, "T": 4.0, "ALPHA_T": 1.0, "WARMUP": 20}
    checks = {
        **dict.fromkeys(("CE_WEIGHT", "ALPHA", "BETA"), WEIGHT),
        **dict.fromkeys(("T", "ALPHA_T"), TEMPERATURE),
        "WARMUP": WARM_UP,
    }
    venue = "ICCV 2025"
    transfers = "the largest logit's confidence, logits below the target's"
    needs_one_class = True
    index = 20

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.alpha = cfg.RLD.ALPHA
        self.beta = cfg.RLD.BETA
        self.temperature = cfg.RLD.T
        self.alpha_temperature = cfg.RLD.ALPHA_T
        self.warmup = cfg.RLD.WARMUP

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        logits = logits_student, logits_teacher, target
        confidence = self.alpha * confidence_loss(*logits, self.alpha_temperature)
        correlation = self.beta * correlation_loss(*logits, self.temperature)
        return {"loss_kd": warm_up(kwargs["epoch"], self.warmup) * (confidence + correlation)}
