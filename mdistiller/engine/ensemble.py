"""Several teachers as one."""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import nn

from mdistiller.errors import UserError


class NoFeatures(dict):
    """The features of several teachers, which have none in common."""

    def __getitem__(self, key: str) -> NoReturn:
        raise UserError(f"several teachers have no {key} in common; name one teacher, or a method that compares logits")


class Ensemble(nn.Module):
    """The mean of networks' probabilities, as logits.

    forward: images (batch, 3, height, width) to logits (batch, classes), whose softmax is the mean of the networks'
    softmax, and features that raise UserError where they are read.
    Source: Hinton et al., Distilling the Knowledge in a Neural Network, NIPS workshop 2014, section 1.
    """

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, Any]:
        logs = [network(image)[0].float().log_softmax(dim=1) for network in self.networks]
        return torch.stack(logs).logsumexp(dim=0) - math.log(len(logs)), NoFeatures()

    def get_stage_channels(self) -> Any:
        return NoFeatures()["stages"]

    get_bn_before_relu = get_stage_channels
