"""Class-aware Logit Knowledge Distillation."""

import torch
import torch.nn.functional as F

from ._base import Distiller
from ._common import cross_entropy, full_precision


@full_precision
def instance_loss(logits_student, logits_teacher):
    """Mean squared error of the logits, each row (a sample) of unit length. logits_*: (batch, classes)."""
    return F.mse_loss(F.normalize(logits_student, dim=1), F.normalize(logits_teacher, dim=1))


@full_precision
def class_loss(logits_student, logits_teacher):
    """Mean squared error of the logits, each column (a class) of unit length. logits_*: (batch, classes)."""
    return F.mse_loss(F.normalize(logits_student, dim=0), F.normalize(logits_teacher, dim=0))


@full_precision
def class_correlation_loss(logits_student, logits_teacher):
    """Frobenius norm of the difference of the class covariances, over classes².

    logits_*: (batch, classes). The covariances (classes, classes) are sums over the batch divided by classes − 1,
    as released.
    """
    classes = logits_student.shape[1]

    def covariance(logits):
        centred = logits - logits.mean(dim=0)
        return centred.T @ centred / (classes - 1)

    return torch.linalg.matrix_norm(covariance(logits_student) - covariance(logits_teacher)) / classes**2


class CLKD(Distiller):
    """λ · cross-entropy + μ · (instance + β · class) + ν · class correlation."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.ce_weight = cfg.CLKD.LOSS.CE_WEIGHT
        self.kd_weight = cfg.CLKD.LOSS.KD_WEIGHT
        self.correlation_weight = cfg.CLKD.LOSS.CORRELATION_WEIGHT
        self.beta = cfg.CLKD.BETA

    def forward_train(self, image, target, **kwargs):
        logits_student, _ = self.student(image)
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)
        logits = logits_student, logits_teacher
        alignment = instance_loss(*logits) + self.beta * class_loss(*logits)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.kd_weight * alignment + self.correlation_weight * class_correlation_loss(*logits),
        }
