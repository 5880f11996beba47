"""Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import HEIGHT_AND_WIDTH, WEIGHT, whole
from mdistiller.errors import UserError

from ._base import Features
from ._common import ConvReg, full_precision, get_feat_shapes
from ._feature import FeatureDistiller


@full_precision
def hint_loss(hint_student: torch.Tensor, hint_teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error of two maps of the same shape (batch, channels, height, width), the student's regressed."""
    return F.mse_loss(hint_student, hint_teacher)


class FitNet(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · hint_loss of `feats[HINT_LAYER]`, trained in one stage.

    The regressor is made for maps of images of DATASET.IMAGE_SIZE, or of INPUT_SIZE (height, width) where that is 0.
    HINT_LAYER counts `feats` as a network lists them: with the stem's or, as MobileNetV1 of ImageNet does, without.
    """

    defaults = {
        "HINT_LAYER": 2,
        "INPUT_SIZE": (32, 32),
        "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 100.0},
    }
    ignored = {"INPUT_SIZE": "it is DATASET.IMAGE_SIZE"}
    checks = {
        "HINT_LAYER": whole(0, 100),  # and as many as the networks have
        "INPUT_SIZE": HEIGHT_AND_WIDTH,
        "LOSS.CE_WEIGHT": WEIGHT,
        "LOSS.FEAT_WEIGHT": WEIGHT,
    }
    venue = "ICLR 2015"
    transfers = "one feature map"

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.hint_layer = cfg.FITNET.HINT_LAYER
        side = cfg.DATASET.IMAGE_SIZE
        shapes_student, shapes_teacher = get_feat_shapes(
            student, teacher, (side, side) if side else cfg.FITNET.INPUT_SIZE
        )
        layers = min(len(shapes_student), len(shapes_teacher))
        if not 0 <= self.hint_layer < layers:
            raise UserError(
                f"FITNET.HINT_LAYER is {self.hint_layer}; student and teacher share the layers 0 to {layers - 1}"
            )
        self.conv_reg = ConvReg(shapes_student[self.hint_layer], shapes_teacher[self.hint_layer])

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        hint_student = self.conv_reg(features_student["feats"][self.hint_layer])
        hint_teacher = features_teacher["feats"][self.hint_layer]
        if hint_student.shape != hint_teacher.shape:
            raise UserError(
                f"the hint regressor gives maps of {tuple(hint_student.shape[2:])}, the teacher's are "
                f"{tuple(hint_teacher.shape[2:])}; type DATASET.IMAGE_SIZE and the side of the images in pixels"
            )
        return hint_loss(hint_student, hint_teacher)
