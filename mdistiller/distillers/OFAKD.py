"""Hao et al., One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation, NeurIPS
2023."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT, number
from mdistiller.models import find_classifier
from mdistiller.models._common import BatchNorm2d, init_convolutions

from ._base import Distiller, Output
from ._common import full_precision, is_target, stage_channels, stages_of, total


@full_precision
def ofa_loss(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, target: torch.Tensor, eps: float
) -> torch.Tensor:
    """−Σ ((p_t + 1[target])^eps − 1[target]) log p_s over the classes, mean over the batch.

    logits_*: (batch, classes); target: (batch,). Returns a scalar. The larger `eps`, the more the teacher's confidence
    in the target counts against its other probabilities.
    """
    own = is_target(logits_student, target).to(logits_teacher.dtype)
    weights = (F.softmax(logits_teacher, dim=1) + own).pow(eps) - own
    return -(weights * F.log_softmax(logits_student, dim=1)).sum(dim=1).mean()


def separable(channels: int, channels_to: int, stride: int) -> list[nn.Module]:
    """A depthwise 3x3 convolution, then a pointwise one, with batch norm and ReLU."""
    return [
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, channels_to, 1, bias=False),
        BatchNorm2d(channels_to),
        nn.ReLU(),
    ]


def make_branch(channels: int, halvings: int, width: int, classes: int) -> nn.Sequential:
    """From the map of a stage to logits: blocks that halve it, and double its channels, then a classifier.

    The last block is as wide as `width`; where there is none, a 1x1 convolution is.
    """
    layers: list[nn.Module] = []
    for left in reversed(range(halvings)):
        layers += [*separable(channels, channels, 2), *separable(channels, 2 * channels if left else width, 1)]
        channels *= 2
    if not halvings:
        layers.append(nn.Conv2d(channels, width, 1))
    classifier = nn.Linear(width, classes)
    nn.init.trunc_normal_(classifier.weight, std=0.02)
    nn.init.zeros_(classifier.bias)
    branch = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier)
    init_convolutions(branch)
    return branch


class OFAKD(Distiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · ofa_loss + FEAT_WEIGHT · the sum of ofa_loss over the stages' branches.

    Each stage of the student has a branch of its own, which turns its map into logits; the teacher's are its last.
    """

    defaults = {"EPS": 1.0, "LOSS": {"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "FEAT_WEIGHT": 1.0}}
    checks = {"EPS": number(1, 10), **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.FEAT_WEIGHT"), WEIGHT)}
    venue = "NeurIPS 2023"
    transfers = "logits, to every stage"
    needs_one_class = True
    index = 27

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.eps = cfg.OFAKD.EPS
        self.kd_weight, self.feat_weight = cfg.OFAKD.LOSS.KD_WEIGHT, cfg.OFAKD.LOSS.FEAT_WEIGHT
        classifiers = find_classifier(student), find_classifier(teacher)
        width, classes = max(each.in_features for each in classifiers), classifiers[0].out_features
        channels = stages_of(student, stage_channels(student))
        self.branches = nn.ModuleList(
            make_branch(each, len(channels) - place, width, classes) for place, each in enumerate(channels, 1)
        )

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        maps = stages_of(self.student, student.features["feats"])
        logits = [branch(feat) for branch, feat in zip(self.branches, maps, strict=True)]
        return {
            "loss_kd": self.kd_weight * ofa_loss(student.logits, teacher.logits, target, self.eps),
            "loss_feat": self.feat_weight * total(ofa_loss(each, teacher.logits, target, self.eps) for each in logits),
        }
