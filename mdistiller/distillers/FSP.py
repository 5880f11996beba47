"""Yim et al., A Gift from Knowledge Distillation, CVPR 2017."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT
from mdistiller.errors import UserError

from ._base import Output
from ._common import full_precision, pair_stages, pool_larger, stage_channels, total
from ._initial import INITIAL, INITIAL_CHECKS, StagedDistiller


@full_precision
def flow(feat: torch.Tensor, deeper: torch.Tensor) -> torch.Tensor:
    """Products of the channels of a map and of the next, mean over their positions, at the smaller size.

    feat: (batch, channels, height, width); deeper: (batch, more channels, …). Returns (batch, more channels, channels).
    """
    feat, deeper = (each.flatten(2) for each in pool_larger(feat, deeper))
    return deeper @ feat.mT / feat.shape[2]


flow_loss = full_precision(F.mse_loss)


class FSP(StagedDistiller):
    """CE_WEIGHT · cross-entropy, of a student that began with the mean squared differences of `flow`, summed.

    These are of each map and the next, the stem's first. A student's map of other channels than the teacher's goes
    through a 1x1 convolution in that stage.
    """

    defaults = {"INITIAL": INITIAL, "LOSS": {"CE_WEIGHT": 1.0}}
    checks = {**INITIAL_CHECKS, "LOSS.CE_WEIGHT": WEIGHT}
    venue = "CVPR 2017"
    transfers = "products of neighbouring maps, in an initial stage"
    begins_with_student = True
    index = 34

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        channels = pair_stages(stage_channels(student), stage_channels(teacher))
        if len(channels) < 2:
            raise UserError("FSP compares each map with the next, and the networks share one; choose another method")
        self.connectors = nn.ModuleList(
            nn.Identity() if ours == theirs else nn.Conv2d(ours, theirs, 1, bias=False) for ours, theirs in channels
        ).requires_grad_(False)

    def initial_modules(self) -> list[nn.Module]:
        return [self.connectors]

    def forward_initial(
        self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        student = Output(*self.student(image))
        with torch.no_grad():
            teacher = Output(*self.teacher(image))
        stages = pair_stages(student.features["feats"], teacher.features["feats"])
        ours = [connector(feat) for connector, (feat, _) in zip(self.connectors, stages, strict=True)]
        theirs = [feat for _, feat in stages]
        losses = [flow_loss(flow(*s), flow(*t)) for s, t in zip(pairwise(ours), pairwise(theirs), strict=True)]
        return student.logits, {"loss_initial": total(losses)}
