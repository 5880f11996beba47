"""Any network as one of ours: `adapt(network, image_size)` gives it the contract of `mdistiller.models`.

The network itself stays: its state dict keeps its names, its forward runs as its authors wrote it, and returns
`(logits, features)`. One forward pass in eval mode, when it is adapted, shows where the features are:

- `feats`: the last map of each resolution, the largest first. A map is a tensor through which all must pass that the
  logits depend on, so the sum of a residual block and not its branches; channels come first, whatever the network's
  layout, and tokens are put back in rows, those for the class, for distillation and registers left out. A network of
  one resolution, such as a ViT, lists five maps at equal depths.
- `preact_feats`: the same maps before their activation; those without one, or whose activation a module's own code
  applies to what no module returns, are the same.
- `pooled_feat`: (batch, channels), what the classifier reads.
- `final_map`: the last of `feats`; `get_region_classifier()` is what the network does with its average, where it does.

Where the network has no square maps `feats` is empty, and `final_map` missing. `get_stage_channels()` lists the
channels of `feats`; `get_bn_before_relu()` the batch norms that make `preact_feats` but the first, or none where one is
lacking.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from mdistiller.errors import UserError, printable
from mdistiller.models._common import Features
from mdistiller.models._head import RegionClassifier, find_classifiers, find_region_classifier, main_logits
from mdistiller.models._maps import Reading, find_maps, norm_before
from mdistiller.models._probe import BATCH, Trace, images_for, left_as_it_was, trace
from mdistiller.models._taps import Record

OURS = {"feats", "preact_feats", "pooled_feat"}
USUAL_SIZES = 32, 64, 96, 128, 224, 256, 299, 384, 448


class Adapted(nn.Module):
    """Goes before the class of an adapted network."""

    record: Record

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, Features]:
        if self.training and self.record.refusal:
            raise UserError(self.record.refusal)
        self.record.start()
        return self.record.finish(super().forward(x))

    @property
    def probed_size(self) -> int:
        """Side of the images that the network is known to take."""
        return self.record.image_size

    def get_stage_channels(self) -> list[int]:
        return list(self.record.channels)

    def get_stage_count(self) -> int:
        """How many of `feats`, the last ones, are a stage's and not the stem's."""
        return max(len(self.record.channels) - 1, min(len(self.record.channels), 1))

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        return list(self.record.norms)

    def get_region_classifier(self) -> RegionClassifier | None:
        return self.record.region_classifier


def adapt(network: nn.Module, image_size: int, num_classes: int | None = None, name: str = "") -> nn.Module:
    """`network` with the contract of our networks, for square images of side `image_size`; one that has it, as it is.

    It is changed in place and returned: its class, and hooks. num_classes: how many it must have; name: what messages
    call it. Raises UserError where it does not run on such images, does not return logits (batch, classes), has another
    number of classes, or no classifier.
    """
    name = name or type(network).__name__
    written = _trace(network, image_size, name)
    logits = _check_logits(written, num_classes, name)
    if _is_ours(network, written.output):
        network.probed_size = network.__dict__.get("probed_size", image_size)  # type: ignore[assignment]
        return network
    value = written.value(logits)
    calls = [] if value is None else find_classifiers(written, value)
    if value is None or not calls:
        raise UserError(f"{name} has no classifier: its logits come from no nn.Linear, and no nn.Conv2d of 1x1 pixels")
    record = Record(name, image_size)
    _find_features(record, network, written, value, calls[0].input or 0)
    pooled = Reading(calls[0].module, calls[0].number, of_input=True)
    record.pooled, _ = record.keep(pooled)
    record.averages_heads = len(calls) > 1
    adapted = _with_record(network, record)
    record.refusal = _why_not_trained(adapted, image_size, name)
    return adapted


def _find_features(record: Record, network: nn.Module, written: Trace, logits: int, pooled: int) -> None:
    """Put what `record` says of the maps, and their hooks."""
    maps = find_maps(written, logits, pooled)
    tensors = [replace(each.feat, activation=None).finish(written.tensors[each.value]) for each in maps]
    record.channels = [tensor.shape[1] for tensor in tensors]
    if maps:
        with left_as_it_was(network):
            average = tensors[-1].mean(dim=(2, 3))
            record.region_classifier = find_region_classifier(written, logits, maps[-1].value, average)
    norms = [
        norm_before(written, each.preact_value, tensor.shape[1]) for each, tensor in zip(maps, tensors, strict=True)
    ]
    found = [norm for norm in norms[-max(len(maps) - 1, 1) :] if norm is not None]
    record.norms = found if len(found) == max(len(maps) - 1, min(len(maps), 1)) else []
    record.feats = [record.keep(each.feat) for each in maps]
    record.preacts = [record.keep(each.preact) for each in maps]


def _with_record(network: nn.Module, record: Record) -> nn.Module:
    """Its class becomes one that derives from it, of the same name, so that names of its state stay."""
    theirs = type(network)
    try:
        if "forward" in vars(network):
            raise TypeError("its forward is set on the instance")
        network.__class__ = type(theirs.__name__, (Adapted, theirs), {"__module__": theirs.__module__})
    except TypeError as error:
        raise UserError(
            f"{record.name} cannot be adapted ({_line(error)}); expected an nn.Module, neither compiled nor scripted"
        ) from error
    network.record = record  # type: ignore[assignment]
    return network


def _is_ours(network: nn.Module, output: Any) -> bool:
    is_pair = isinstance(output, (tuple, list)) and len(output) == 2 and isinstance(output[1], Mapping)
    return (
        is_pair
        and output[1].keys() >= OURS
        and all(hasattr(network, f"get_{w}") for w in ("stage_channels", "bn_before_relu"))
    )


def _trace(network: nn.Module, image_size: int, name: str) -> Trace:
    try:
        return trace(network, image_size)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = error
    raise UserError(_too_small(network, image_size, name, reason, trace)) from reason


@torch.no_grad()
def _train(network: nn.Module, image_size: int) -> None:
    with left_as_it_was(network, mode=True):
        network(images_for(network, image_size))


def _why_not_trained(network: nn.Module, image_size: int, name: str) -> str:
    """Why a network that runs in eval mode does not in train mode; empty where it does."""
    try:
        _train(network, image_size)
    except UserError as error:
        return str(error)
    except (Exception, SystemExit) as error:
        return _too_small(network, image_size, f"{name}, when it is trained,", error, _train)
    return ""


def _too_small(
    network: nn.Module, image_size: int, name: str, error: BaseException, run: Callable[[nn.Module, int], Any]
) -> str:
    """The line about an error of a forward pass, with the next usual size that `run` takes."""
    for size in USUAL_SIZES:
        with contextlib.suppress(Exception, SystemExit):
            if size > image_size:
                run(network, size)
                hint = f"it takes {size}x{size}: type DATASET.IMAGE_SIZE {size}"
                break
    else:
        hint = "expected an nn.Module whose forward takes images (batch, 3, height, width)"
    return f"{name} does not run on images of {image_size}x{image_size} ({_line(error)}); {hint}"


def _check_logits(written: Trace, num_classes: int | None, name: str) -> torch.Tensor:
    """The logits of a probe. Raises UserError where they are none, or of another number of classes."""
    logits = main_logits(written.output)
    if (
        not isinstance(logits, torch.Tensor)
        or logits.ndim != 2
        or len(logits) != BATCH
        or not logits.is_floating_point()
    ):
        kind = f"a tensor {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(f"{name} returns {kind} for {BATCH} images; expected logits ({BATCH}, classes)")
    if num_classes is not None and logits.shape[1] != num_classes:
        raise UserError(
            f"{name} has {logits.shape[1]} classes, the data {num_classes}; expected as many, such as by its argument "
            "num_classes"
        )
    return logits


def _line(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
