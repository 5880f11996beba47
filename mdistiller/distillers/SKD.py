"""Jeong, Lee and Choi, Streamlined Knowledge Distillation, CVPR 2026."""

import torch
import torch.nn.functional as F

from ._base import Distiller
from ._common import cross_entropy, full_precision
from .KD import kd_loss
from .MLKD import confidence_shares


@full_precision
def direction_loss(logits_student, logits_teacher, tikhonov):
    """Mahalanobis distance between the Gram matrices of normalised logits.

    logits_*: (batch, classes). Returns a scalar: with G = ẑẑᵀ / classes and D = G_s − G_t, the mean over D's rows d
    of sqrt(dᵀ Σ⁻¹ d), where Σ is the covariance of D's columns plus `tikhonov` · I, which keeps it invertible.
    A Cholesky factor Σ = LLᵀ gives the distance as the norm of L⁻¹d.
    """
    batch, classes = logits_student.shape
    z_student, z_teacher = F.normalize(logits_student, dim=1), F.normalize(logits_teacher, dim=1)
    difference = (z_student @ z_student.T - z_teacher @ z_teacher.T) / classes
    centred = difference - difference.mean(dim=0)
    covariance = centred.T @ centred / max(batch - 1, 1)
    factor = torch.linalg.cholesky(covariance + tikhonov * torch.eye(batch, device=centred.device, dtype=centred.dtype))
    whitened = torch.linalg.solve_triangular(factor, difference.T, upper=False)
    return torch.linalg.vector_norm(whitened, dim=0).mean()


class SKD(Distiller):
    """CE_WEIGHT · cross-entropy + INSTANCE_WEIGHT · T² KL + DIRECTION_WEIGHT · direction_loss.

    As released, the instance term is scaled by the share of low-confidence samples and the direction term by that
    of low-confidence classes (see `confidence_shares`).
    """

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.temperature = cfg.SKD.TEMPERATURE
        self.tikhonov = cfg.SKD.TIKHONOV
        self.ce_weight = cfg.SKD.LOSS.CE_WEIGHT
        self.instance_weight = cfg.SKD.LOSS.INSTANCE_WEIGHT
        self.direction_weight = cfg.SKD.LOSS.DIRECTION_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, _ = self.student(image)
        with torch.no_grad():
            logits_teacher, _ = self.teacher(image)
        share_of_samples, share_of_classes = confidence_shares(logits_teacher)
        instance = share_of_samples * kd_loss(logits_student, logits_teacher, self.temperature)
        direction = share_of_classes * direction_loss(logits_student, logits_teacher, self.tikhonov)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.instance_weight * instance,
            "loss_bc": self.direction_weight * direction,
        }
