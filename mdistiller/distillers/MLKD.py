"""Jin et al., Multi-Level Logit Distillation, CVPR 2023."""

import torch
import torch.nn.functional as F

from ._base import Distiller
from ._common import cross_entropy, full_precision, low_confidence_share
from .KD import kd_loss


@full_precision
def class_correlation_loss(logits_student, logits_teacher, temperature):
    """Squared Frobenius norm of the difference of PᵀP, over the number of classes.

    logits_*: (batch, classes), of which P is the softmax at `temperature`. Returns a scalar.
    """
    p_student, p_teacher = (F.softmax(z / temperature, dim=1) for z in (logits_student, logits_teacher))
    return (p_teacher.T @ p_teacher - p_student.T @ p_student).square().sum() / logits_student.shape[1]


@full_precision
def batch_correlation_loss(logits_student, logits_teacher, temperature):
    """Squared Frobenius norm of the difference of PPᵀ, over the batch size.

    logits_*: (batch, classes), of which P is the softmax at `temperature`. Returns a scalar.
    """
    p_student, p_teacher = (F.softmax(z / temperature, dim=1) for z in (logits_student, logits_teacher))
    return (p_teacher @ p_teacher.T - p_student @ p_student.T).square().sum() / logits_student.shape[0]


@full_precision
def confidence_shares(logits_teacher):
    """Shares of low-confidence samples and of low-confidence classes in a batch, two scalars.

    logits_teacher: (batch, classes). A sample's confidence is its largest probability, a class's the sum of its
    probabilities over the batch; low is at most the median. The published code multiplies already averaged losses
    by masks of these, so it scales each by a share near one half instead of selecting. The numbers are kept.
    """
    p_teacher = F.softmax(logits_teacher, dim=1)
    return low_confidence_share(p_teacher.amax(dim=1)), low_confidence_share(p_teacher.sum(dim=0))


class MLKD(Distiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · (instance + class + batch alignment), summed over TEMPERATURES."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.temperatures = cfg.MLKD.TEMPERATURES
        self.ce_weight = cfg.MLKD.LOSS.CE_WEIGHT
        self.kd_weight = cfg.MLKD.LOSS.KD_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, _ = self.student(image)
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)
        share_of_samples, share_of_classes = confidence_shares(logits_teacher)

        def over_temperatures(loss):
            return self.kd_weight * sum(loss(logits_student, logits_teacher, t) for t in self.temperatures)

        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": share_of_samples * over_temperatures(kd_loss),
            "loss_cc": share_of_classes * over_temperatures(class_correlation_loss),
            "loss_bc": share_of_samples * over_temperatures(batch_correlation_loss),
        }
