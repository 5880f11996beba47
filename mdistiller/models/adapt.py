"""Any network for images as one of ours: `adapt` gives it the contract of `mdistiller.models`.

The network itself stays: its state dict keeps its names, its forward runs as its authors wrote it, and returns
`(logits, features)`. One forward pass in eval mode, when it is adapted, shows where the features are:

- `feats`: the last map of each resolution, the largest first. A map is a tensor through which all must pass that the
  logits depend on, so the sum of a residual block and not its branches; channels come first, whatever the network's
  layout, and tokens are put back in rows, those for the class, for distillation and registers left out. A network of
  one resolution, such as a ViT, lists five maps at equal depths.
- `preact_feats`: the same maps before their activation; those without one, or whose activation a module's own code
  applies to what no module returns, are the same.
- `pooled_feat`: (batch, channels), what the classifier reads; of one that is no layer, the average of the last map.
- `final_map`: the last of `feats`, where `pooled_feat` is its average and the logits are linear in that.

`get_stage_channels()` lists the channels of `feats`; `get_bn_before_relu()` the batch norms that make `preact_feats`.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mdistiller.errors import UserError, printable
from mdistiller.folder_modules import described
from mdistiller.models._common import Features
from mdistiller.models._head import ConvolutionAsLinear, agree, find_classifiers, is_product, main_logits, pooled_of
from mdistiller.models._maps import Reading, find_maps, norms_before
from mdistiller.models._probe import BATCH, Trace, images_for, left_as_it_was, trace
from mdistiller.models._taps import Contract

OURS = {"feats", "preact_feats", "pooled_feat"}
HEADS_APART = "set_distilled_training"  # timm's: in training a network returns the logits of each head
USUAL_SIZES = 32, 64, 96, 128, 224, 256, 299, 384, 448


class Adapted(nn.Module):
    """Goes before the class of an adapted network."""

    contract: Contract

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        """Logits (batch, classes) and features of images (batch, 3, height, width)."""
        if self.training and self.contract.refusal:
            raise UserError(self.contract.refusal)
        self.contract.start()
        return self.contract.finish(super().forward(x))

    def get_stage_channels(self) -> list[int]:
        return list(self.contract.channels)

    def get_num_stages(self) -> int:
        """How many of the maps are not the stem's; of a single map, one."""
        return max(len(self.contract.channels) - 1, 1)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """Raises UserError where a stage has none."""
        norms = [norm for norm in self.contract.norms[-self.get_num_stages() :] if norm is not None]
        if len(norms) < self.get_num_stages():
            raise UserError(
                f"{self.contract.name} has no batch norm before each of its maps, which the method reads; type another "
                "network, or a method that reads none, such as KD, FitNet or ReviewKD"
            )
        return norms


def adapt(network: nn.Module, name: str, num_classes: int, image_size: int) -> nn.Module:
    """`network` itself, which meets the contract of `mdistiller.models` from now on; one that does already stays so.

    name: in messages; num_classes: that its logits must have; image_size: a side of its images, in pixels. Raises
    UserError where it does not run on such images, gives no such logits, or has no classifier or no maps.
    """
    written = _trace(network, image_size, name)
    logits = _check_logits(written, num_classes, name)
    if _is_ours(network, written.output):
        vars(network)["has_final_map"] = "final_map" in written.output[1]
        return network
    value = written.value(logits)
    heads = [] if value is None else find_classifiers(written, value)
    if value is None or not (heads or is_product(written, value)):
        raise UserError(
            f"network {name} has no linear layer that gives {num_classes} logits, as methods expect; end it in an "
            "nn.Linear or a convolution of 1x1"
        )
    contract = Contract(name, num_classes, image_size)
    pooled = (heads[0].input if heads else None) or value
    maps = find_maps(written, value, pooled)
    if not maps:
        raise UserError(
            f"network {name} has no maps of features; expected maps (batch, channels, height, width), or tokens, "
            "before its classifier"
        )
    tensors = [replace(each.feat, activation=None).finish(written.tensors[each.value]) for each in maps]
    contract.channels = [tensor.shape[1] for tensor in tensors]
    contract.norms = norms_before(written, maps, [tensor.shape for tensor in tensors])
    contract.classifiers = [
        ConvolutionAsLinear(head.module) if isinstance(head.module, nn.Conv2d) else head.module for head in heads
    ]
    vector = pooled_of(written.tensors[pooled])
    with torch.no_grad():
        is_linear = bool(heads) and agree([head(vector) for head in contract.classifiers], logits)
    contract.has_final_map = is_linear and agree([tensors[-1].mean(dim=(2, 3))], vector)
    contract.feats = [contract.keep(each.feat, network) for each in maps]
    contract.preacts = [contract.keep(each.preact, network) for each in maps]
    if heads:
        contract.pooled, _ = contract.keep(Reading(heads[0].module, heads[0].number, of_input=True), network)
    adapted = _with_contract(network, contract)
    if hasattr(network, HEADS_APART):
        getattr(network, HEADS_APART)(True)
    contract.refusal = _why_not_trained(adapted, image_size, name)
    return adapted


