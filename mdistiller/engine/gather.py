"""The parts of a batch that several processes have, put together."""

import contextlib
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from mdistiller.distillers import Distiller
from mdistiller.errors import UserError
from mdistiller.share import Share


class Whole(torch.autograd.Function):
    """The rows of all processes, put together; the gradient of this one's is scaled against their loss's weight.

    Each process computes the same loss of the whole, and keeps the gradient of its own rows alone.
    """

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, own: slice, count: int, scale: float, of: Any) -> torch.Tensor:
        ctx.own, ctx.scale, ctx.of = own, scale, of
        whole = tensor.new_zeros(count, *tensor.shape[1:])
        whole[own] = tensor
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:  # type: ignore[override]
        if ctx.of is not None and ctx.of.is_running:
            raise UserError(
                "the distiller's file takes gradients within forward_train, of which each process has a part; "
                "start it by python, not torchrun"
            )
        return gradient[ctx.own] * ctx.scale, None, None, None, None


def whole(
    tensor: torch.Tensor, share: Share, count: int, scale: float | None = None, of: "WholeBatch | None" = None
) -> torch.Tensor:
    """The `count` rows of all processes, of which `tensor` has those of this one's `share`.

    scale: of the gradient, where their loss is not weighed by the share; of: what gathers them, for its forward pass.
    """
    if not share.is_divided(count):
        return tensor
    own = share.part(count)
    return Whole.apply(tensor, own, count, scale or count / (own.stop - own.start), of)


class WholeBatch:
    """Calls a distiller with the whole batch, in every process, whose networks compute this process's part alone.

    Whatever it does with what they return, it does with all images, as in one process; its losses are the same in each
    process and need no weights. apart: a context for random numbers that differ between processes.
    """

    def __init__(self, distiller: Distiller, share: Share, apart: Callable[[], Any]):
        self.distiller, self.share, self.apart = distiller, share, apart
        self.is_running = False
        for network in (distiller.student, distiller.teacher):
            if network is not None:
                self.divide(network)

    def divide(self, network: nn.Module) -> None:
        """Have `network` compute a part of what it is given, and put it together, while the distiller trains."""
        compiled = vars(network).get("forward")
        forward = (lambda _, *args, **kwargs: compiled(*args, **kwargs)) if compiled else type(network).forward

        def divided(network: nn.Module, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not (self.is_running and self.share.is_divided(len(x))):
                return forward(network, x, *args, **kwargs)
            with self.apart():
                returned = forward(network, x[self.share.part(len(x))], *args, **kwargs)
            return mapped(lambda tensor: whole(tensor, self.share, len(x), self.share.size, self), returned)

        network.forward = types.MethodType(divided, network)  # of a copy, that of the copy

    def __call__(self, target: torch.Tensor, **batch: Any) -> Any:
        count = self.distiller.processes.count
        given = mapped(lambda tensor: whole(tensor, self.share, count), {"target": target, **batch})
        self.is_running = True
        with contextlib.ExitStack() as stack:
            stack.callback(setattr, self, "is_running", False)
            logits, losses = self.distiller(**given)
        return self.distiller.processes.own(logits), losses


def mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """`value`, in which `function` has taken the place of each tensor with rows."""
    if isinstance(value, torch.Tensor):
        return function(value) if value.ndim else value
    if isinstance(value, dict):
        return {key: mapped(function, each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        values = [mapped(function, each) for each in value]
        return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
    return value
