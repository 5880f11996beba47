"""Guo et al., Class Attention Transfer Based Knowledge Distillation, CVPR 2023."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT, whole
from mdistiller.models import find_classifier

from ._base import Features
from ._common import full_precision, pool_to, require_final_map
from ._feature import FeatureDistiller


@full_precision
def class_maps(final_map: torch.Tensor, weight: torch.Tensor, resolution: int) -> torch.Tensor:
    """Of each class, where its evidence is: the classifier, without its bias, of each cell of the map.

    final_map: (batch, channels, height, width), averaged to resolution x resolution cells; weight: (classes, channels).
    Returns (batch, classes, resolution, resolution).
    """
    return F.conv2d(pool_to(final_map, (resolution, resolution)), weight[:, :, None, None])


@full_precision
def cat_loss(maps_student: torch.Tensor, maps_teacher: torch.Tensor, normalise: bool) -> torch.Tensor:
    """Mean squared difference of class maps (batch, classes, height, width), each first scaled to unit length.

    Not scaled where `normalise` is False. Returns a scalar.
    """
    maps_student, maps_teacher = maps_student.flatten(2), maps_teacher.flatten(2)
    if normalise:
        maps_student, maps_teacher = F.normalize(maps_student, dim=2), F.normalize(maps_teacher, dim=2)
    return F.mse_loss(maps_student, maps_teacher)


class CATKD(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · cat_loss of the maps that the classifiers average."""

    defaults = {"RESOLUTION": 2, "NORMALISE": True, "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 400.0}}
    checks = {
        "RESOLUTION": whole(1, 32),
        "LOSS.CE_WEIGHT": WEIGHT,
        "LOSS.FEAT_WEIGHT": WEIGHT,
    }
    venue = "CVPR 2023"
    transfers = "class activation maps"
    index = 24

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        require_final_map(type(self).__name__, student, teacher)
        self.resolution = cfg.CATKD.RESOLUTION
        self.is_normalised = cfg.CATKD.NORMALISE

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        student = class_maps(features_student["final_map"], find_classifier(self.student).weight, self.resolution)
        teacher = class_maps(features_teacher["final_map"], find_classifier(self.teacher).weight, self.resolution)
        return cat_loss(student, teacher, self.is_normalised)
