"""The plain forms of losses whose kernels are in `mdistiller/distillers/_kernels.py`, by their papers' formulas."""

import torch
import torch.nn.functional as F

from mdistiller.distillers._common import pool_larger


def direction_loss_reference(logits_student, logits_teacher, tikhonov, scale=1.0):
    """The plain form of `direction_loss`, by an explicit inverse. Its gradient is NaN where a row of D is 0."""
    z_student, z_teacher = F.normalize(logits_student, dim=1), F.normalize(logits_teacher, dim=1)
    difference = (z_student @ z_student.T - z_teacher @ z_teacher.T) / scale
    identity = torch.eye(len(difference), device=difference.device, dtype=difference.dtype)
    covariance = torch.cov(difference.T) if len(difference) > 1 else torch.zeros_like(difference)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance + tikhonov * identity))
    return ((difference @ inverse) * difference).sum(dim=1).sqrt().mean()


def angle_loss_reference(embedding_student, embedding_teacher):
    """The plain form of `angle_loss`, which takes memory for (batch, batch, channels) and (batch, batch, batch)."""

    def relations(embedding):
        differences = embedding[None] - embedding[:, None]
        lengths = differences.norm(dim=2, keepdim=True)
        directions = differences / lengths.masked_fill(lengths == 0, torch.inf)
        return directions @ directions.mT

    return F.smooth_l1_loss(relations(embedding_student), relations(embedding_teacher))


def nst_loss_reference(feat_student, feat_teacher):
    """The plain form of `nst_loss`, which takes memory for (batch, channels, channels, positions)."""

    def mean_kernel(a, b):
        return (a[:, None] * b[:, :, None]).sum(dim=3).square().mean()

    feat_student, feat_teacher = pool_larger(feat_student, feat_teacher)
    student, teacher = (F.normalize(feat.flatten(2), dim=2) for feat in (feat_student, feat_teacher))
    return mean_kernel(teacher, teacher) + mean_kernel(student, student) - 2 * mean_kernel(student, teacher)
