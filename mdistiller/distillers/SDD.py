"""Wei, Luo and Luo, Scaled Decoupled Distillation, CVPR 2024."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mdistiller.checks import TEMPERATURE, WARM_UP, WEIGHT, Check, list_of, whole
from mdistiller.models import find_classifier

from ._base import Output
from ._common import full_precision, pool_to, require_final_map, warm_up
from ._logit import LogitDistiller
from .DKD import dkd_losses

GRIDS = list_of(whole(1, 16), "[1,2,4]", range(1, 11))


def region_logits(final_map: torch.Tensor, classifier: nn.Module, scales: Sequence[int]) -> torch.Tensor:
    """Class scores of regions: `classifier` of the averages of `final_map` over grids of `scales` cells a side.

    final_map: (batch, channels, height, width). Returns (batch, regions, classes), 21 regions for scales 1, 2, 4. A
    map that is smaller than a grid has cells that overlap.
    """
    averages = torch.cat([pool_to(final_map, (scale, scale)).flatten(2) for scale in scales], dim=2)
    return classifier(averages.mT)


@full_precision
def sdd_loss(
    logits_student: torch.Tensor,
    logits_teacher: torch.Tensor,
    target: torch.Tensor,
    alpha: float,
    beta: float,
    temperature: float,
) -> torch.Tensor:
    """Decoupled distillation of each region, mean over batch and regions, doubled where the teacher is at odds.

    logits_*: (batch, regions, classes), the global region first; target: (batch,). Returns a scalar. A region weighs
    2 where, of the teacher's predictions for it and for the global region, one is right and the other wrong; else 1.
    """
    regions = logits_teacher.shape[1]
    is_right = logits_teacher.argmax(dim=2) == target[:, None]
    weight = 1 + (is_right != is_right[:, :1]).to(logits_teacher.dtype)
    logits = logits_student.flatten(0, 1), logits_teacher.flatten(0, 1)
    losses = dkd_losses(*logits, target.repeat_interleave(regions), alpha, beta, temperature)
    return (losses * weight.flatten()).mean()


class SDD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + warm-up · sdd_loss of region_logits."""

    defaults = {
        "SCALES": [1, 2, 4],  # cells a side of each grid of regions, the whole map first
        "CE_WEIGHT": 2.0,
        "ALPHA": 3.0,
        "BETA": 6.0,
        "T": 4.0,
        "WARMUP": 20,
    }
    checks = {
        "SCALES": Check(
            lambda values: GRIDS.is_good(values) and values[0] == 1, f"{GRIDS.expected}, the first 1 for the whole map"
        ),
        **dict.fromkeys(("CE_WEIGHT", "ALPHA", "BETA"), WEIGHT),
        "T": TEMPERATURE,
        "WARMUP": WARM_UP,
    }
    venue = "CVPR 2024"
    transfers = "decoupled logits of image regions"
    needs_one_class = True
    has_own_folders = True
    reads_features = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        require_final_map(type(self).__name__, student, teacher)
        self.scales = cfg.SDD.SCALES
        self.alpha = cfg.SDD.ALPHA
        self.beta = cfg.SDD.BETA
        self.temperature = cfg.SDD.T
        self.warmup = cfg.SDD.WARMUP

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        # The teacher's regions carry no graph: its features come without, and its classifier is frozen.
        regions = self.logits_to_compare(
            region_logits(student.features["final_map"], find_classifier(self.student), self.scales),
            region_logits(teacher.features["final_map"], find_classifier(self.teacher), self.scales),
        )
        loss_sdd = sdd_loss(*regions, target, self.alpha, self.beta, self.temperature)
        return {"loss_kd": warm_up(kwargs["epoch"], self.warmup) * loss_sdd}
