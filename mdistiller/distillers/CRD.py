"""Tian, Krishnan and Isola, Contrastive Representation Distillation, ICLR 2020."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import FRACTION, WEIGHT, number, one_of, whole
from mdistiller.errors import UserError
from mdistiller.models import find_classifier

from ._base import ALONE, Features
from ._common import full_precision
from ._feature import FeatureDistiller
from ._sampler import Sampler

EPS = 1e-7
MOST_SAMPLES = 2**28  # of a batch: 2 GiB of indices, and as much again for scores


@full_precision
def nce_loss(scores: torch.Tensor, num_data: int) -> torch.Tensor:
    """Noise-contrastive estimation: how well the positive is told from the negatives.

    scores: (batch, 1 + K), unnormalised probabilities of the samples, the positive's first; the negatives come from
    a uniform distribution over `num_data`. Returns a scalar: the sum over a row, averaged over the batch.
    """
    noise = (scores.shape[1] - 1) / num_data
    positive, negatives = scores[:, 0], scores[:, 1:]
    log_is_data = (positive / (positive + noise + EPS)).log()
    log_is_noise = (noise / (negatives + noise + EPS)).log()
    return -(log_is_data.sum() + log_is_noise.sum()) / len(scores)


@full_precision
def memory_scores(
    embedding: torch.Tensor, memory: torch.Tensor, indices: torch.Tensor, temperature: float
) -> torch.Tensor:
    """exp(cosine / T) of each embedding with its samples' entries of the memory, which gets no gradient.

    embedding: (batch, dim); memory: (num_data, dim); both of unit rows; indices: (batch, 1 + K). Returns the shape of
    `indices`. Scoring every entry and taking some is far less work than gathering 1 + K vectors for each image. The
    memory is copied, because it moves on before the backward pass.
    """
    return (embedding @ memory.clone().T).gather(1, indices).div(temperature).exp()


unit_length = full_precision(F.normalize)


class Embed(nn.Module):
    """Linear map to unit vectors: (batch, in_channels) -> (batch, dim)."""

    def __init__(self, in_channels: int, dim: int):
        super().__init__()
        self.linear = nn.Linear(in_channels, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return unit_length(self.linear(x), dim=1)


class ContrastMemory(nn.Module):
    """The student's (v1) and the teacher's (v2) embeddings of all training images, as moving averages of unit length.

    `params` holds K, T, the normalisers of the student's and the teacher's scores (negative until the first batch
    estimates them) and the momentum, as in published state dicts; only the normalisers are read from it.
    """

    params: torch.Tensor
    memory_v1: torch.Tensor
    memory_v2: torch.Tensor

    def __init__(self, num_data: int, dim: int, k: int, temperature: float, momentum: float):
        super().__init__()
        self.temperature = temperature
        self.momentum = momentum
        bound = (dim / 3) ** -0.5
        self.register_buffer("params", torch.tensor([k, temperature, -1, -1, momentum]))
        self.register_buffer("memory_v1", torch.empty(num_data, dim).uniform_(-bound, bound))
        self.register_buffer("memory_v2", torch.empty(num_data, dim).uniform_(-bound, bound))

    def normalise(self, scores: torch.Tensor, slot: int, processes: Any) -> torch.Tensor:
        """`scores` as probabilities: over a constant, which the first batch estimates and `params[slot]` keeps."""
        estimate = processes.whole(scores.detach().mean(dim=1)).mean() * len(self.memory_v1)
        self.params[slot] = torch.where(self.params[slot] < 0, estimate, self.params[slot])
        return scores / self.params[slot].clone()

    def forward(
        self, v1: torch.Tensor, v2: torch.Tensor, indices: torch.Tensor, processes: Any = ALONE
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unnormalised probabilities (batch, 1 + K) of the samples, by the student's and the teacher's embeddings.

        v1, v2: (batch, dim); indices: (batch, 1 + K). Each is compared with the memory of the other network. processes:
        those that have the rest of the batch.
        """
        scores_v1 = memory_scores(v1, self.memory_v2, indices, self.temperature)
        scores_v2 = memory_scores(v2, self.memory_v1, indices, self.temperature)
        return self.normalise(scores_v1, 2, processes), self.normalise(scores_v2, 3, processes)

    @torch.no_grad()
    def update(self, v1: torch.Tensor, v2: torch.Tensor, index: torch.Tensor) -> None:
        """Move the entries of the images `index` (batch,) towards their embeddings v1 and v2 (batch, dim)."""
        for memory, embedding in (self.memory_v1, v1), (self.memory_v2, v2):
            moved = self.momentum * memory[index] + (1 - self.momentum) * embedding.to(memory.dtype)
            memory.index_copy_(0, index, F.normalize(moved, dim=1))


