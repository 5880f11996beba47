"""Jeong, Lee and Choi, Streamlined Knowledge Distillation, CVPR 2026."""

import torch
import torch.nn.functional as F

from mdistiller.errors import UserError

from ._common import full_precision
from ._logit import LogitDistiller
from .KD import kd_loss
from .MLKD import confidence_shares


@full_precision
def direction_loss(logits_student, logits_teacher, tikhonov, scale=1.0):
    """Mahalanobis distance between the Gram matrices of normalised logits.

    logits_*: (batch, classes). Returns a scalar: with G = ẑẑᵀ / `scale` and D = G_s − G_t, the mean over D's rows d of
    sqrt(dᵀ Σ⁻¹ d), where Σ is the covariance of D's columns plus `tikhonov` · I, which keeps it invertible.
    A Cholesky factor Σ = LLᵀ gives the distance as the norm of L⁻¹d.
    """
    z_student, z_teacher = F.normalize(logits_student, dim=1), F.normalize(logits_teacher, dim=1)
    difference = (z_student @ z_student.T - z_teacher @ z_teacher.T) / scale
    batch = len(difference)
    centred = difference - difference.mean(dim=0)
    covariance = centred.T @ centred / max(batch - 1, 1)
    regularised = covariance + tikhonov * torch.eye(batch, device=centred.device, dtype=centred.dtype)
    factor = torch.linalg.cholesky_ex(regularised).L  # unchecked: the check would wait for the device
    whitened = torch.linalg.solve_triangular(factor, difference.T, upper=False)
    return torch.linalg.vector_norm(whitened, dim=0).mean()


class SKD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + INSTANCE_WEIGHT · instance + DIRECTION_WEIGHT · direction.

    FORM released: the instance term is T² KL times the share of low-confidence samples, the direction term takes Gram
    matrices over the number of classes and is scaled by the share of low-confidence classes (see `confidence_shares`).
    FORM paper: KL and the direction term as in the paper's formulas, without T², shares and division.
    """

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher, cfg, cfg.SKD.LOSS.CE_WEIGHT)
        self.form = cfg.SKD.FORM
        self.temperature = cfg.SKD.TEMPERATURE
        self.tikhonov = cfg.SKD.TIKHONOV
        self.instance_weight = cfg.SKD.LOSS.INSTANCE_WEIGHT
        self.direction_weight = cfg.SKD.LOSS.DIRECTION_WEIGHT
        if self.form not in ("released", "paper"):
            raise UserError(f"SKD.FORM is {self.form!r}; valid: released, paper")

    def distillation_losses(self, logits_student, logits_teacher, target, **kwargs):
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
