"""Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mdistiller.checks import WEIGHT, one_of

from ._base import Features
from ._common import batch_norms_before_relu, full_precision, pool_larger
from ._feature import FeatureDistiller


@torch.no_grad()
def channel_margins(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """What a negative response of each channel of a teacher's map is on average, from the batch norm before it.

    weight, bias: (channels,), the batch norm's. Returns (channels,), float64. A channel is taken to be normal with mean
    m, the bias, and deviation s, the weight's size. Its mean below zero is m − s φ(m/s) / Φ(−m/s); where less than a
    thousandth of it is below zero the margin is −3s instead.
    """
    mean = bias.double()
    deviation = weight.double().abs().clamp_min(torch.finfo(torch.float64).tiny)
    ratio = mean / deviation
    density = torch.exp(-ratio.square() / 2) / math.sqrt(2 * math.pi)
    below_zero = torch.special.ndtr(-ratio)
    return torch.where(below_zero > 0.001, mean - deviation * density / below_zero, -3 * deviation)


@full_precision
def partial_l2_loss(feat_student: torch.Tensor, feat_teacher: torch.Tensor, margin: torch.Tensor) -> torch.Tensor:
    """Partial L2 distance of one stage's maps before ReLU, summed over a map and averaged over the batch.

    feat_*: (batch, channels, height, width); margin: (channels,), negative. Returns a scalar. The teacher's
    responses are cut off below at the margin, and where they are negative a student below them costs nothing.
    """
    target = torch.maximum(feat_teacher, margin[:, None, None])
    counts = (feat_teacher > 0) | (feat_student > target)
    return ((feat_student - target).square() * counts).sum() / len(feat_student)


class Connectors(nn.Module):
    """A convolution and a batch norm for each stage, from the student's channels to the teacher's."""

    def __init__(self, channels: Sequence[tuple[int, int]], kernel_size: int):
        super().__init__()
        self.connectors = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(student, teacher, kernel_size, padding=(kernel_size - 1) // 2, bias=False),
                nn.BatchNorm2d(teacher),
            )
            for student, teacher in channels
        )
        for connector in self.connectors:
            nn.init.kaiming_normal_(next(connector.parameters()), mode="fan_out")  # the convolution's weight

    def forward(self, feats: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [connector(feat) for connector, feat in zip(self.connectors, feats, strict=True)]


class OFD(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · partial_l2_loss over the stages, each weighing half the next deeper.

    The teacher, though frozen, normalises by the batch's statistics when the distiller trains, as in the paper.
    """

    defaults = {"LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 0.001}, "CONNECTOR": {"KERNEL_SIZE": 1}}
    checks = {"CONNECTOR.KERNEL_SIZE": one_of(1, 3, 5, 7), "LOSS.CE_WEIGHT": WEIGHT, "LOSS.FEAT_WEIGHT": WEIGHT}
    venue = "ICCV 2019"
    transfers = "feature maps before the ReLU, above a margin"
    teacher_is_constant = False

    margins: torch.Tensor

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        channels = self.pair_channels()
        self.connectors = Connectors(channels, cfg.OFD.CONNECTOR.KERNEL_SIZE)
        batch_norms = batch_norms_before_relu(teacher)[-len(channels) :]
        margins = torch.cat([channel_margins(norm.weight, norm.bias) for norm in batch_norms])
        self.register_buffer("margins", margins.float(), persistent=False)  # in float32 as released

    def train(self, mode: bool = True) -> "OFD":
        super().train(mode)
        self.teacher.train(mode)
        return self

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        stages = self.pair(features_student["preact_feats"], features_teacher["preact_feats"])
        feats_student, feats_teacher = zip(*(pool_larger(*stage) for stage in stages), strict=True)
        margins = self.margins.split([feat.shape[1] for feat in feats_teacher])
        triples = zip(self.connectors(feats_student), feats_teacher, margins, strict=True)
        losses = (partial_l2_loss(*triple) for triple in triples)
        return functools.reduce(lambda shallower, deepest: shallower / 2 + deepest, losses)
