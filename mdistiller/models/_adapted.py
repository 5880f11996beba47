"""What makes a network of others one of ours: what it keeps of the images that it sees, and its class."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from mdistiller.errors import UserError

from ._common import Features
from ._watch import Grid, as_map

HEADS_APART = "set_distilled_training"  # timm's: has a network return the logits of its class and token in training


class Tap:
    """Keeps what a module was given, or what it returned, in its call `number` since the last `take`.

    copies: as something may write to it afterwards.
    """

    def __init__(self, module: nn.Module, number: int, takes_given: bool, copies: bool = False):
        self.number, self.copies, self.count = number, copies, 0
        self.value: torch.Tensor | None = None
        if takes_given:
            module.register_forward_pre_hook(self.before)
        else:
            module.register_forward_hook(self.after)

    def before(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.keep(arguments[0])

    def after(self, module: nn.Module, arguments: tuple[Any, ...], returned: Any) -> None:
        self.keep(returned)

    def keep(self, value: Any) -> None:
        if self.count == self.number:
            value = value[0] if isinstance(value, (tuple, list)) else value
            self.value = value.clone() if self.copies else value
        self.count += 1

    def take(self) -> torch.Tensor:
        value, self.value, self.count = self.value, None, 0
        return cast(torch.Tensor, value)


@dataclass
class Stage:
    """A map of the network. after, before: its activation; norm: the batch norm before it, where there is one."""

    after: Tap
    before: Tap | None
    channels: int
    is_last: bool
    norm: nn.BatchNorm2d | None


@dataclass
class Contract:
    """What makes a network one of ours. name: of the network, in messages; final: turns the last map into the one whose
    global average is the pooled feature, where there is one; patches: a side, of tokens on images of `image_size`."""

    name: str
    image_size: int
    patches: Grid | None
    stages: list[Stage]
    classifiers: list[nn.Linear]
    pooled: Tap
    final: Callable[[torch.Tensor], torch.Tensor] | None = None

    def features(self, x: torch.Tensor) -> Features:
        """What the taps have kept of the images `x`."""
        feats, preacts = [], []
        for stage in self.stages:
            after = self.map_of(stage, stage.after.take(), x)
            feats.append(after)
            preacts.append(after if stage.before is None else self.map_of(stage, stage.before.take(), x))
        features: dict[str, Any] = {"feats": feats, "preact_feats": preacts, "pooled_feat": self.pooled.take()}
        if self.final is not None:
            features["final_map"] = self.final(feats[-1])
        return cast(Features, features)

    def map_of(self, stage: Stage, value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        rows, columns = self.patches or (0, 0)
        grid = rows * x.shape[2] // self.image_size, columns * x.shape[3] // self.image_size
        return as_map(value, grid, stage.is_last)


class Adapted:
    """What the class of an adapted network has before its own."""

    contract: Contract

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        """Logits (batch, classes) and features of images (batch, 3, height, width)."""
        returned = super().forward(x)  # type: ignore[misc]
        features = self.contract.features(x)
        if isinstance(returned, tuple) and hasattr(self, HEADS_APART):
            features["heads"] = returned
        return logits_of(returned), features

    def get_stage_channels(self) -> list[int]:
        return [stage.channels for stage in self.contract.stages]

    def get_num_stages(self) -> int:
        """How many of the maps are not the stem's."""
        return len(self.contract.stages) - 1

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """Raises UserError where a stage has none."""
        norms = [stage.norm for stage in self.contract.stages[1:]]
        if None in norms:
            raise UserError(
                f"{self.contract.name} has no batch norm before each of its maps, which the method reads; choose "
                "another network, or a method of logits or of maps after their activation"
            )
        return cast(list[nn.BatchNorm2d], norms)


def logits_of(returned: Any) -> torch.Tensor:
    """The logits in what a network returned: its own among auxiliary ones, the mean of several heads."""
    if isinstance(returned, torch.Tensor):
        return returned
    if isinstance(returned, dict):
        return next(returned[key] for key in ("logits", "out", *returned) if key in returned)
    if hasattr(returned, "logits"):
        return returned.logits
    heads = [head for head in returned if isinstance(head, torch.Tensor) and head.shape == returned[0].shape]
    return torch.stack(heads).mean(dim=0) if len(heads) > 1 else heads[0]
