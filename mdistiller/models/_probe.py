"""One forward pass of a network, written down: its tensors, the operations on them and the modules that ran them."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

BATCH = 2  # of the images of a probe: one could not be told from no batch at all


@dataclass
class Operation:
    """One operation of PyTorch on values, which are tensors at a time: a change in place makes another value."""

    name: str
    inputs: list[int]
    outputs: list[int]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: nn.Module | None  # the innermost that was running


@dataclass
class Call:
    """A module's forward. `number` counts the module's calls; it made the values from `start` to before `end`."""

    module: nn.Module
    number: int
    start: int
    input: int | None
    output: int | None = None
    end: int = 0

    @property
    def made_output(self) -> bool:
        """Whether the output is its own: that of a dropout, in eval mode, is what came in."""
        return self.output is not None and self.output >= self.start


class Trace(TorchDispatchMode):
    """What ran within it, in order. Value 0 is the image; every tensor is kept, so that each has an identity."""

    def __init__(self, image: torch.Tensor):
        super().__init__()
        self.tensors: list[torch.Tensor] = []
        self.current: dict[int, int] = {}  # value of a tensor, by its id
        self.sharing: dict[int, list[torch.Tensor]] = defaultdict(list)  # tensors by the memory that they look at
        self.maker: dict[int, Operation] = {}
        self.reads: Counter[int] = Counter()  # by the id of a tensor
        self.readers: dict[int, list[Operation]] = defaultdict(list)
        self.calls: list[Call] = []
        self.running: list[Call] = []
        self.numbers: Counter[nn.Module] = Counter()
        self.image = image
        self.output: Any = None
        self.new_value(image)

    def new_value(self, tensor: torch.Tensor) -> int:
        value = len(self.tensors)
        self.tensors.append(tensor)
        memory = tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else 0
        if id(tensor) in self.current and memory:  # changed in place, and with it whatever looks at the same memory
            self.current |= {id(other): value for other in self.sharing[memory]}
        else:
            self.sharing[memory].append(tensor)
        self.current[id(tensor)] = value
        return value

    def value(self, tensor: Any) -> int | None:
        """The value that `tensor` has now; None for what is no tensor, or none that came up."""
        return self.current.get(id(tensor)) if isinstance(tensor, torch.Tensor) else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, torch.Tensor)]
        inputs = [value for tensor in read if (value := self.value(tensor)) is not None]
        self.reads.update(map(id, read))
        result = func(*args, **(kwargs or {}))
        made = [self.new_value(leaf) for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        module = self.running[-1].module if self.running else None
        operation = Operation(func.overloadpacket.__name__, inputs, made, args, kwargs or {}, module)
        self.maker |= dict.fromkeys(made, operation)
        for value in inputs:
            self.readers[value].append(operation)
        return result

    def enter_module(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        number = self.numbers[module]
        self.numbers[module] += 1
        self.running.append(Call(module, number, len(self.tensors), self.value(first_of(args, kwargs))))

    def leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        call = self.running.pop()
        call.output = self.value(output)
        call.end = len(self.tensors)
        self.calls.append(call)

    def path_to(self, value: int) -> list[int]:
        """The values on which `value` depends and which depend on the image, in order."""
        found, later = {value}, [value]
        while later:
            maker = self.maker.get(later.pop())
            new = set(maker.inputs if maker else ()) - found
            found |= new
            later += new
        path: list[int] = []
        reached = {0}
        for each in sorted(found):
            if each == 0 or reached & set(self.maker[each].inputs):
                reached.add(each)
                path.append(each)
        return path

    def trunk(self, value: int) -> list[int]:
        """The values through which all that `value` depends on the image for must pass, in order.

        The sum of a residual block is one, what its branches make is not.
        """
        path = self.path_to(value)
        on_path, found, horizon = set(path), [], 0
        for each in path:
            if horizon <= each:
                found.append(each)
            reached = (made for reader in self.readers[each] for made in reader.outputs if made in on_path)
            horizon = max(horizon, *reached, 0)
        return found


def first_of(args: Any, kwargs: Any) -> Any:
    """What a module is given first, by place or by name."""
    return next(iter((*args, *kwargs.values())), None)


@contextlib.contextmanager
def left_as_it_was(network: nn.Module, mode: bool = False) -> Iterator[None]:
    """Within it `network` is in eval or train mode; afterwards modes, buffers and random numbers are as before."""
    training = {module: module.training for module in network.modules()}
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    device = device_of(network)
    network.train(mode)
    try:
        # Autocast would keep the casts of the weights that it makes here, without a gradient, for the training forward.
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            torch.autocast(device.type, enabled=False),
        ):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                if name in buffers and buffers[name].shape == buffer.shape:
                    buffer.copy_(buffers[name])


def device_of(network: nn.Module) -> torch.device:
    parameter = next(network.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def images_for(network: nn.Module, image_size: int) -> torch.Tensor:
    """Random images (2, 3, image_size, image_size) on the device of `network`, of its precision."""
    known = (p for p in network.parameters() if p.is_floating_point() and not is_lazy(p))
    parameter = next(known, torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, 3, image_size, image_size, generator=generator).to(parameter)


@torch.no_grad()
def trace(network: nn.Module, image: torch.Tensor) -> Trace:
    """The pass of `image`, several of them, through `network` in eval mode, which stays as it was."""
    if any(map(is_lazy, network.parameters())):  # which get their shapes from the first images
        network(image)
    with left_as_it_was(network):
        written = Trace(image)
        with contextlib.ExitStack() as hooks, written:
            for module in network.modules():
                if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
                    hooks.callback(module.register_forward_pre_hook(written.enter_module, with_kwargs=True).remove)
                    hooks.callback(module.register_forward_hook(written.leave_module).remove)
            written.output = network(image)
    return written
