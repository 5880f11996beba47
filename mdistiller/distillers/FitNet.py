"""Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015."""

import torch
import torch.nn.functional as F

from mdistiller.errors import UserError

from ._base import Distiller
from ._common import ConvReg, cross_entropy, full_precision, get_feat_shapes


@full_precision
def hint_loss(hint_student, hint_teacher):
    """Mean squared error of two maps of the same shape (batch, channels, height, width), the student's regressed."""
    return F.mse_loss(hint_student, hint_teacher)


class FitNet(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · hint_loss of `feats[HINT_LAYER]`, trained in one stage.

    The regressor is made for maps of images of INPUT_SIZE (height, width). HINT_LAYER counts `feats` as a network lists
    them: with the stem's or, as MobileNetV1 of ImageNet does, without.
    """

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.ce_weight = cfg.FITNET.LOSS.CE_WEIGHT
        self.feat_weight = cfg.FITNET.LOSS.FEAT_WEIGHT
        self.hint_layer = cfg.FITNET.HINT_LAYER
        shapes_student, shapes_teacher = get_feat_shapes(student, teacher, cfg.FITNET.INPUT_SIZE)
        layers = min(len(shapes_student), len(shapes_teacher))
        if not 0 <= self.hint_layer < layers:
            raise UserError(
                f"FITNET.HINT_LAYER is {self.hint_layer}; student and teacher share the layers 0 to {layers - 1}"
            )
        self.conv_reg = ConvReg(shapes_student[self.hint_layer], shapes_teacher[self.hint_layer])

    def get_learnable_parameters(self):
        return super().get_learnable_parameters() + list(self.conv_reg.parameters())

    def get_extra_parameters(self):
        return sum(parameter.numel() for parameter in self.conv_reg.parameters())

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        hint_student = self.conv_reg(features_student["feats"][self.hint_layer])
        hint_teacher = features_teacher["feats"][self.hint_layer]
        if hint_student.shape != hint_teacher.shape:
            raise UserError(
                f"the hint regressor gives maps of {tuple(hint_student.shape[2:])}, the teacher's are "
                f'{tuple(hint_teacher.shape[2:])}; type FITNET.INPUT_SIZE "{list(image.shape[2:])}"'
            )
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * hint_loss(hint_student, hint_teacher),
        }
