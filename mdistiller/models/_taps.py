"""What reads the features of an adapted network while it runs: hooks on its modules. A copy of it has its own."""

from typing import Any

import torch
from torch import nn

from mdistiller.errors import UserError
from mdistiller.models._common import Features
from mdistiller.models._head import main_logits, pooled_of
from mdistiller.models._maps import Reading
from mdistiller.models._probe import first_of


class Tap:
    """A hook that keeps what calls of one module take or return: slots by the number of the call, and those copied.

    place: the module's name in the network.
    """

    def __init__(self, contract: "Contract", place: str, of_input: bool):
        self.contract = contract
        self.place = place
        self.of_input = of_input
        self.slots: dict[int, int] = {}
        self.copied: set[int] = set()
        self.calls = 0

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:
        if self.contract.is_running:
            if self.calls in self.slots:
                tensor = first_of(args, kwargs) if self.of_input else output
                self.contract.tensors[self.slots[self.calls]] = tensor.clone() if self.calls in self.copied else tensor
            self.calls += 1

    def attach(self, network: nn.Module) -> None:
        """Hook the module at its place, where that is another one than before."""
        module = network.get_submodule(self.place)
        hooks = module._forward_pre_hooks if self.of_input else module._forward_hooks
        if self in hooks.values():
            return
        if self.of_input:
            module.register_forward_pre_hook(self, with_kwargs=True)
        else:
            module.register_forward_hook(self, with_kwargs=True)


class Contract:
    """What the probe has found of a network, and the tensors that it keeps of a forward pass while that runs."""

    def __init__(self, name: str, num_classes: int, image_size: int):
        self.name = name
        self.num_classes = num_classes
        self.image_size = image_size
        self.feats: list[tuple[int, Reading]] = []
        self.preacts: list[tuple[int, Reading]] = []
        self.pooled: int | None = None
        self.channels: list[int] = []
        self.norms: list[nn.BatchNorm2d | None] = []
        self.classifiers: list[Any] = []  # linear layers: several heads, of which the logits are the mean, or one
        self.has_final_map = False
        self.refusal = ""  # why it cannot be trained
        self.taps: list[Tap] = []
        self.is_running = False
        self.tensors: dict[int, torch.Tensor] = {}

    def keep(self, reading: Reading, network: nn.Module) -> tuple[int, Reading]:
        """Hook the module of `reading` in `network`. Returns the number of the slot to read, too."""
        module, number = reading.module, reading.number
        place = next(place for place, each in network.named_modules() if each is module)
        tap = next((tap for tap in self.taps if (tap.place, tap.of_input) == (place, reading.of_input)), None)
        if tap is None:
            tap = Tap(self, place, reading.of_input)
            tap.attach(network)
            self.taps.append(tap)
        if reading.of_input and getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # keeps its input as it is, at less than a copy's cost
        elif reading.is_copied:
            tap.copied.add(number)
        return tap.slots.setdefault(number, sum(len(other.slots) for other in self.taps)), reading

    def start(self) -> None:
        for tap in self.taps:
            tap.calls = 0
        self.tensors = {}
        self.is_running = True

    def finish(self, output: Any) -> tuple[torch.Tensor, Features]:
        self.is_running = False
        tensors, self.tensors = self.tensors, {}
        if len(tensors) < sum(len(tap.slots) for tap in self.taps):
            raise UserError(
                f"{self.name} does not always run the modules whose maps it gave when it was adapted; expected a "
                "network that runs the same modules in training and in evaluation"
            )
        features: Any = {
            "feats": [reading.finish(tensors[slot]) for slot, reading in self.feats],
            "preact_feats": [reading.finish(tensors[slot]) for slot, reading in self.preacts],
        }
        pooled = features["feats"][-1] if self.pooled is None else tensors[self.pooled]
        features["pooled_feat"] = pooled_of(pooled)
        if self.has_final_map:
            features["final_map"] = features["feats"][-1]
        if len(self.classifiers) > 1 and isinstance(output, tuple):
            features["heads"] = output
        return main_logits(output, self.num_classes, len(self.classifiers) > 1), features
