"""Passalis and Tefas, Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018."""

import torch

from ._base import Distiller
from ._common import cross_entropy, full_precision

EPSILON = 1e-7  # keeps norms and the logarithm's arguments above zero, as released


@full_precision
def pkt_loss(feat_student, feat_teacher):
    """KL divergence of the images' similarity distributions, its terms averaged over all pairs of images.

    feat_*: (batch, channels), the channels may differ. Returns a scalar. An image's distribution is its cosine
    similarities to all images of the batch, shifted to 0…1 and scaled to sum to one.
    """

    def similarity_distribution(feat):
        unit = feat / (torch.linalg.vector_norm(feat, dim=1, keepdim=True) + EPSILON)
        similarity = (unit @ unit.T + 1) / 2
        return similarity / similarity.sum(dim=1, keepdim=True)

    p_student, p_teacher = similarity_distribution(feat_student), similarity_distribution(feat_teacher)
    return (p_teacher * ((p_teacher + EPSILON) / (p_student + EPSILON)).log()).mean()


class PKT(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · pkt_loss of the pooled features."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.ce_weight = cfg.PKT.LOSS.CE_WEIGHT
        self.feat_weight = cfg.PKT.LOSS.FEAT_WEIGHT

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        loss_pkt = pkt_loss(features_student["pooled_feat"], features_teacher["pooled_feat"])
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * loss_pkt,
        }
