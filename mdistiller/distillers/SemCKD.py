"""Chen et al., Cross-Layer Distillation with Semantic Calibration, AAAI 2021."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import TEMPERATURE, WEIGHT
from mdistiller.errors import UserError
from mdistiller.models._common import BatchNorm2d

from ._base import Distiller, Output
from ._common import full_precision, pool_larger, stage_channels, stages_of
from .KD import kd_loss

MOST_IMAGES = 8192  # of a batch
WIDEST = 1024  # channels within a projector; the release has 4096 for a ResNet50, 0.8 billion parameters in all


def make_embedding(size: int) -> nn.Sequential:
    """From an image's similarities to the `size` images of a batch to a query or key."""
    width = max(size // 4, 1)
    return nn.Sequential(nn.Linear(size, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width))


def make_projector(channels: int, channels_to: int) -> nn.Sequential:
    """1x1, 3x3 and 1x1 convolutions, the first two twice as wide as the last, up to WIDEST."""
    width = min(2 * channels_to, WIDEST)
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 1, bias=False), BatchNorm2d(width), nn.ReLU(inplace=True)),
        *(nn.Conv2d(width, width, 3, padding=1, bias=False), BatchNorm2d(width), nn.ReLU(inplace=True)),
        nn.Conv2d(width, channels_to, 1, bias=False),
    )


@full_precision
def embed(feat: torch.Tensor, embedding: nn.Module, size: int) -> torch.Tensor:
    """Queries or keys, of unit length, from the products of the maps of a batch of up to `size` images.

    feat: (batch, …). Returns (batch, width). A smaller batch is like one with blank images.
    """
    similarities = feat @ feat.T
    return F.normalize(embedding(F.pad(similarities, (0, size - len(feat)))), dim=1)


@full_precision
def attention(queries: torch.Tensor, keys: torch.Tensor, softness: float) -> torch.Tensor:
    """How much each stage of the student learns from each of the teacher's, which add up to 1.

    queries: (batch, student's stages, width); keys: (batch, teacher's stages, width), both of unit length. Returns
    (batch, student's stages, teacher's stages).
    """
    return F.softmax(queries @ keys.mT / softness, dim=2)


@full_precision
def map_losses(projected: torch.Tensor, feat_teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two maps of the same shape (batch, channels, height, width), of each image."""
    return (projected - feat_teacher).square().flatten(1).mean(dim=1)


class SemCKD(Distiller):
    """CE_WEIGHT · cross-entropy + KD_WEIGHT · kd_loss + FEAT_WEIGHT · map_losses of all pairs of stages, by attention.

    An image's query or key of a stage is made of the products of its map with those of the batch's images. The maps of
    a pair are compared at the smaller size, the student's projected to the teacher's channels.
    Raises UserError for a SOLVER.BATCH_SIZE above MOST_IMAGES.
    """

    defaults = {
        "TEMPERATURE": 4.0,
        "SOFTNESS": 1.0,
        "LOSS": {"CE_WEIGHT": 1.0, "KD_WEIGHT": 1.0, "FEAT_WEIGHT": 400.0},
    }
    checks = {
        **dict.fromkeys(("TEMPERATURE", "SOFTNESS"), TEMPERATURE),
        **dict.fromkeys(("LOSS.CE_WEIGHT", "LOSS.KD_WEIGHT", "LOSS.FEAT_WEIGHT"), WEIGHT),
    }
    venue = "AAAI 2021"
    transfers = "feature maps between all stages, by attention"
    relates_images = True
    index = 29

    teacher: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.temperature, self.softness = cfg.SEMCKD.TEMPERATURE, cfg.SEMCKD.SOFTNESS
        self.kd_weight, self.feat_weight = cfg.SEMCKD.LOSS.KD_WEIGHT, cfg.SEMCKD.LOSS.FEAT_WEIGHT
        self.batch_size = cfg.SOLVER.BATCH_SIZE
        if self.batch_size > MOST_IMAGES:
            raise UserError(
                f"SOLVER.BATCH_SIZE is {self.batch_size}, and with it grow the layers of this method; expected at most "
                f"{MOST_IMAGES:,}"
            )
        channels_student, channels_teacher = (stages_of(each, stage_channels(each)) for each in (student, teacher))
        self.queries = nn.ModuleList(make_embedding(self.batch_size) for _ in channels_student)
        self.keys = nn.ModuleList(make_embedding(self.batch_size) for _ in channels_teacher)
        pairs = itertools.product(channels_student, channels_teacher)
        self.projectors = nn.ModuleList(make_projector(*pair) for pair in pairs)

    def embedded(self, embeddings: nn.ModuleList, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Queries or keys (whole batch, stages, width) of `maps`, one a stage."""
        flat = (self.processes.whole(feat.flatten(1)) for feat in maps)
        pairs = zip(flat, embeddings, strict=True)
        return torch.stack([embed(*pair, self.batch_size) for pair in pairs], dim=1)

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        maps_student = stages_of(self.student, student.features["feats"])
        maps_teacher = stages_of(self.teacher, teacher.features["feats"])
        queries, keys = self.embedded(self.queries, maps_student), self.embedded(self.keys, maps_teacher)
        weights = attention(queries, keys, self.softness).flatten(1)
        pairs = itertools.starmap(pool_larger, itertools.product(maps_student, maps_teacher))
        losses = [map_losses(net(ours), theirs) for net, (ours, theirs) in zip(self.projectors, pairs, strict=True)]
        per_pair = self.processes.whole(torch.stack(losses, dim=1))
        logits = self.processes.whole(student.logits), self.processes.whole(teacher.logits)
        return {
            "loss_kd": self.kd_weight * kd_loss(*logits, self.temperature),
            "loss_feat": self.feat_weight * (weights * per_pair).sum(dim=1).mean() / len(maps_student),
        }
