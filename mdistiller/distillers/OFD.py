"""Heo et al., A Comprehensive Overhaul of Feature Distillation, ICCV 2019."""

import math

import torch
from torch import nn

from ._base import Distiller
from ._common import cross_entropy, full_precision, pair_stages, pool_larger, stages_of


@torch.no_grad()
def channel_margins(weight, bias):
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
def partial_l2_loss(feat_student, feat_teacher, margin):
    """Partial L2 distance of one stage's maps before ReLU, summed over a map and averaged over the batch.

    feat_*: (batch, channels, height, width); margin: (channels,), negative. Returns a scalar. The teacher's
    responses are cut off below at the margin, and where they are negative a student below them costs nothing.
    """
    target = torch.maximum(feat_teacher, margin[:, None, None])
    counts = (feat_teacher > 0) | (feat_student > target)
    return ((feat_student - target).square() * counts).sum() / len(feat_student)


class Connectors(nn.Module):
    """A convolution and a batch norm for each stage, from the student's channels to the teacher's."""

    def __init__(self, channels, kernel_size):
        super().__init__()
        self.connectors = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(student, teacher, kernel_size, padding=(kernel_size - 1) // 2, bias=False),
                nn.BatchNorm2d(teacher),
            )
            for student, teacher in channels
        )
        for convolution, _ in self.connectors:
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out")

    def forward(self, feats):
        return [connector(feat) for connector, feat in zip(self.connectors, feats, strict=True)]


class OFD(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · partial_l2_loss over the stages, each weighing half the next deeper.

    The teacher, though frozen, normalises by the batch's statistics when the distiller trains, as in the paper.
    """

    needs_teacher_norms = True

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.ce_weight = cfg.OFD.LOSS.CE_WEIGHT
        self.feat_weight = cfg.OFD.LOSS.FEAT_WEIGHT
        channels = pair_stages(*(stages_of(network, network.get_stage_channels()) for network in (student, teacher)))
        self.connectors = Connectors(channels, cfg.OFD.CONNECTOR.KERNEL_SIZE)
        batch_norms = teacher.get_bn_before_relu()[-len(channels) :]
        margins = torch.cat([channel_margins(norm.weight, norm.bias) for norm in batch_norms])
        self.register_buffer("margins", margins.float(), persistent=False)  # in float32 as released

    def train(self, mode=True):
        super().train(mode)
        self.teacher.train(mode)
        return self

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + list(self.connectors.parameters())

    def get_extra_parameters(self):
        return sum(parameter.numel() for parameter in self.connectors.parameters())

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        stages = pair_stages(
            stages_of(self.student, features_student["preact_feats"]),
            stages_of(self.teacher, features_teacher["preact_feats"]),
        )
        feats_student, feats_teacher = zip(*(pool_larger(*stage) for stage in stages), strict=True)
        margins = self.margins.split([feat.shape[1] for feat in feats_teacher])
        loss_feat = 0
        for stage in zip(self.connectors(feats_student), feats_teacher, margins, strict=True):
            loss_feat = loss_feat / 2 + partial_l2_loss(*stage)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * loss_feat,
        }
