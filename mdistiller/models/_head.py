"""The classifier of any network, found in the trace of one forward pass, and what leads to it from the last map."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from mdistiller.models._maps import Layout, layouts_of
from mdistiller.models._probe import BATCH, Call, Trace

CLOSE = 1e-3  # of the largest logit


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
    """The call that makes the logits of the last vector, or those of several heads whose mean the logits are."""
    path, classes = trace.path_to(logits), trace.tensors[logits].shape[1]
    found = [
        call
        for call in trace.calls
        if call.output in path and call.made_output and call.input in path and is_classifier(call.module, classes)
    ]
    if not found or found[-1].output in trace.trunk(logits):
        return found[-1:]
    heads = [call for call in found if trace.tensors[call.output or 0].shape == trace.tensors[logits].shape]
    return heads if heads and agree([trace.tensors[call.output or 0] for call in heads], trace.tensors[logits]) else []


def is_classifier(module: nn.Module, classes: int) -> bool:
    """Whether it is a layer from vectors to as many numbers: a matrix, or a convolution of 1x1."""
    weight = getattr(module, "weight", None)
    if next(module.children(), None) is not None or not isinstance(weight, torch.Tensor) or weight.ndim not in (2, 4):
        return False
    return weight.shape[0] == classes and weight.shape[2:].numel() == 1


def agree(logits: Sequence[torch.Tensor], expected: torch.Tensor) -> bool:
    """Whether the mean of logits is as expected."""
    mean = sum(logits[1:], logits[0]) / len(logits)
    return mean.shape == expected.shape and bool((mean - expected).abs().max() <= CLOSE * expected.abs().max())


class RegionClassifier:
    """What a network does with the average of its last map, applied to averages of regions of it.

    steps: the modules, and how many dimensions what they read has; the channels are its last or its second.
    """

    def __init__(self, steps: Sequence[tuple[nn.Module, int, bool]]):
        self.steps = list(steps)

    def __call__(self, averages: torch.Tensor) -> torch.Tensor:
        """(batch, regions, channels) -> (batch, regions, classes)."""
        x = averages.flatten(0, 1)
        for module, dimensions, is_channels_last in self.steps:
            x = x.flatten(1)
            ones = (1,) * (dimensions - 2)
            x = module(x.unflatten(1, (*ones, -1) if is_channels_last else (-1, *ones)))
        return x.flatten(1).unflatten(0, averages.shape[:2])


@torch.no_grad()
def find_region_classifier(trace: Trace, logits: int, last_map: int, average: torch.Tensor) -> RegionClassifier | None:
    """The modules from the last map to the logits; None where they are not the classifier of its `average`.

    average: (batch, channels). Batch norms among them would learn the statistics of regions: None, too.
    """
    trunk = trace.trunk(logits)
    layouts, head = layouts_of(trace, trunk), {value for value in trunk if value >= last_map}
    calls = [
        call
        for call in trace.calls
        if call.start > last_map and call.made_output and call.input in head and call.output in head
    ]
    outermost = [  # a module's calls end before its own
        call
        for place, call in enumerate(calls, 1)
        if not any(other.start <= call.start and call.end <= other.end for other in calls[place:])
    ]
    steps = []
    for call in outermost:
        shape = trace.tensors[call.input or 0].shape
        layout = layouts.get(call.input or 0, Layout(1))
        steps.append((call.module, len(shape), layout.is_channels_last or layout.extra_tokens is not None))
    if any(isinstance(part, nn.modules.batchnorm._NormBase) for module, *_ in steps for part in module.modules()):
        return None
    classifier = RegionClassifier(steps)
    try:
        found = classifier(average[:, None])[:, 0]
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None
    expected = trace.tensors[logits]
    return classifier if len(expected) == BATCH and expected.any() and agree([found], expected) else None
