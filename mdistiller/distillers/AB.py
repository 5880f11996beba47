"""Heo et al., Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons, AAAI 2019."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mdistiller.checks import WEIGHT

from ._base import Output
from ._common import ConvReg, full_precision, get_feat_shapes, pair_stages, pool_larger, stages_of, total
from ._initial import INITIAL, INITIAL_CHECKS, StagedDistiller

SCALE = 3 / 1000  # as released


@full_precision
def boundary_loss(feat_student: torch.Tensor, feat_teacher: torch.Tensor, margin: float) -> torch.Tensor:
    """Squared distance of responses to the side of 0 that the teacher's are on, by `margin`; sum a map, batch mean.

    feat_*: (batch, channels, height, width), before the ReLU. Returns a scalar. Where the teacher is silent a student
    above −margin is pushed down to it, where the teacher fires one up to margin is pushed up to it.
    """
    is_active = feat_teacher > 0
    too_high = (feat_student + margin).square() * ((feat_student > -margin) & ~is_active)
    too_low = (feat_student - margin).square() * ((feat_student <= margin) & is_active)
    return (too_high + too_low).sum() / len(feat_student)


def are_bridged(shape_student: Sequence[int], shape_teacher: Sequence[int]) -> bool:
    """Whether a strided or transposed convolution, or none, takes the student's size to the teacher's."""
    return shape_student[2] in (shape_teacher[2], 2 * shape_teacher[2]) or 2 * shape_student[2] == shape_teacher[2]


def make_connector(shape_student: Sequence[int], shape_teacher: Sequence[int]) -> nn.Module:
    """From a student's map to the teacher's, of shapes (batch, channels, height, width); nothing where they are equal.

    Of sizes that are not bridged the larger is pooled first.
    """
    if shape_student[1:] == shape_teacher[1:]:
        return nn.Identity()
    if not are_bridged(shape_student, shape_teacher):
        shape_student, shape_teacher = ((1, shape[1], 1, 1) for shape in (shape_student, shape_teacher))
    return ConvReg(shape_student, shape_teacher, use_relu=False)


class AB(StagedDistiller):
    """CE_WEIGHT · cross-entropy, of a student that began with boundary_loss over the stages.

    In the initial stage each stage weighs half the next deeper, and its map goes through a connector.
    """

    defaults = {"MARGIN": 1.0, "INITIAL": INITIAL, "LOSS": {"CE_WEIGHT": 1.0}}
    checks = {"MARGIN": WEIGHT, **INITIAL_CHECKS, "LOSS.CE_WEIGHT": WEIGHT}
    venue = "AAAI 2019"
    transfers = "which neurons fire, in an initial stage"
    begins_with_student = True
    index = 32

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.margin = cfg.AB.MARGIN
        side = cfg.DATASET.IMAGE_SIZE or 32
        shapes = self.pair(*get_feat_shapes(student, teacher, (side, side)))
        self.is_pooled = [not are_bridged(*pair) for pair in shapes]
        self.connectors = nn.ModuleList(make_connector(*pair) for pair in shapes).requires_grad_(False)

    def pair(self, student: Sequence[Any], teacher: Sequence[Any]) -> list[tuple[Any, Any]]:
        """Of the entries that each network has one of a stage, pairs (student's, teacher's)."""
        return pair_stages(stages_of(self.student, student), stages_of(self.teacher, teacher))

    def initial_modules(self) -> list[nn.Module]:
        return [self.connectors]

    def forward_initial(
        self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        student = Output(*self.student(image))
        with torch.no_grad():
            teacher = Output(*self.teacher(image))
        stages = self.pair(student.features["preact_feats"], teacher.features["preact_feats"])
        losses = []
        for depth, (stage, connector) in enumerate(zip(reversed(stages), reversed(self.connectors), strict=True)):
            feat_student, feat_teacher = pool_larger(*stage) if self.is_pooled[-1 - depth] else stage
            maps = pool_larger(connector(feat_student), feat_teacher)
            losses.append(boundary_loss(*maps, self.margin) / 2**depth)
        return student.logits, {"loss_initial": SCALE * total(losses)}
