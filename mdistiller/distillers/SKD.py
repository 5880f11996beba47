"""Jeong, Lee and Choi, Streamlined Knowledge Distillation, CVPR 2026."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from mdistiller.errors import UserError

from ._common import full_precision
from ._logit import LogitDistiller
from .KD import kd_loss
from .MLKD import confidence_shares


def direction_loss_reference(logits_student, logits_teacher, tikhonov, scale=1.0):
    """The plain form of `direction_loss`, by an explicit inverse. Its gradient is NaN where a row of D is 0."""
    z_student, z_teacher = F.normalize(logits_student, dim=1), F.normalize(logits_teacher, dim=1)
    difference = (z_student @ z_student.T - z_teacher @ z_teacher.T) / scale
    identity = torch.eye(len(difference), device=difference.device, dtype=difference.dtype)
    covariance = torch.cov(difference.T) if len(difference) > 1 else torch.zeros_like(difference)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance + tikhonov * identity))
    return ((difference @ inverse) * difference).sum(dim=1).sqrt().mean()


class DirectionLoss(torch.autograd.Function):
    """`direction_loss` of normalised logits, with its gradient.

    With Σ = LLᵀ, a row's distance is the length of w = L⁻¹d, and its slope u = w/|w|. Distances change by
    uᵀL⁻¹ dd − ½ uᵀL⁻¹ dΣ L⁻ᵀw.
    """

    @staticmethod
    def forward(ctx, z_student, z_teacher, tikhonov, scale):
        batch, classes = z_student.shape
        # Half of G_s − G_t. Its transpose is the other half, and similar logits do not cancel as their Grams would.
        half = (z_student - z_teacher) @ (z_student + z_teacher).T / (2 * scale)
        rows = half + half.T
        basis = None
        if 4 * classes <= batch:  # D's rows lie in the span of 2 · classes columns, outside which Σ is tikhonov · I
            basis = torch.linalg.qr(torch.cat([z_student, z_teacher], dim=1)).Q
            rows = rows @ basis
        centred = rows - rows.mean(dim=0)
        covariance = centred.T @ centred / max(batch - 1, 1)
        covariance.diagonal().add_(tikhonov)
        factor = torch.linalg.cholesky_ex(covariance).L  # unchecked: the check would wait for the device
        whitened = torch.linalg.solve_triangular(factor.T, rows, upper=True, left=False)
        lengths = torch.linalg.vector_norm(whitened, dim=1, keepdim=True)
        if any(ctx.needs_input_grad):
            # The covariance's part of the gradient meets the rows' in the whitened space; one solve takes both out.
            directions = whitened / lengths.masked_fill(lengths == 0, torch.inf)
            centred = whitened - whitened.mean(dim=0)
            slope = directions - centred @ (whitened.T @ directions) / max(batch - 1, 1)
            slope = torch.linalg.solve_triangular(factor, slope, upper=False, left=False)
            slope = slope if basis is None else slope @ basis.T
            slope = (slope + slope.T) / (batch * scale)
            inputs = zip((z_student, -z_teacher), ctx.needs_input_grad, strict=False)
            ctx.save_for_backward(*(slope @ z if is_needed else None for z, is_needed in inputs))
        return lengths.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        return *(None if gradient is None else grad_output * gradient for gradient in ctx.saved_tensors), None, None


@full_precision
def direction_loss(logits_student, logits_teacher, tikhonov, scale=1.0):
    """Mahalanobis distance between the Gram matrices of normalised logits.

    logits_*: (batch, classes). Returns a scalar: with G = ẑẑᵀ / `scale` and D = G_s − G_t, the mean over D's rows d of
    sqrt(dᵀ Σ⁻¹ d), where Σ is the covariance of D's columns plus `tikhonov` · I, which keeps it invertible.
    A row that is 0 has no gradient.
    """
    return DirectionLoss.apply(F.normalize(logits_student, dim=1), F.normalize(logits_teacher, dim=1), tikhonov, scale)


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
