"""Which tensors of any network are its features: what `adapt` reads, found in the trace of one forward pass."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from mdistiller.models._probe import BATCH, Operation, Trace

ACTIVATIONS = {"relu", "hardtanh", "hardswish", "silu", "gelu", "leaky_relu", "elu", "mish", "softplus", "clamp"}
ACTIVATIONS |= {"clamp_min", "celu", "_prelu_kernel", "threshold", "tanh", "log_sigmoid_forward", "hardsigmoid"}
POOLINGS = {"max_pool2d_with_indices", "max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"}
POOLINGS |= {"mean", "amax", "max", "sum", "fractional_max_pool2d"}
GLOBAL_POOLINGS = POOLINGS - {"max_pool2d_with_indices", "max_pool2d"}  # which leave a vector of a map
PASSING = {"add", "mul", "div", "view", "_unsafe_view", "permute", "clone", "native_dropout"}  # by a sum, a scale
MOST_EXTRA_TOKENS = 8  # for the class, for distillation, and registers
QUARTERS = 4
SAME_STAGE = 3, 4  # of a stage's largest map: convolutions without padding take a little off


class Layout(NamedTuple):
    """How a tensor is a square map of `side`; see `Reading` for the rest."""

    side: int
    extra_tokens: int | None = None
    is_channels_last: bool = False
    is_batch_second: bool = False


@dataclass(frozen=True)
class Reading:
    """A tensor of a forward pass: what call `number` of `module` takes or returns, and how it is a map.

    activation: an operation that is yet to be applied, its name and other arguments; extra_tokens: those before a map's
    own, of tokens (batch, tokens, channels) or (tokens, batch, channels).
    """

    module: nn.Module
    number: int
    of_input: bool = False
    is_copied: bool = False  # because the network goes on to change it in place
    activation: tuple[str, tuple[Any, ...], dict[str, Any]] | None = None
    extra_tokens: int | None = None
    is_channels_last: bool = False
    is_batch_second: bool = False

    def finish(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` as a map (batch, channels, height, width)."""
        if self.activation is not None:
            operation, args, kwargs = self.activation
            tensor = getattr(torch.ops.aten, operation)(tensor, *args, **kwargs)
        if self.extra_tokens is not None:
            tokens = (tensor.transpose(0, 1) if self.is_batch_second else tensor)[:, self.extra_tokens :]
            return tokens.mT.unflatten(2, (math.isqrt(tokens.shape[1]), -1))
        return tensor.permute(0, 3, 1, 2) if self.is_channels_last else tensor


class Map(NamedTuple):
    """One map of a network: its value, and how it is read after and before its activation, which may be the same."""

    value: int
    side: int
    feat: Reading
    preact: Reading
    preact_value: int


def base_name(operation: Operation) -> str:
    """The operation's name, whether it works in place or not."""
    return operation.name if operation.name.startswith("_") else operation.name.removesuffix("_")


def layout_of(shape: torch.Size, before: Layout) -> Layout | None:
    """How a tensor of `shape` is a map; None where it is none. What is left open is as in the map `before` it."""
    if len(shape) == 4 and shape[0] == BATCH:
        is_first, is_last = shape[2] == shape[3], shape[1] == shape[2]
        if is_first or is_last:
            return Layout(shape[2], None, is_last and (not is_first or before.is_channels_last))
    if len(shape) == 3 and BATCH in shape[:2]:
        is_batch_second = shape[0] != BATCH
        tokens = shape[0 if is_batch_second else 1]
        for side in (before.side, math.isqrt(tokens)):
            extra = tokens - side**2
            if side and 0 <= extra <= MOST_EXTRA_TOKENS:
                return Layout(side, extra, is_batch_second=is_batch_second)
    return None


def layouts_of(trace: Trace, trunk: list[int]) -> dict[int, Layout]:
    """Of the values of the trunk that are maps."""
    layouts = {0: Layout(trace.image.shape[2])}
    for value in trunk[1:]:
        layout = layout_of(trace.tensors[value].shape, layouts[max(layouts)])
        if layout is not None:
            layouts[value] = layout
    return layouts


def output_of_a_module(trace: Trace, value: int) -> Reading | None:
    """How the value is had as what a module returns, the outermost of several."""
    for call in reversed(trace.calls):
        if call.output == value and call.made_output:
            return Reading(call.module, call.number, is_copied=is_changed_later(trace, value))
    return None


def is_changed_later(trace: Trace, value: int) -> bool:
    return trace.value(trace.tensors[value]) != value


def input_of_activation(trace: Trace, value: int) -> tuple[int, Reading | None] | None:
    """What an activation made `value` from, and how that is had; None where no activation made it."""
    operation = trace.maker[value]
    if base_name(operation) not in ACTIVATIONS or not operation.inputs:
        return None
    source = operation.inputs[0]
    for call in trace.calls:
        if call.module is operation.module and (call.input, call.output) == (source, value):
            return source, Reading(call.module, call.number, True, is_changed_later(trace, source))
    return source, output_of_a_module(trace, source)


