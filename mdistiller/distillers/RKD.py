"""Park et al., Relational Knowledge Distillation, CVPR 2019."""

import torch
import torch.nn.functional as F

from ._base import Distiller
from ._common import cross_entropy, full_precision


def pairwise_distances(embedding, squared, eps):
    """Euclidean distances (batch, batch), squared if so told, of the rows of `embedding` (batch, channels).

    A squared distance is at least `eps`, below which it has no gradient; the diagonal is 0.
    """
    norms = embedding.square().sum(dim=1)
    distances = (norms[:, None] + norms[None] - 2 * embedding @ embedding.T).clamp_min(eps)
    distances = distances if squared else distances.sqrt()
    return distances.masked_fill(torch.eye(len(embedding), dtype=torch.bool, device=embedding.device), 0.0)


@full_precision
def distance_loss(embedding_student, embedding_teacher, squared, eps):
    """Smooth L1 of the distances between the batch's embeddings, each network's divided by their mean.

    embedding_*: (batch, channels), of which the widths may differ. Returns a scalar.
    """

    def relations(embedding):
        distances = pairwise_distances(embedding, squared, eps)
        return distances / (distances.sum() / (distances > 0).sum().clamp_min(1)).clamp_min(eps)

    return F.smooth_l1_loss(relations(embedding_student), relations(embedding_teacher))


@full_precision
def angle_loss(embedding_student, embedding_teacher):
    """Smooth L1 of the cosines of the angles that the embeddings of any three images form.

    embedding_*: (batch, channels), of which the widths may differ. Returns a scalar. Where two embeddings are equal
    there is no angle: its cosine is 0, without a gradient.
    """

    def relations(embedding):
        differences = embedding[None] - embedding[:, None]
        lengths = differences.norm(dim=2, keepdim=True)
        directions = differences / lengths.masked_fill(lengths == 0, torch.inf)
        return directions @ directions.mT

    return F.smooth_l1_loss(relations(embedding_student), relations(embedding_teacher))


class RKD(Distiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · (DISTANCE_WEIGHT · distance_loss + ANGLE_WEIGHT · angle_loss)."""

    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.ce_weight = cfg.RKD.LOSS.CE_WEIGHT
        self.feat_weight = cfg.RKD.LOSS.FEAT_WEIGHT
        self.distance_weight = cfg.RKD.DISTANCE_WEIGHT
        self.angle_weight = cfg.RKD.ANGLE_WEIGHT
        self.squared = cfg.RKD.PDIST.SQUARED
        self.eps = cfg.RKD.PDIST.EPSILON

    def forward_train(self, image, target, **kwargs):
        logits_student, features_student = self.student(image)
        with torch.no_grad():
            _, features_teacher = self.teacher(image)
        embeddings = features_student["pooled_feat"], features_teacher["pooled_feat"]
        loss_distance = distance_loss(*embeddings, self.squared, self.eps)
        loss_angle = angle_loss(*embeddings)
        relation = self.distance_weight * loss_distance + self.angle_weight * loss_angle
        return logits_student, {
            "loss_ce": self.ce_weight * cross_entropy(logits_student, target),
            "loss_kd": self.feat_weight * relation,
        }
