"""What the methods that compare logits share."""

import torch

from ._base import Distiller
from ._common import cross_entropy, full_precision


@full_precision
def standardise(logits):
    """Logits (…, classes) minus their mean over the classes, over their standard deviation; the same shape.

    The student then need not match the teacher's scale and shift of logits. Equal logits become zero.
    Source: Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, algorithm 1.
    """
    centred = logits - logits.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred * variance.clamp_min(1e-14).rsqrt()


class LogitDistiller(Distiller):
    """CE_WEIGHT · cross-entropy, plus the losses of logits that a method gives as `distillation_losses`.

    DISTILLER.LOGIT_STANDARDIZATION standardises what these see; the cross-entropy sees the logits as they are.
    """

    def __init__(self, student, teacher, cfg, ce_weight):
        super().__init__(student, teacher)
        self.ce_weight = ce_weight
        self.is_standardised = cfg.DISTILLER.LOGIT_STANDARDIZATION

    def distillation_losses(self, logits_student, logits_teacher, target, **kwargs) -> dict:
        """Losses by name. logits_*: (batch, classes); target: (batch,); keywords as of `forward_train`."""
        raise NotImplementedError(f"{type(self).__name__} must define distillation_losses")

    def logits_to_compare(self, *logits):
        """The logits (…, classes) as the distillation losses see them."""
        return [standardise(z) for z in logits] if self.is_standardised else list(logits)

    def forward_train(self, image, target, **kwargs):
        logits_student, _ = self.student(image)
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)
        return logits_student, self.losses(logits_student, logits_teacher, target, **kwargs)

    def losses(self, logits_student, logits_teacher, target, **kwargs) -> dict:
        """The cross-entropy and the distillation losses, by name; arguments as of `distillation_losses`."""
        losses = self.distillation_losses(*self.logits_to_compare(logits_student, logits_teacher), target, **kwargs)
        return {"loss_ce": self.ce_weight * cross_entropy(logits_student, target), **losses}
