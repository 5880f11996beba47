"""One image on its way through a network: which module was called when, with what, and what it returned."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ELU, nn.PReLU, nn.Mish, nn.Softplus)
PREFIX_TOKENS = 8  # that stand for no patch, at most


@dataclass(eq=False)
class Call:
    """A call of a module, and those that it made itself. given, returned: the first tensors; copy, version: of the
    latter, then. number: of the module's calls, from 0."""

    module: nn.Module
    given: Any
    number: int
    returned: Any = None
    copy: Any = None
    version: int = 0
    calls: list["Call"] = field(default_factory=list)

    def walk(self) -> Iterator["Call"]:
        """This call and all below it, in the order in which they returned."""
        for call in self.calls:
            yield from call.walk()
        yield self

    @property
    def is_changed(self) -> bool:
        """Whether something has written to what was returned, since."""
        return isinstance(self.returned, torch.Tensor) and self.returned._version != self.version

    @property
    def transforms(self) -> bool:
        """Whether it computes what a pooling does not: by parameters, or as an activation."""
        return isinstance(self.module, ACTIVATIONS) or next(self.module.parameters(), None) is not None


def first_tensor(value: Any) -> Any:
    """`value`, or the first tensor in it where it is a container."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return next((found for each in value if (found := first_tensor(each)) is not None), None)
    return None


@torch.no_grad()
def watch(network: nn.Module, image: torch.Tensor) -> tuple[Call, Any]:
    """The call of `network` with `image`, in eval mode, and what it returned; the network is left as it was."""
    root = Call(nn.Identity(), image, 0)
    open_calls, counts, handles = [root], dict[nn.Module, int](), []

    def before(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        call = Call(module, first_tensor((*arguments, *keywords.values())), counts.get(module, 0))
        counts[module] = call.number + 1
        open_calls[-1].calls.append(call)
        open_calls.append(call)

    def after(module: nn.Module, arguments: tuple[Any, ...], returned: Any) -> None:
        call = open_calls.pop()
        call.returned = first_tensor(returned)
        if isinstance(call.returned, torch.Tensor):
            call.copy, call.version = call.returned.clone(), call.returned._version

    training = {module: module.training for module in network.modules()}
    with contextlib.ExitStack() as stack:
        for module, mode in training.items():
            stack.callback(setattr, module, "training", mode)
        stack.enter_context(torch.autocast(image.device.type, enabled=False))
        for module in network.modules():
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
            stack.callback(handles[-1].remove)
            stack.callback(handles[-2].remove)
        network.eval()
        returned = network(image)
    return root.calls[0], returned


Grid = tuple[int, int]


def grid_of(tensor: Any, patches: Grid | None) -> Grid | None:
    """Height and width of a map (batch, channels, h, w) or (batch, h, w, channels), or of tokens (batch, n, channels).

    patches: those that tokens stand for. None for what is none of them.
    """
    if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
        return None
    if tensor.ndim == 4:
        return (tensor.shape[1], tensor.shape[2]) if is_channels_last(tensor) else (tensor.shape[2], tensor.shape[3])
    if tensor.ndim == 3 and patches is not None and 0 <= tensor.shape[1] - patches[0] * patches[1] <= PREFIX_TOKENS:
        return patches
    return None


def is_channels_last(tensor: torch.Tensor) -> bool:
    """Whether a map of a square image is (batch, h, w, channels)."""
    return tensor.shape[1] == tensor.shape[2] != tensor.shape[3]


def as_map(tensor: torch.Tensor, grid: Grid, is_last: bool) -> torch.Tensor:
    """A map or tokens as (batch, channels, height, width). grid: of tokens, of which those of no patch come first;
    is_last: whether a map's channels are its last dimension."""
    if tensor.ndim == 3:
        return tensor[:, -grid[0] * grid[1] :].transpose(1, 2).unflatten(2, grid)
    return tensor.permute(0, 3, 1, 2) if is_last else tensor