def read_map(trace: Trace, value: int, layout: Layout) -> Map | None:
    """How a map is read; None where no module takes or returns it."""
    feat, before = output_of_a_module(trace, value), input_of_activation(trace, value)
    source, preact = before if before is not None else (value, feat)
    if feat is None and preact is not None:
        maker = trace.maker[value]
        feat = replace(preact, activation=(base_name(maker), maker.args[1:], maker.kwargs))
    if feat is None:
        return None
    if preact is None:
        source, preact = value, feat
    feat, preact = (
        replace(
            reading,
            extra_tokens=layout.extra_tokens,
            is_channels_last=layout.is_channels_last,
            is_batch_second=layout.is_batch_second,
        )
        for reading in (feat, preact)
    )
    return Map(value, layout.side, feat, preact, source)


def head_of(trace: Trace, trunk: list[int]) -> int:
    """Place in the trunk where the head begins: with the last pooling of a map to a vector, else with vectors."""
    for place in range(len(trunk) - 1, 0, -1):
        value = trunk[place]
        shape, maker = trace.tensors[value].shape, trace.maker[value]
        if sum(size > 1 for size in shape[1:]) > 1:
            return place + 1
        if base_name(maker) in GLOBAL_POOLINGS:
            return place
        if maker.name == "convolution" and maker.args[1].shape[2:].numel() > 1:  # on maps of one pixel
            return next((i for i in range(place, len(trunk)) if trace.tensors[trunk[i]].ndim == 2), len(trunk))
    return len(trunk)


def hidden_spans(trace: Trace, layouts: dict[int, Layout]) -> Iterator[tuple[range, int]]:
    """Within what modules that reduce the resolution, maps of the larger are no stage's last: values, side."""
    for call in trace.calls:
        ends = layouts.get(call.input or 0), layouts.get(call.output or 0)
        if call.input and call.output and type(call.module) is not nn.Sequential and None not in ends:
            before, after = ends
            if before is not None and after is not None and before.side > after.side:
                yield range(call.start, call.end), before.side


def find_maps(trace: Trace, logits: int, pooled: int) -> list[Map]:
    """The last map of each resolution, the largest first; of a network with but one resolution, five at equal depths.

    logits: their value; pooled: that of what the classifier reads, after which no map is looked for. Of a network of
    branches without a map that all pass the first branch is taken.
    """
    trunk = trace.trunk(logits)
    layouts = layouts_of(trace, trunk)
    hidden = list(hidden_spans(trace, layouts))
    maps: list[Map] = []
    for value in trunk[1 : head_of(trace, trunk)]:
        layout = layouts.get(value)
        if layout is None or value > pooled or base_name(trace.maker[value]) in POOLINGS:
            continue
        if any(value in span and layout.side == side for span, side in hidden):
            continue
        found = read_map(trace, value, layout)
        if found is not None and not (maps and layout.side > maps[-1].side):
            maps.append(found)
    if not maps:
        branches = (trace.maker[value].inputs for value in trunk[1:])
        first = next((branch for branch, *others in branches if others and branch in trace.maker), None)
        return [] if first is None else find_maps(trace, first, pooled)
    stages: list[list[Map]] = []
    for each in maps:
        if stages and each.side * SAME_STAGE[1] > stages[-1][0].side * SAME_STAGE[0]:
            stages[-1].append(each)
        else:
            stages.append([each])
    if len(stages) == 1:
        makers = (trace.maker[each.value] for each in maps)
        finished = {maker.inputs[0] for maker in makers if base_name(maker) in ACTIVATIONS or "norm" in maker.name}
        maps = [each for each in maps if each.value not in finished]
        return [maps[(len(maps) - 1) * quarter // QUARTERS] for quarter in range(min(QUARTERS + 1, len(maps)))]
    return [stage[-1] for stage in stages]


def norms_before(trace: Trace, maps: list[Map], shapes: list[torch.Size]) -> list[nn.BatchNorm2d | None]:
    """The batch norm that made each map before its activation, else the last that is as wide since the map before it.

    shapes: (batch, channels, height, width) of the maps.
    """
    norms: list[nn.BatchNorm2d | None] = []
    before = 0
    for each, shape in zip(maps, shapes, strict=True):
        as_wide = [
            call.module
            for call in trace.calls
            if isinstance(call.module, nn.BatchNorm2d) and call.output is not None
            if before < call.output <= each.preact_value and trace.tensors[call.output].shape == shape
        ]
        norms.append(norm_that_made(trace, each.preact_value, shape) or next(reversed(as_wide), None))
        before = each.value
    return norms


def norm_that_made(trace: Trace, value: int, shape: torch.Size) -> nn.BatchNorm2d | None:
    """The batch norm that made `value`, or the first term of the sum that did."""
    operation = trace.maker.get(value)
    if operation is None or trace.tensors[value].shape != shape:
        return None
    if "batch_norm" in operation.name:
        return operation.module if isinstance(operation.module, nn.BatchNorm2d) else None
    if base_name(operation) not in PASSING:
        return None
    norms = (norm_that_made(trace, source, shape) for source in operation.inputs)
    return next((norm for norm in norms if norm is not None), None)
