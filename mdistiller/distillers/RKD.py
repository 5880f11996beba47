"""Park et al., Relational Knowledge Distillation, CVPR 2019."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from ._base import Distiller
from ._common import cross_entropy, full_precision

TRIPLES_ON_CPU, TRIPLES_ON_GPU = 2**18, 2**22  # whose angles are in memory together: for the cache, for few kernels


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


def angle_loss_reference(embedding_student, embedding_teacher):
    """The plain form of `angle_loss`, which takes memory for (batch, batch, channels) and (batch, batch, batch)."""

    def relations(embedding):
        differences = embedding[None] - embedding[:, None]
        lengths = differences.norm(dim=2, keepdim=True)
        directions = differences / lengths.masked_fill(lengths == 0, torch.inf)
        return directions @ directions.mT

    return F.smooth_l1_loss(relations(embedding_student), relations(embedding_teacher))


def cosines_at(squared, inverse, vertices, out):
    """Cosines (vertices, batch, batch) of the angles at the images `vertices`, a slice, by the law of cosines.

    squared, inverse: (batch, batch), the squared distances and the reciprocal distances. `out` takes the result.
    """
    sides, inverse = squared[vertices], inverse[vertices]
    torch.sub(sides[:, :, None], squared, out=out).add_(sides[:, None])
    return out.mul_(inverse[:, :, None] / 2).mul_(inverse[:, None])


class AngleLoss(torch.autograd.Function):
    """`angle_loss` together with its gradient, a few vertices at a time.

    Angles are taken from distances, which are exactly 0 where embeddings are equal, as those of a Gram matrix are not;
    in float64, since the sides of a thin triangle nearly cancel.
    """

    @staticmethod
    def forward(ctx, *embeddings):
        batch, device = len(embeddings[0]), embeddings[0].device
        points = [embedding.double() - embedding.double().mean(dim=0) for embedding in embeddings]
        squared = [torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square() for x in points]
        inverse = [distances.masked_fill(distances == 0, torch.inf).rsqrt() for distances in squared]
        slopes = [torch.zeros_like(distances) for distances in squared]  # of the loss by the squared distances
        total = squared[0].new_zeros(())
        step = max(1, (TRIPLES_ON_CPU if device.type == "cpu" else TRIPLES_ON_GPU) // batch**2)
        buffers = squared[0].new_empty(4, min(step, batch), batch, batch)  # fresh memory would cost more than the sums
        for vertices in (slice(start, min(start + step, batch)) for start in range(0, batch, step)):
            *cosines, error, slope = buffers[:, : vertices.stop - vertices.start]
            for network in range(2):
                cosines_at(squared[network], inverse[network], vertices, out=cosines[network])
            torch.sub(*cosines, out=error)
            torch.clamp(error, -1, 1, out=slope)
            total += (slope.flatten() @ error.flatten()) - (slope.flatten() @ slope.flatten()) / 2  # smooth L1
            for network in range(2):
                if ctx.needs_input_grad[network]:
                    sides = inverse[network][vertices]
                    turn = cosines[network].mul_(slope).sum(dim=2)
                    pull = torch.mul(slope, sides[:, :, None], out=cosines[network]).mul_(sides[:, None])
                    slopes[network].sub_(pull.sum(dim=0), alpha=0.5)
                    slopes[network][vertices] += pull.sum(dim=2) - sides.square() * turn
        gradients = []
        for network, sign in enumerate((1, -1)):
            slope = (slopes[network] + slopes[network].T) * (2 * sign / batch**3)
            gradient = slope.sum(dim=1, keepdim=True) * points[network] - slope @ points[network]
            gradients.append(gradient.to(embeddings[network].dtype) if ctx.needs_input_grad[network] else None)
        ctx.save_for_backward(*gradients)
        return (total / batch**3).to(embeddings[0].dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        return tuple(None if gradient is None else grad_output * gradient for gradient in ctx.saved_tensors)


@full_precision
def angle_loss(embedding_student, embedding_teacher):
    """Smooth L1 of the cosines of the angles that the embeddings of any three images form.

    embedding_*: (batch, channels), of which the widths may differ. Returns a scalar. Where two embeddings are equal
    there is no angle: its cosine is 0, without a gradient.
    """
    return AngleLoss.apply(embedding_student, embedding_teacher)


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
