"""Miles and Mikolajczyk, Understanding the Role of the Projector in Knowledge Distillation, AAAI 2024."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT, number
from mdistiller.models import find_classifier

from ._base import Distiller, Output
from ._common import full_precision

EPSILON = 1e-4  # added to the variances, as released


def normalised(feat: torch.Tensor) -> torch.Tensor:
    """Each column of `feat` (batch, width) less its mean over the batch, over its deviation; zeros for one image."""
    centred = feat - feat.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + EPSILON).sqrt()


@full_precision
def srd_loss(feat_student: torch.Tensor, feat_teacher: torch.Tensor, exponent: float) -> torch.Tensor:
    """log Σ |s − t|^exponent of the normalised features, over batch and width.

    feat_*: (batch, width). Returns a scalar. A sum of 0 counts as the least normal number.
    """
    difference = (normalised(feat_student) - normalised(feat_teacher)).abs()
    return difference.pow(exponent).sum().clamp_min(torch.finfo(difference.dtype).tiny).log()


@full_precision
def soft_kl(logits_student: torch.Tensor, logits_teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL of the softened probabilities (batch, classes), without T². Returns a scalar, the batch mean."""
    log_p_student, log_p_teacher = (F.log_softmax(z / temperature, dim=1) for z in (logits_student, logits_teacher))
    return F.kl_div(log_p_student, log_p_teacher, reduction="batchmean", log_target=True)


class SRD(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · srd_loss of the pooled features + KD_WEIGHT · soft_kl.

    The student's features go through a linear layer, `projector`, first.
    """

    defaults = {
        "EXPONENT": 4.0,
        "TEMPERATURE": 1.0,
        "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 2.0, "KD_WEIGHT": 1.0},
    }
    checks = {
        "EXPONENT": number(1, 16),
        "TEMPERATURE": TEMPERATURE,
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.FEAT_WEIGHT", "LOSS.KD_WEIGHT"), WEIGHT),
    }
    venue = "AAAI 2024"
    transfers = "pooled features, normalised by the batch, and logits"
    relates_images = True
    index = 36

    teacher: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.exponent, self.temperature = cfg.SRD.EXPONENT, cfg.SRD.TEMPERATURE
        self.feat_weight, self.kd_weight = cfg.SRD.LOSS.FEAT_WEIGHT, cfg.SRD.LOSS.KD_WEIGHT
        self.projector = nn.Linear(find_classifier(student).in_features, find_classifier(teacher).in_features)

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        projected = self.projector(student.features["pooled_feat"])
        feats = self.processes.whole(projected), self.processes.whole(teacher.features["pooled_feat"])
        logits = self.processes.whole(student.logits), self.processes.whole(teacher.logits)
        return {
            "loss_feat": self.feat_weight * srd_loss(*feats, self.exponent),
            "loss_kd": self.kd_weight * soft_kl(*logits, self.temperature),
        }
