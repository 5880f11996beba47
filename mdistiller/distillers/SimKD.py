"""Chen et al., Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT
from mdistiller.errors import UserError
from mdistiller.models.reused import PLUS, Reused

from ._base import Features
from ._common import full_precision, pool_larger, require_final_map
from ._feature import FeatureDistiller


@full_precision
def simkd_loss(projected: torch.Tensor, final_map: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two maps (batch, channels, height, width), the student's projected. Returns a scalar.

    The larger is pooled.
    """
    return F.mse_loss(*pool_larger(projected, final_map))


class SimKD(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · simkd_loss; the student ends in the teacher's classifier.

    What is trained, tested and saved is one network: the student's stages, a projector and that classifier, frozen.
    Raises UserError for a student that ends in another's classifier already.
    """

    defaults = {"LOSS": {"CE_WEIGHT": 0.0, "FEAT_WEIGHT": 1.0}}
    checks = {"LOSS.CE_WEIGHT": WEIGHT, "LOSS.FEAT_WEIGHT": WEIGHT}
    venue = "CVPR 2022"
    transfers = "the last feature map, and the classifier itself"
    index = 25

    @classmethod
    def student_name(cls, student: str, teacher: str | None) -> str:
        return f"{student}{PLUS}{teacher}"

    student: Reused

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        if isinstance(student, Reused):
            raise UserError("the student ends in another network's classifier already; name a plain network")
        require_final_map(type(self).__name__, student, teacher)
        self.student = Reused(student, teacher, cfg.DATASET.IMAGE_SIZE or 32)

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        return simkd_loss(features_student["final_map"], features_teacher["final_map"])

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.student.parameters() if parameter.requires_grad]

    def get_extra_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.student.projector.parameters())
