"""Wei, Luo and Luo, Scaled Decoupled Distillation, CVPR 2024."""

import torch
import torch.nn.functional as F

from mdistiller.errors import UserError

from ._common import cross_entropy, find_classifier, full_precision, warm_up
from ._logit import LogitDistiller
from .DKD import dkd_losses


def region_logits(final_map, classifier, scales):
    """Class scores of regions: `classifier` of the averages of `final_map` over grids of `scales` cells a side.

    final_map: (batch, channels, height, width). Returns (batch, regions, classes), 21 regions for scales 1, 2, 4. A
    map that is smaller than a grid has cells that overlap.
    """
    averages = torch.cat([F.adaptive_avg_pool2d(final_map, scale).flatten(2) for scale in scales], dim=2)
    return classifier(averages.mT)


@full_precision
def sdd_loss(logits_student, logits_teacher, target, alpha, beta, temperature):
    """Decoupled distillation of each region, mean over batch and regions, doubled where the teacher is at odds.

    logits_*: (batch, regions, classes), the global region first; target: (batch,). Returns a scalar. A region weighs
    2 where, of the teacher's predictions for it and for the global region, one is right and the other wrong; else 1.
    """
    regions = logits_teacher.shape[1]
    is_right = logits_teacher.argmax(dim=2) == target[:, None]
    weight = 1 + (is_right != is_right[:, :1]).to(logits_teacher.dtype)
    logits = logits_student.flatten(0, 1), logits_teacher.flatten(0, 1)
    losses = dkd_losses(*logits, target.repeat_interleave(regions), alpha, beta, temperature)
    return (losses * weight.flatten()).mean()


class SDD(LogitDistiller):
    """CE_WEIGHT · cross-entropy + warm-up · sdd_loss."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher, cfg, cfg.SDD.CE_WEIGHT)
        self.scales = cfg.SDD.SCALES
        self.alpha = cfg.SDD.ALPHA
        self.beta = cfg.SDD.BETA
        self.temperature = cfg.SDD.T
        self.warmup = cfg.SDD.WARMUP
        if not self.scales or self.scales[0] != 1:
            raise UserError(f'SDD.SCALES is {list(self.scales)}; expected the whole map first, such as "[1,2,4]"')

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        regions_student = region_logits(features_student["final_map"], find_classifier(self.student), self.scales)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
            regions_teacher = region_logits(features_teacher["final_map"], find_classifier(self.teacher), self.scales)
        regions = self.logits_to_compare(regions_student, regions_teacher)
        loss_sdd = sdd_loss(*regions, target, self.alpha, self.beta, self.temperature)
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": warm_up(kwargs["epoch"], self.warmup) * loss_sdd,
        }
