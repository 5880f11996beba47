"""Jin et al., Multi-Level Logit Distillation, CVPR 2023."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT, list_of, one_of
from mdistiller.errors import UserError

from ._base import Output
from ._common import full_precision, low_confidence_share, total
from ._logit import LogitDistiller
from .KD import kd_loss

WEAK_AGAIN = (2.0, 6.0)  # temperatures at which the released sum of the strong view takes the weak view


@full_precision
def class_correlation_loss(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Squared Frobenius norm of the difference of PᵀP, over the number of classes.

    logits_*: (batch, classes), of which P is the softmax at `temperature`. Returns a scalar.
    """
    p_student, p_teacher = (F.softmax(z / temperature, dim=1) for z in (logits_student, logits_teacher))
    return (p_teacher.T @ p_teacher - p_student.T @ p_student).square().sum() / logits_student.shape[1]


@full_precision
def batch_correlation_loss(
    logits_student: torch.Tensor, logits_teacher: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Squared Frobenius norm of the difference of PPᵀ, over the batch size.

    logits_*: (batch, classes), of which P is the softmax at `temperature`. Returns a scalar.
    """
    p_student, p_teacher = (F.softmax(z / temperature, dim=1) for z in (logits_student, logits_teacher))
    return (p_teacher @ p_teacher.T - p_student @ p_student.T).square().sum() / logits_student.shape[0]


@full_precision
def confidence_shares(logits_teacher: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares of low-confidence samples and of low-confidence classes in a batch, two scalars.

    logits_teacher: (batch, classes). A sample's confidence is its largest probability, a class's the sum of its
    probabilities over the batch; low is at most the median. The published code multiplies already averaged losses
    by masks of these, so it scales each by a share near one half instead of selecting. The numbers are kept.
    """
    p_teacher = F.softmax(logits_teacher, dim=1)
    return low_confidence_share(p_teacher.amax(dim=1)), low_confidence_share(p_teacher.sum(dim=0))


class MLKD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · the three alignments, summed over TEMPERATURES.

    They are kd_loss and class_correlation_loss, scaled by confidence_shares, and batch_correlation_loss.

    Standardisation concerns the instance alignment alone, as in Logit Standardization's release: of standardised logits
    the correlations nearly vanish.

    VIEWS 1: of each image as it comes, as in this project's scripts. VIEWS 2, as first published: of a weakly and a
    strongly augmented view of each image (DATASET.AUGMENT two-view); the strong one adds a cross-entropy and an
    instance alignment that no share scales. FORM released: that alignment takes the weak view again at one temperature
    2 and one temperature 6, which looks like a slip. FORM intended: the strong view at all temperatures.
    """

    defaults = {
        "VIEWS": 1,  # 2: a weak and a strong view of each image, with DATASET.AUGMENT two-view
        "FORM": "released",  # released | intended, of two views
        "TEMPERATURES": [4.0, 3.0, 2.0],
        "LOSS": {"CE_WEIGHT": 0.5, "KD_WEIGHT": 0.5},
    }
    checks = {
        "VIEWS": one_of(1, 2),
        "FORM": one_of("released", "intended"),
        "TEMPERATURES": list_of(TEMPERATURE, "[4,3,2]"),
        "LOSS.CE_WEIGHT": WEIGHT,
        "LOSS.KD_WEIGHT": WEIGHT,
    }
    venue = "CVPR 2023"
    transfers = "logits of images, class and batch correlations, at several temperatures"
    relates_images = True

    @classmethod
    def number_of_views(cls, cfg: Any) -> int:
        return cfg.MLKD.VIEWS

    @classmethod
    def unread(cls, cfg: Any) -> Mapping[str, str]:
        return {} if cfg.MLKD.VIEWS == 2 else {"FORM": "MLKD.VIEWS is 1, and it is of two views"}

    @classmethod
    def variant(cls, cfg: Any) -> list[str]:
        form = ["two-view", *([] if cfg.MLKD.FORM == "released" else [cfg.MLKD.FORM])]
        return [*(form if cfg.MLKD.VIEWS == 2 else []), *super().variant(cfg)]

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.kd_weight = cfg.MLKD.LOSS.KD_WEIGHT
        self.temperatures = list(cfg.MLKD.TEMPERATURES)
        self.has_two_views = cfg.MLKD.VIEWS == 2
        # Of the strong view's sum: the temperatures at which it takes the weak view again, and the others.
        again = WEAK_AGAIN if cfg.MLKD.FORM == "released" else ()
        self.weak_again = [temperature for temperature in again if temperature in self.temperatures]
        self.strong_temperatures = list(self.temperatures)
        for temperature in self.weak_again:
            self.strong_temperatures.remove(temperature)
        if self.has_two_views and cfg.DATASET.AUGMENT != "two-view":
            raise UserError(f"MLKD.VIEWS 2 needs DATASET.AUGMENT two-view, not {cfg.DATASET.AUGMENT!r}")

    def align(
        self,
        loss: Callable[..., torch.Tensor],
        logits_student: torch.Tensor,
        logits_teacher: torch.Tensor,
        temperatures: Sequence[float],
    ) -> torch.Tensor:
        """KD_WEIGHT · the sum over `temperatures` of `loss`, which takes logits (batch, classes) and a temperature."""
        return self.kd_weight * total(loss(logits_student, logits_teacher, t) for t in temperatures)

    def losses_of_view(self, logits_student: torch.Tensor, logits_teacher: torch.Tensor) -> dict[str, torch.Tensor]:
        """The three alignments of one view by name, each scaled by its share. logits_*: (batch, classes)."""
        share_of_samples, share_of_classes = confidence_shares(logits_teacher)
        logits, compared = (logits_student, logits_teacher), self.logits_to_compare(logits_student, logits_teacher)
        return {
            "loss_kd": share_of_samples * self.align(kd_loss, *compared, self.temperatures),
            "loss_cc": share_of_classes * self.align(class_correlation_loss, *logits, self.temperatures),
            "loss_bc": share_of_samples * self.align(batch_correlation_loss, *logits, self.temperatures),
        }

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        return self.losses_of_view(*map(self.processes.whole, (student.logits, teacher.logits)))

    def forward_train(
        self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if not self.has_two_views:
            return super().forward_train(image, target, **kwargs)
        views = image, kwargs["image_strong"]
        outputs = [Output(*self.student(view)) for view in views]
        for_labels, for_teacher = zip(*map(self.heads_of, outputs), strict=True)
        with torch.no_grad():
            teacher_weak, teacher_strong = self.teacher(torch.cat(views))[0].chunk(2)
        whole_weak, whole_strong = (
            [self.processes.whole(logits) for logits in view]
            for view in ((for_teacher[0].logits, teacher_weak), (for_teacher[1].logits, teacher_strong))
        )
        weak, strong = self.logits_to_compare(*whole_weak), self.logits_to_compare(*whole_strong)
        losses = {
            "loss_ce": total(self.task_loss(logits, target, **kwargs) for logits in for_labels),
            **self.losses_of_view(*whole_weak),
        }
        for logits, temperatures in (strong, self.strong_temperatures), (weak, self.weak_again):
            if temperatures:
                losses["loss_kd"] = losses["loss_kd"] + self.align(kd_loss, *logits, temperatures)
        return outputs[0].logits, losses