class CRD(FeatureDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · the nce_loss of both networks' pooled features.

    MODE: "exact", the positive is the image itself, or "relax", another of its class. The trainer gives the labels of
    the whole training set once, by `set_targets`; a batch that brings its own `contrastive_index`, rows of the training
    set (batch, 1 + K) with the positive's first, needs none.
    """

    defaults = {
        "MODE": "exact",  # exact | relax
        "FEAT": {
            "DIM": 128,
            "STUDENT_DIM": 256,
            "TEACHER_DIM": 256,
        },
        "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 0.8},
        "NCE": {"K": 16384, "MOMENTUM": 0.5, "TEMPERATURE": 0.07},
    }
    ignored = dict.fromkeys(("FEAT.STUDENT_DIM", "FEAT.TEACHER_DIM"), "widths are read off the networks")
    checks = {
        "MODE": one_of("exact", "relax"),
        **dict.fromkeys(("FEAT.DIM", "FEAT.STUDENT_DIM", "FEAT.TEACHER_DIM"), whole(1, 4096)),
        "LOSS.CE_WEIGHT": WEIGHT,
        "LOSS.FEAT_WEIGHT": WEIGHT,
        "NCE.K": whole(1, 131_072),
        "NCE.MOMENTUM": FRACTION,
        "NCE.TEMPERATURE": number(0.02, 1e4),  # exp(1 / T) of each image is summed
    }
    venue = "ICLR 2020"
    transfers = "pooled features, contrasted with other classes'"
    needs_one_class = True
    relates_images = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any, num_data: int):
        super().__init__(student, teacher, cfg)
        self.num_data = num_data
        self.k = cfg.CRD.NCE.K
        self.is_exact = cfg.CRD.MODE == "exact"
        dim, momentum, temperature = cfg.CRD.FEAT.DIM, cfg.CRD.NCE.MOMENTUM, cfg.CRD.NCE.TEMPERATURE
        widths = (find_classifier(network).in_features for network in (student, teacher))
        self.embed_s, self.embed_t = (Embed(width, dim) for width in widths)
        self.contrast = ContrastMemory(num_data, dim, self.k, temperature, momentum)
        self.sampler = Sampler(cfg.EXPERIMENT.SEED)

    @classmethod
    def build(cls, student: nn.Module, teacher: Any, cfg: Any, num_data: int | None = None) -> "CRD":
        if num_data is None:
            raise TypeError("CRD remembers every training image; give build_distiller their number, num_data")
        batch, k = min(cfg.SOLVER.BATCH_SIZE, num_data), cfg.CRD.NCE.K
        if batch * k > MOST_SAMPLES:
            raise UserError(
                f"CRD.NCE.K is {k} and a batch {batch} images; expected at most {MOST_SAMPLES // batch} for each"
            )
        return cls(student, teacher, cfg, num_data)

    def set_targets(self, targets: torch.Tensor) -> None:
        targets = torch.as_tensor(targets, device=self.contrast.memory_v1.device)
        if targets.shape != (self.num_data,):
            raise ValueError(f"targets have shape {tuple(targets.shape)}; expected ({self.num_data},), one an image")
        self.sampler.set_targets(targets)

    def feature_loss(self, features_student: Features, features_teacher: Features, **kwargs: Any) -> torch.Tensor:
        if "index" not in kwargs:
            raise UserError("CRD remembers each training image; expected batches of (image, label, index), their rows")
        # A mean over the images, each contrasted with the same memory; draws and memory are those of the whole batch.
        index, contrastive_index = self.processes.whole(kwargs["index"]), kwargs.get("contrastive_index")
        if contrastive_index is None:
            contrastive_index = self.processes.own(self.sampler.draw(index, self.k, self.is_exact))
        embeddings = self.embed_s(features_student["pooled_feat"]), self.embed_t(features_teacher["pooled_feat"])
        scores_student, scores_teacher = self.contrast(*embeddings, contrastive_index, self.processes)
        with torch.no_grad():
            v1, v2 = map(self.processes.whole, embeddings)
            self.contrast.update(v1, v2, index)
        return nce_loss(scores_student, self.num_data) + nce_loss(scores_teacher, self.num_data)
