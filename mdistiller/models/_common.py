"""What several families share: the type of their features, initialisation, the residual body, the pooled vector."""

from collections.abc import Iterable, Sequence
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.errors import UserError


class FeaturesOfAll(TypedDict):
    """What every network returns beside its logits; `mdistiller.models` says what each is."""

    feats: list[torch.Tensor]
    preact_feats: list[torch.Tensor]
    final_map: torch.Tensor
    pooled_feat: torch.Tensor


class Features(FeaturesOfAll, total=False):
    """And what one with a distillation token does in training."""

    heads: tuple[torch.Tensor, torch.Tensor]


def init_convolutions(model: nn.Module) -> None:
    """Normal weights with variance 2 / (kernel area x output channels), zero bias (He et al., ICCV 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(linear: nn.Linear) -> None:
    """Normal weights with deviation 0.01, zero bias."""
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)


def run_residual_stages(stem: torch.Tensor, x: torch.Tensor, stages: Iterable[nn.Sequential]) -> Features:
    """Run stages of blocks that return their output before its ReLU; returns the features of the network.

    stem: the stem's map after its ReLU, which stands in both lists, as published; x: what the first stage reads, that
    map or a pooled one.
    """
    feats, preact_feats = [stem], [stem]
    for stage in stages:
        for block in stage[:-1]:
            x = F.relu(block(x), inplace=True)
        preact = stage[-1](x)
        x = F.relu(preact)
        feats.append(x)
        preact_feats.append(preact)
    return {"feats": feats, "preact_feats": preact_feats, "final_map": x, "pooled_feat": global_average(x)}


def global_average(x: torch.Tensor) -> torch.Tensor:
    """(batch, channels, height, width) -> (batch, channels)."""
    return x.mean(dim=(2, 3))


def channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Interleave the channels of `groups` equal groups: a1 a2 b1 b2 -> a1 b1 a2 b2. x: (batch, channels, ...)."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


def find_classifier(network: nn.Module) -> nn.Linear:
    """The layer of `network` that turns `pooled_feat` into logits. Raises UserError where there is none."""
    classifiers = find_classifiers(network)
    if not classifiers:
        raise UserError(
            f"{label_of(network)} has no linear layer that gives its logits, which the method reads; type another "
            "network, or a method that reads none, such as KD, FitNet or ReviewKD"
        )
    return classifiers[0]


def label_of(network: nn.Module) -> str:
    """What `network` is called in messages."""
    return getattr(getattr(network, "contract", None), "name", type(network).__name__)


def find_classifiers(network: nn.Module) -> list[nn.Linear]:
    """The layers that give logits: of ours the last `nn.Linear`; a network of others may have several heads."""
    contract = getattr(network, "contract", None)
    return contract.classifiers if contract else [m for m in network.modules() if isinstance(m, nn.Linear)][-1:]


@torch.no_grad()
def probe_features(network: nn.Module, input_size: Sequence[int]) -> Features:
    """Features of a blank image of `input_size` (height, width), in eval mode; leaves the network as it was."""
    training = {module: module.training for module in network.modules()}
    parameter = next(network.parameters())
    network.eval()
    try:
        # Autocast would keep the casts of the weights that it makes here, without a gradient, for the training forward.
        with torch.autocast(parameter.device.type, enabled=False):
            _, features = network(parameter.new_zeros(1, 3, *input_size))
    finally:
        for module, mode in training.items():
            module.training = mode
    return features


class BatchNorm2d(nn.BatchNorm2d):
    """Batch norm that falls back on its running statistics where a channel has one value and so no variance.

    The pooled features of a batch of one image are such a case.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and x.numel() == x.shape[1]:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)
