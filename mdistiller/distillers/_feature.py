"""What the methods that compare features share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ._base import Distiller, Features, Output
from ._common import S, T, pair_stages, stage_channels, stages_of


class FeatureDistiller(Distiller):
    """LOSS.CE_WEIGHT · cross-entropy + LOSS.FEAT_WEIGHT · the `feature_loss` of a method.

    section: the method's own of the config, where the two weights are.
    """

    teacher: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, section: Any):
        super().__init__(student, teacher, section.LOSS.CE_WEIGHT)
        self.feat_weight = section.LOSS.FEAT_WEIGHT

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        """A scalar, of what the networks return beside their logits; keywords as of `forward_train`."""
        raise NotImplementedError(f"{type(self).__name__} must define feature_loss")

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        return {"loss_kd": self.feat_weight * self.feature_loss(student.features, teacher.features, **kwargs)}

    def pair(self, entries_student: Sequence[S], entries_teacher: Sequence[T]) -> list[tuple[S, T]]:
        """Pairs (student's, teacher's) of entries that each network has one of a stage, stems left out.

        Entries are feature maps or channels; of the network with more stages the deepest are kept.
        """
        return pair_stages(stages_of(self.student, entries_student), stages_of(self.teacher, entries_teacher))

    def pair_channels(self) -> list[tuple[int, int]]:
        """Channels (student's, teacher's) of the maps that `pair` pairs."""
        return self.pair(stage_channels(self.student), stage_channels(self.teacher))
