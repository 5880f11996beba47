"""Hinton et al., Distilling the Knowledge in a Neural Network, NIPS 2014 Deep Learning Workshop."""

import torch
import torch.nn.functional as F

from ._base import Distiller
from ._common import cross_entropy, full_precision


@full_precision
def kd_loss(logits_student, logits_teacher, temperature):
    """T² KL(softmax(z_t / T) ‖ softmax(z_s / T)), mean over the batch.

    logits_*: (batch, classes). Returns a scalar.
    """
    log_p_student = F.log_softmax(logits_student / temperature, dim=1)
    log_p_teacher = F.log_softmax(logits_teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)


class KD(Distiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · T² KL."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.temperature = cfg.KD.TEMPERATURE
        self.ce_weight = cfg.KD.LOSS.CE_WEIGHT
        self.kd_weight = cfg.KD.LOSS.KD_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, _ = self.student(image)
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.kd_weight * kd_loss(logits_student, logits_teacher, self.temperature),
        }
