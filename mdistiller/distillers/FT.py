"""Kim, Park and Kwak, Paraphrasing Complex Network: Network Compression via Factor Transfer, NeurIPS 2018."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.checks import WEIGHT, number
from mdistiller.models._common import BatchNorm2d

from ._base import Output
from ._common import full_precision, pool_larger, stage_channels
from ._initial import INITIAL, INITIAL_CHECKS, StagedDistiller

SLOPE = 0.1  # of negative responses


def make_encoder(channels: int, factors: int, has_norms: bool) -> nn.Sequential:
    """Three 3x3 convolutions from a map to its factors: (batch, channels, …) -> (batch, factors, …)."""
    layers: list[nn.Module] = []
    for wide, narrow in pairwise((channels, channels, factors, factors)):
        norms = [BatchNorm2d(narrow)] if has_norms else []
        layers += [nn.Conv2d(wide, narrow, 3, padding=1), *norms, nn.LeakyReLU(SLOPE, inplace=True)]
    return nn.Sequential(*layers)


def make_decoder(channels: int, factors: int) -> nn.Sequential:
    """Three transposed 3x3 convolutions from factors back to a map."""
    layers: list[nn.Module] = []
    for narrow, wide in pairwise((factors, factors, channels, channels)):
        layers += [nn.ConvTranspose2d(narrow, wide, 3, padding=1), nn.LeakyReLU(SLOPE, inplace=True)]
    return nn.Sequential(*layers)


@full_precision
def factor_loss(factors_student: torch.Tensor, factors_teacher: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of two maps of mean squares over the channels, each of unit length.

    factors_*: (batch, channels, height, width), of one size. Returns a scalar.
    """
    student, teacher = (
        F.normalize(each.square().mean(dim=1).flatten(1)) for each in (factors_student, factors_teacher)
    )
    return (student - teacher).abs().mean()


reconstruction_loss = full_precision(F.mse_loss)


class FT(StagedDistiller):
    """CE_WEIGHT · cross-entropy + FEAT_WEIGHT · factor_loss of the last of `feats`.

    The teacher's factors, RATIO times as many as its channels, are those of a paraphraser that the initial stage trains
    to give the map back from them; the student's those of a translator, which learns with it.
    """

    defaults = {"RATIO": 0.5, "INITIAL": {**INITIAL, "LR": 0.01}, "LOSS": {"CE_WEIGHT": 1.0, "FEAT_WEIGHT": 200.0}}
    checks = {"RATIO": number(0.01, 4), **INITIAL_CHECKS, "LOSS.CE_WEIGHT": WEIGHT, "LOSS.FEAT_WEIGHT": WEIGHT}
    venue = "NeurIPS 2018"
    transfers = "factors of the last feature map, which an initial stage finds"
    index = 33

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.feat_weight = self.weight_of("FEAT_WEIGHT", cfg)
        width_student, width_teacher = (stage_channels(network)[-1] for network in (student, teacher))
        factors = max(int(width_teacher * cfg.FT.RATIO), 1)
        self.translator = make_encoder(width_student, factors, has_norms=True)
        self.paraphraser = make_encoder(width_teacher, factors, has_norms=False).requires_grad_(False)
        self.decoder = make_decoder(width_teacher, factors).requires_grad_(False)

    def initial_modules(self) -> list[nn.Module]:
        return [self.paraphraser, self.decoder]

    def forward_initial(
        self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.no_grad():
            teacher = Output(*self.teacher(image))
        feat = teacher.features["feats"][-1]
        return teacher.logits, {"loss_initial": reconstruction_loss(self.decoder(self.paraphraser(feat)), feat)}

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        factors = self.translator(student.features["feats"][-1]), self.paraphraser(teacher.features["feats"][-1])
        return {"loss_kd": self.feat_weight * factor_loss(*pool_larger(*factors))}
