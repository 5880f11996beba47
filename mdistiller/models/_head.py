"""The classifier of any network, found in the trace of one forward pass, and the logits in what it returns."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.models._probe import Call, Trace

CLOSE = 1e-4  # beside the largest that is expected


def main_logits(output: Any, averages: bool = False) -> Any:
    """The logits among what a network returns: of a mapping or a named tuple those of that name, else the first.

    averages: of a tuple, the mean of all, as of a network with several heads that are one classifier.
    """
    if isinstance(output, Mapping):
        named = [output[name] for name in ("logits", "out") if name in output]
        return [*named, *output.values()][0] if output else None
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, (tuple, list)):
        return sum(output) / len(output) if averages else next(iter(output), None)
    return output


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
