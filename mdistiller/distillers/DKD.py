"""Zhao et al., Decoupled Knowledge Distillation, CVPR 2022."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import LARGEST, TEMPERATURE, WARM_UP, WEIGHT, number

from ._common import full_precision, is_target, warm_up
from ._logit import LogitDistiller


@full_precision
def dkd_losses(
    logits_student: torch.Tensor,
    logits_teacher: torch.Tensor,
    target: torch.Tensor,
    alpha: float,
    beta: float,
    temperature: float,
) -> torch.Tensor:
    """T² (α · TCKD + β · NCKD) of each sample.

    logits_*: (batch, classes); target: (batch,). Returns (batch,). TCKD is the KL divergence of the binary
    distributions (target class, all others); NCKD that of the distributions over the other classes alone. Both are
    computed from log-probabilities, so they stay finite where a probability vanishes.
    """
    own = is_target(logits_student, target)

    def decouple(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = logits / temperature
        others = logits.masked_fill(own, -torch.inf)
        log_p_others = F.log_softmax(others, dim=1).masked_fill(own, 0.0)
        target_and_rest = torch.stack([logits.gather(1, target[:, None]).squeeze(1), others.logsumexp(dim=1)], dim=1)
        return F.log_softmax(target_and_rest, dim=1), log_p_others

    binary_student, others_student = decouple(logits_student)
    binary_teacher, others_teacher = decouple(logits_teacher)
    tckd = F.kl_div(binary_student, binary_teacher, reduction="none", log_target=True).sum(dim=1)
    # The target's place holds log-probability 0 on both sides, so it adds exp(0) · (0 − 0) = 0.
    nckd = F.kl_div(others_student, others_teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (alpha * tckd + beta * nckd)


def dkd_loss(*args: Any, **kwargs: Any) -> torch.Tensor:
    """`dkd_losses`, mean over the batch: a scalar."""
    return dkd_losses(*args, **kwargs).mean()


class DKD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + warm-up · dkd_loss, the logits clamped to ±CLAMP first where CLAMP > 0."""

    defaults = {
        "CE_WEIGHT": 1.0,
        "ALPHA": 1.0,
        "BETA": 8.0,
        "T": 4.0,
        "WARMUP": 20,
        "CLAMP": 0.0,  # logits are clamped to ± this first; 0: not at all
    }
    checks = {
        **dict.fromkeys(("CE_WEIGHT", "ALPHA", "BETA"), WEIGHT),
        "T": TEMPERATURE,
        "WARMUP": WARM_UP,
        "CLAMP": number(0, LARGEST),
    }
    venue = "CVPR 2022"
    transfers = "target and non-target logits, decoupled"
    needs_one_class = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.alpha = cfg.DKD.ALPHA
        self.beta = cfg.DKD.BETA
        self.temperature = cfg.DKD.T
        self.warmup = cfg.DKD.WARMUP
        self.clamp = cfg.DKD.CLAMP

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        if self.clamp > 0:
            logits_student, logits_teacher = (
                z.clamp(-self.clamp, self.clamp) for z in (logits_student, logits_teacher)
            )
        loss = dkd_loss(logits_student, logits_teacher, target, self.alpha, self.beta, self.temperature)
        return {"loss_kd": warm_up(kwargs["epoch"], self.warmup) * loss}
