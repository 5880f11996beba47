"""The classifier of any network, found in the trace of one forward pass, and the logits in what it returns."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

from mdistiller.models._probe import Call, Trace

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "_euclidean_dist", "_cdist_forward"}
CLOSE = 1e-4  # beside the largest that is expected


def main_logits(output: Any, num_classes: int, averages: bool = False) -> Any:
    """The logits (batch, num_classes) among what a network returns, those of that name before others, then the first.

    averages: the mean of all, as of a network with several heads that are one classifier. What has no logits gives its
    first value.
    """
    values = dict(output) if isinstance(output, Mapping) else {}
    named = [values[name] if name in values else getattr(output, name, None) for name in ("logits", "out")]
    leaves = tree_leaves(values or output)
    found = [each for each in (*named, *leaves) if isinstance(each, torch.Tensor)]
    logits = [each for each in found if each.ndim == 2 and each.shape[1] == num_classes]
    if averages and logits == found:
        return sum(logits) / len(logits)
    return next(iter((*logits, *found, *leaves)), None)


def pooled_of(x: torch.Tensor) -> torch.Tensor:
    """What a classifier reads as vectors (batch, channels): of a map or tokens the mean."""
    if x.ndim == 4:
        return x.mean(dim=(2, 3))
    return x.mean(dim=1) if x.ndim == 3 else x


def find_classifiers(trace: Trace, logits: int) -> list[Call]:
    """The call that makes the logits; several where they are the mean of heads; of another sum the first term's."""
    path, classes = trace.path_to(logits), trace.tensors[logits].shape[1]
    found = [
        call
        for call in trace.calls
        if call.output in path and call.made_output and call.input in path and is_classifier(call.module, classes)
    ]
    if not found or found[-1].output in trace.trunk(logits):
        return found[-1:]
    heads = [call for call in found if trace.tensors[call.output or 0].shape == trace.tensors[logits].shape]
    means = heads and agree([trace.tensors[call.output or 0] for call in heads], trace.tensors[logits])
    return heads if means else (heads or found)[:1]


def is_classifier(module: nn.Module, classes: int) -> bool:
    """Whether it is a layer from vectors to as many numbers: linear, or a convolution of 1x1."""
    if isinstance(module, nn.Linear):
        return module.out_features == classes
    if not isinstance(module, nn.Conv2d):
        return False
    return module.out_channels == classes and module.groups == 1 and module.weight.shape[2:].numel() == 1


def is_product(trace: Trace, logits: int) -> bool:
    """Whether they come of a product that is no layer's, such as one with a parameter or with unit vectors."""
    classes = trace.tensors[logits].shape[1]
    made = ((trace.maker[value].name, trace.tensors[value]) for value in trace.path_to(logits)[1:])
    return any(name in PRODUCTS and tensor.ndim > 1 and tensor.shape[1] == classes for name, tensor in made)


def agree(found: Sequence[torch.Tensor], expected: torch.Tensor) -> bool:
    """Whether the mean of what was found is as expected."""
    mean = sum(found[1:], found[0]) / len(found)
    return mean.shape == expected.shape and bool((mean - expected).abs().max() <= CLOSE * expected.abs().max())


class ConvolutionAsLinear(nn.Module):
    """A convolution of 1x1 as the linear layer that it is, of the same parameters."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution
        self.in_features, self.out_features = convolution.in_channels, convolution.out_channels

    @property
    def weight(self) -> torch.Tensor:
        return self.convolution.weight.flatten(1)

    @property
    def bias(self) -> torch.Tensor | None:
        return self.convolution.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)