def _with_contract(network: nn.Module, contract: Contract) -> nn.Module:
    """Its class becomes one that derives from it, of the same name, so that names of its state stay."""
    theirs = type(network)
    try:
        if "forward" in vars(network):
            raise TypeError("its forward is set on the instance")
        network.__class__ = type(theirs.__name__, (Adapted, theirs), {"__module__": theirs.__module__})
    except TypeError as error:
        raise UserError(
            f"network {contract.name} cannot be adapted ({printable(described(error))}); expected an nn.Module that is "
            "neither compiled nor scripted"
        ) from error
    vars(network).update(contract=contract, has_final_map=contract.has_final_map)
    return network


def _is_ours(network: nn.Module, output: Any) -> bool:
    if not (isinstance(output, (tuple, list)) and len(output) == 2 and isinstance(output[1], Mapping)):
        return False
    return output[1].keys() >= OURS and all(
        hasattr(network, name) for name in ("get_stage_channels", "get_bn_before_relu")
    )


def attach(network: nn.Module) -> None:
    """Read the features of `network` and those in it from the modules that they have now, of which some are new."""
    for module in network.modules():
        if isinstance(module, Adapted):
            for tap in module.contract.taps:
                tap.attach(module)


def _probe(network: nn.Module, image_size: int) -> Trace:
    return trace(network, images_for(network, image_size).float())


def _trace(network: nn.Module, image_size: int, name: str) -> Trace:
    try:
        return _probe(network, image_size)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = error
    larger = _larger_size(network, image_size, _probe)
    raise UserError(_too_small(name, image_size, reason, larger)) from reason


@torch.no_grad()
def _train(network: nn.Module, image_size: int) -> None:
    with left_as_it_was(network, mode=True):
        network(images_for(network, image_size).float())


def _why_not_trained(network: nn.Module, image_size: int, name: str) -> str:
    """Why a network that runs in eval mode needs larger images in train mode; else empty: its error is its own."""
    try:
        _train(network, image_size)
    except UserError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        if (larger := _larger_size(network, image_size, _train)) is not None:
            return _too_small(f"{name}, in training,", image_size, error, larger)
    return ""


def _larger_size(network: nn.Module, image_size: int, run: Callable[[nn.Module, int], Any]) -> int | None:
    """The next usual size of images that `run` takes; None where there is none."""
    for size in (size for size in USUAL_SIZES if size > image_size):
        with contextlib.suppress(Exception, SystemExit):
            run(network, size)
            return size
    return None


def _too_small(name: str, image_size: int, error: BaseException, larger: int | None) -> str:
    """The line about an error of a forward pass. larger: a size of images that it takes."""
    hint = "type another DATASET.IMAGE_SIZE, or give it arguments by DISTILLER.STUDENT_ARGS or TEACHER_ARGS"
    if larger is not None:
        hint = f"it takes {larger}x{larger}: type DATASET.IMAGE_SIZE {larger}"
    return f"network {name} takes no images of {image_size}x{image_size} pixels ({described(error)}); {hint}"


def _check_logits(written: Trace, num_classes: int, name: str) -> torch.Tensor:
    """The logits of a probe. Raises UserError where they are none, or of another number of classes."""
    logits = main_logits(written.output, num_classes)
    if isinstance(logits, torch.Tensor) and logits.shape == (BATCH, num_classes) and logits.is_floating_point():
        return logits
    got = f"logits {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
    raise UserError(f"network {name} returns {got} for {BATCH} images; expected logits ({BATCH}, {num_classes})")
