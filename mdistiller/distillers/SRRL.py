"""Yang et al., Knowledge Distillation via Softmax Regression Representation Learning, ICLR 2021."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT
from mdistiller.models import find_classifier
from mdistiller.models._common import BatchNorm2d, global_average, init_convolutions

from ._base import Distiller, Output
from ._common import full_precision, require_final_map


@full_precision
def regression_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two tensors of the same shape."""
    return F.mse_loss(student, teacher)


class SRRL(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · loss of the pooled features + KD_WEIGHT · loss of the logits.

    The features are those of the student's final map, brought to the teacher's channels by `connector`; the logits are
    the teacher's classifier's of these. Both losses are `regression_loss`.
    """

    defaults = {"LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 1.0, "KD_WEIGHT": 1.0}}
    checks = dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.FEAT_WEIGHT", "LOSS.KD_WEIGHT"), WEIGHT)
    venue = "ICLR 2021"
    transfers = "pooled features, and what the teacher's classifier makes of them"
    index = 26

    teacher: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        require_final_map(type(self).__name__, student)
        self.feat_weight, self.kd_weight = cfg.SRRL.LOSS.FEAT_WEIGHT, cfg.SRRL.LOSS.KD_WEIGHT
        widths = [find_classifier(network).in_features for network in (student, teacher)]
        convolution = nn.Conv2d(widths[0], widths[1], 1, bias=False)
        self.connector = nn.Sequential(convolution, BatchNorm2d(widths[1]), nn.ReLU(inplace=True))
        init_convolutions(self.connector)

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        pooled = global_average(self.connector(student.features["final_map"]))
        logits = find_classifier(self.teacher)(pooled)
        return {
            "loss_feat": self.feat_weight * regression_loss(pooled, teacher.features["pooled_feat"]),
            "loss_kd": self.kd_weight * regression_loss(logits, teacher.logits),
        }
