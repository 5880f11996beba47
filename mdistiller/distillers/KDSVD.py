"""Lee, Kim and Song, Self-supervised Knowledge Distillation Using Singular Value Decomposition, ECCV 2018."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from ._base import Distiller
from ._common import cross_entropy, full_precision, pair_stages, pool_larger, stages_of

MORE_OF_THE_STUDENT = 3  # the student's vectors beyond k, among which alignment chooses
RBF_WIDTH = 8


class RightSingularVectors(torch.autograd.Function):
    """The first k right singular vectors (batch, columns, k) of x (batch, rows, columns), and all singular values.

    The gradient runs through the vectors only. It does not exist between vectors of equal singular values, and is
    zero there; the library's also fails where values that nobody uses are equal, as those of a map with several
    empty columns are.
    """

    @staticmethod
    def forward(ctx, x, k):
        _, values, vectors_t = torch.linalg.svd(x, full_matrices=False)
        ctx.k = k
        ctx.save_for_backward(x, values, vectors_t)
        ctx.mark_non_differentiable(values)
        return vectors_t[:, :k].mT, values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, _):
        x, values, vectors_t = ctx.saved_tensors
        vectors, squares = vectors_t[:, : ctx.k].mT, values.square()
        rounding = x.shape[2] * torch.finfo(x.dtype).eps * squares[:, :1, None]

        def reciprocal(gap):
            is_gap = gap.abs() > rounding
            return torch.where(is_gap, 1 / torch.where(is_gap, gap, 1), 0)

        # v_i is an eigenvector of xᵀx, so dv_i is the sum over j ≠ i of v_j (v_jᵀ d(xᵀx) v_i) / (s_i² − s_j²). Where
        # x has fewer rows than columns, s_j is zero for the v_j that `vectors_t` lacks.
        along, top = vectors_t @ grad, squares[:, None, : ctx.k]
        solved = vectors_t.mT @ (along * reciprocal(top - squares[:, :, None]))
        solved = solved + (grad - vectors_t.mT @ along) * reciprocal(top)
        return (x @ solved) @ vectors.mT + (x @ vectors) @ solved.mT, None


@full_precision
def aligned_vectors(feat_student, feat_teacher, k):
    """The k leading singular vectors over the columns of one stage's maps, the student's and the teacher's.

    feat_*: (batch, channels, height, width); channels may differ, and where sizes do the larger is pooled. Returns two
    (batch, width, k). A map is decomposed as a matrix (channels · height, width), in float32, as released. For each of
    the teacher's vectors the student's is that one of its first k + 3 which is nearest to parallel, pointing the same
    way; both are scaled by the teacher's singular values, of unit length together.
    """

    def decompose(feat, k):
        vectors, values = RightSingularVectors.apply(feat.flatten(1, 2).float(), k)
        return F.normalize(vectors, dim=1), F.normalize(values[:, None, :k], dim=2)

    feat_student, feat_teacher = pool_larger(feat_student, feat_teacher)
    v_student, _ = decompose(feat_student, k + MORE_OF_THE_STUDENT)
    v_teacher, s_teacher = decompose(feat_teacher, k)
    # The relation of two stages depends on their vectors' signs, which the decomposition leaves open.
    v_teacher = torch.where(v_teacher.sum(dim=1, keepdim=True) < 0, -v_teacher, v_teacher)
    cosine = (v_student.mT @ v_teacher).detach()
    is_nearest = cosine.abs() == cosine.abs().amax(dim=1, keepdim=True)
    return (v_student @ (cosine.sign() * is_nearest)) * s_teacher, v_teacher * s_teacher


@full_precision
def relation_loss(student, teacher, previous_student, previous_teacher):
    """Squared difference of the relations between the vectors of two successive stages, summed but for the batch.

    student, teacher: (batch, width, k); previous_*: (batch, width of the stage before, k). Returns a scalar, the mean
    over the batch. A relation is exp(−d² / 8) of the difference d of an entry of one stage and an entry of the other.
    """

    def relation(vectors, previous):
        return torch.exp(-(vectors.unsqueeze(2) - previous.unsqueeze(1)).square() / RBF_WIDTH)

    difference = relation(student, previous_student) - relation(teacher, previous_teacher)
    return difference.square().sum() / len(student)


class KDSVD(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · relation_loss, summed over the pairs of successive stages."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.k = cfg.KDSVD.K
        self.ce_weight = cfg.KDSVD.LOSS.CE_WEIGHT
        self.feat_weight = cfg.KDSVD.LOSS.FEAT_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        stages = pair_stages(
            stages_of(self.student, features_student["feats"]), stages_of(self.teacher, features_teacher["feats"])
        )
        vectors = [aligned_vectors(*stage, self.k) for stage in stages]
        loss_svd = sum(relation_loss(*current, *previous) for previous, current in pairwise(vectors))
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * loss_svd,
        }
