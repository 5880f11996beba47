"""Xu et al., Knowledge Distillation Meets Self-Supervision, ECCV 2020."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT, number
from mdistiller.models import find_classifier

from ._base import Output
from ._common import cross_entropy, full_precision
from ._initial import INITIAL_CHECKS, StagedDistiller
from .KD import kd_loss

TURNS = 4  # of an image, by 90° each, the first upright
EPSILON = 1e-8  # the least length that a vector is divided by, as released


def turned(image: torch.Tensor) -> torch.Tensor:
    """All turns of images: (batch, 3, side, side) -> (TURNS · batch, 3, side, side), a turn after the other."""
    return torch.cat([torch.rot90(image, turn, (2, 3)) for turn in range(TURNS)])


def by_image(rows: torch.Tensor) -> torch.Tensor:
    """What a network gives of `turned` images: (TURNS · batch, width) -> (batch, TURNS, width)."""
    return rows.unflatten(0, (TURNS, -1)).transpose(0, 1)


@full_precision
def similarities(representation: torch.Tensor) -> torch.Tensor:
    """Cosines of each turned image with each upright one. (batch, TURNS, width) -> ((TURNS − 1) · batch, batch)."""
    unit = F.normalize(representation, dim=2, eps=EPSILON)
    return unit[:, 1:].flatten(0, 1) @ unit[:, 0].T


def own_image(images: int, device: torch.device) -> torch.Tensor:
    """The column of `similarities` that each row should be largest in, ((TURNS − 1) · images,)."""
    return torch.arange(images, device=device).repeat_interleave(TURNS - 1)


def best_ranked(scores: torch.Tensor, target: torch.Tensor, share: float) -> torch.Tensor:
    """Which rows have their largest score at the target, and of the others the `share` that rank it highest.

    scores: (rows, classes); target: (rows,). Returns a bool (rows,).
    """
    rank = (scores > scores.gather(1, target[:, None])).sum(dim=1)
    wrong = (rank > 0).sum()
    count = len(rank) - wrong + (wrong.double() * share).floor()
    return rank.argsort(stable=True).argsort() < count


@full_precision
def kept_kl(scores_student: torch.Tensor, scores_teacher: torch.Tensor, kept: torch.Tensor, temperature: float) -> Any:
    """T² · KL of the softened scores (rows, classes), mean over the rows that `kept` (rows,) has; 0 where it has none.

    Returns a scalar.
    """
    log_p_student, log_p_teacher = (F.log_softmax(z / temperature, dim=1) for z in (scores_student, scores_teacher))
    divergence = F.kl_div(log_p_student, log_p_teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (divergence * kept).sum() / kept.sum().clamp_min(1)


def make_head(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width))


class SSKD(StagedDistiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · kd_loss + TF_WEIGHT · kept_kl of the turned images' logits, both at T,
    + SS_WEIGHT · kept_kl of `similarities` at SS_T.

    Each image is seen in four turns, the first two losses by the upright one. The similarities are those of heads on
    the pooled features; the initial stage trains the teacher's to tell which upright image a turned one is of. Of what
    the teacher gets wrong the shares TF_RATIO and SS_RATIO count, those that it gets least wrong.
    """

    defaults = {
        "CE_WEIGHT": 0.1,
        "KD_WEIGHT": 0.9,
        "TF_WEIGHT": 2.7,
        "SS_WEIGHT": 10.0,
        "T": 4.0,
        "SS_T": 0.5,
        "TF_RATIO": 1.0,
        "SS_RATIO": 0.75,
        "INITIAL": {"EPOCHS": 60, "LR": 0.05, "LR_DECAY_STAGES": [30, 45]},
    }
    checks = {
        **dict.fromkeys(("CE_WEIGHT", "KD_WEIGHT", "TF_WEIGHT", "SS_WEIGHT"), WEIGHT),
        **dict.fromkeys(("T", "SS_T"), TEMPERATURE),
        **dict.fromkeys(("TF_RATIO", "SS_RATIO"), number(0, 1)),
        **INITIAL_CHECKS,
    }
    venue = "ECCV 2020"
    transfers = "logits, and similarities of turned images, for which an initial stage trains a head"
    relates_images = True
    needs_one_class = True
    index = 35

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        settings = cfg.SSKD
        self.temperature, self.kd_weight = settings.T, settings.KD_WEIGHT
        self.turned = settings.TF_WEIGHT, settings.TF_RATIO, settings.T
        self.supervised = settings.SS_WEIGHT, settings.SS_RATIO, settings.SS_T
        widths = [find_classifier(network).in_features for network in (student, teacher)]
        self.head_student = make_head(widths[0])
        self.head_teacher = make_head(widths[1]).requires_grad_(False)

    def initial_modules(self) -> list[nn.Module]:
        return [self.head_teacher]

    def forward_initial(
        self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.no_grad():
            teacher = Output(*self.teacher(turned(image)))
        representation = by_image(self.head_teacher(teacher.features["pooled_feat"]))
        scores = similarities(self.processes.whole(representation))
        loss = cross_entropy(scores, own_image(scores.shape[1], scores.device))
        return by_image(teacher.logits)[:, 0], {"loss_initial": loss}

    def forward_train(
        self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images = turned(image)
        student = Output(*self.student(images))
        with torch.no_grad():
            teacher = Output(*self.teacher(images))
            of_teacher = self.head_teacher(teacher.features["pooled_feat"])
        of_student = self.head_student(student.features["pooled_feat"])
        rows = student.logits, teacher.logits, of_student, of_teacher
        losses = self.turn_losses([self.processes.whole(by_image(each)) for each in rows], self.processes.whole(target))
        logits = by_image(student.logits)[:, 0]
        return logits, {"loss_ce": self.task_loss(logits, target, **kwargs), **losses}

    def turn_losses(self, whole: list[torch.Tensor], target: torch.Tensor) -> dict[str, torch.Tensor]:
        """The losses beside the cross-entropy.

        whole: logits of student and teacher, and what their heads give, (batch, TURNS, …) each; target: (batch,).
        """
        logits_student, logits_teacher, of_student, of_teacher = whole
        upright = kd_loss(logits_student[:, 0], logits_teacher[:, 0], self.temperature)
        losses = {"loss_kd": self.kd_weight * upright}
        turned = [logits[:, 1:].flatten(0, 1) for logits in (logits_student, logits_teacher)]
        scores = [similarities(representation) for representation in (of_student, of_teacher)]
        kinds = {
            "loss_tf": (turned, target.repeat_interleave(TURNS - 1), self.turned),
            "loss_ss": (scores, own_image(len(target), target.device), self.supervised),
        }
        for name, ((ours, theirs), expected, (weight, ratio, temperature)) in kinds.items():
            kept = best_ranked(theirs, expected, ratio)
            losses[name] = weight * kept_kl(ours, theirs, kept, temperature)
        return losses
