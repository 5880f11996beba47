"""Yang et al., From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with Normalized Loss and
Customized Soft Labels, ICCV 2023: its second method."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT
from mdistiller.errors import UserError
from mdistiller.models import find_classifier
from mdistiller.models._common import global_average, label_of

from ._base import Distiller, Output
from ._common import full_precision, is_target, stage_channels

SMOOTHING = 0.1  # of the labels that the weak classifier learns
EPSILON = 1e-6


@full_precision
def target_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """−P log p(target), mean over the batch, where P is 1 + p(target)² less the batch's mean of p(target)².

    logits: (batch, classes); target: (batch,). Returns a scalar; P has no gradient.
    """
    log_p = F.log_softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1)
    squares = (2 * log_p.detach()).exp()
    return -((1 + squares - squares.mean()) * log_p).mean()


@full_precision
def weak_loss(logits_weak: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the weak classifier on smoothed labels. logits_weak: (batch, classes). Returns a scalar."""
    return F.cross_entropy(logits_weak, target, label_smoothing=SMOOTHING)


@full_precision
def rank_loss(logits: torch.Tensor, logits_weak: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the other classes with labels 1/1, 1/2, … in the order in which both classifiers rank them.

    logits*: (batch, classes); target: (batch,). Returns a scalar, the mean over the batch. Ranked is the sum of the
    weak classifier's probability and the student's log-probability, each over one less that of the target, as released.
    """
    own, scores = is_target(logits, target), torch.zeros_like(logits)
    for values in (F.softmax(logits_weak, dim=1), F.log_softmax(logits, dim=1)):
        scores = scores + values.detach() / (1 - values.detach().gather(1, target[:, None]) + EPSILON)
    places = scores.argsort(dim=1, descending=True).argsort(dim=1)
    labels = (1 / (places + 1).to(logits.dtype)).masked_fill(own, 0)
    log_p = F.log_softmax(logits.masked_fill(own, -torch.inf), dim=1).masked_fill(own, 0)
    return -(labels / labels.sum(dim=1, keepdim=True) * log_p).sum(dim=1).mean()


class USKD(Distiller):
    """CE_WEIGHT · cross-entropy + ALPHA · target_loss + BETA · rank_loss + MU · weak_loss; no teacher.

    The weak classifier reads the average of the last map but one.
    """

    defaults = {"CE_WEIGHT": 1.0, "ALPHA": 1.0, "BETA": 0.1, "MU": 0.005}
    checks = dict.fromkeys(("CE_WEIGHT", "ALPHA", "BETA", "MU"), WEIGHT)
    venue = "ICCV 2023"
    transfers = "the student's own labels, softened; no teacher"
    needs_one_class = True
    relates_images = True
    needs_teacher = False
    index = 30

    def __init__(self, student: nn.Module, teacher: nn.Module | None, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.alpha, self.beta, self.mu = cfg.USKD.ALPHA, cfg.USKD.BETA, cfg.USKD.MU
        channels = stage_channels(student)
        if len(channels) < 2:
            raise UserError(
                f"USKD reads the last map but one, and {label_of(student)} has a single one; type another network, or "
                "a method of logits, such as NKD"
            )
        self.weak_classifier = nn.Linear(channels[-2], find_classifier(student).out_features)

    def losses(self, student: Output, teacher: Any, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        weak = self.weak_classifier(global_average(student.features["feats"][-2]))
        logits, weak, target = map(self.processes.whole, (student.logits, weak, target))
        own_labels = self.alpha * target_loss(logits, target) + self.beta * rank_loss(logits, weak, target)
        return {"loss_kd": own_labels, "loss_weak": self.mu * weak_loss(weak, target)}
