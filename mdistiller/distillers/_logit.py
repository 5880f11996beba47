"""What the methods that compare logits share."""

from typing import Any

import torch
from torch import nn

from ._base import Distiller, Output
from ._common import full_precision

EPSILON = 1e-7  # of standardisation


@full_precision
def standardise(logits: torch.Tensor) -> torch.Tensor:
    """Logits (…, classes) minus their mean over the classes, over their standard deviation; the same shape.

    The student then need not match the teacher's scale and shift of logits. Equal logits become zero. The deviation is
    the unbiased one plus EPSILON, as released; the paper's algorithm 1 divides by the number of classes.
    Source: Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024.
    """
    centred = logits - logits.mean(dim=-1, keepdim=True)
    variance = centred.square().sum(dim=-1, keepdim=True) / max(logits.shape[-1] - 1, 1)
    # The root of 0 would have an infinite slope.
    deviation = torch.where(variance > 0, variance, 1).sqrt() * (variance > 0)
    return centred / (deviation + EPSILON)


class LogitDistiller(Distiller):
    """Cross-entropy, plus the losses of logits that a method gives as `distillation_losses`.

    DISTILLER.LOGIT_STANDARDIZATION standardises what these see; the cross-entropy sees the logits as they are.
    """

    compares_logits = True
    teacher: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.is_standardised = cfg.DISTILLER.LOGIT_STANDARDIZATION

    def distillation_losses(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> dict[str, torch.Tensor]:
        """Losses by name. logits_*: (batch, classes); target: (batch,); keywords as of `forward_train`."""
        raise NotImplementedError(f"{type(self).__name__} must define distillation_losses")

    def logits_to_compare(
        self, logits_student: torch.Tensor, logits_teacher: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both logits (…, classes) as the distillation losses see them."""
        if self.is_standardised:
            return standardise(logits_student), standardise(logits_teacher)
        return logits_student, logits_teacher

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        of_both = self.logits_to_compare(student.logits, teacher.logits)
        if self.relates_images:
            return self.distillation_losses(*map(self.processes.whole, (*of_both, target)), **kwargs)
        return self.distillation_losses(*of_both, target, **kwargs)
