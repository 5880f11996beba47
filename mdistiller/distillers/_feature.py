"""What the methods that compare features share."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ._base import Distiller, Features, Output
from ._common import S, T, pair_stages, stage_channels, stages_of


class FeatureDistiller(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · the `feature_loss` of a method."""

    teacher: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.feat_weight = self.weight_of("FEAT_WEIGHT", cfg)

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        """A scalar, of what the networks return beside logits; keywords: `target` and those of `forward_train`."""
        raise NotImplementedError(f"{type(self).__name__} must define feature_loss")

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        loss = self.feature_loss(student.features, teacher.features, target=target, **kwargs)
        return {"loss_kd": self.feat_weight * loss}

    def pair(self, entries_student: Sequence[S], entries_teacher: Sequence[T]) -> list[tuple[S, T]]:
        """Pairs (student's, teacher's) of entries that each network has one of a stage, stems left out.

        Entries are feature maps or channels; of the network with more stages the deepest are kept.
        """
        return pair_stages(stages_of(self.student, entries_student), stages_of(self.teacher, entries_teacher))

    def pair_channels(self) -> list[tuple[int, int]]:
        """Channels (student's, teacher's) of the maps that `pair` pairs."""
        return self.pair(stage_channels(self.student), stage_channels(self.teacher))
