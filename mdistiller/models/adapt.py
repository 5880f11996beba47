"""Any network for images as one of ours: torchvision's, timm's, or of a user's file.

One image is sent through the network, and its modules are watched meanwhile. A module that lowers the resolution of
maps once or not at all is a unit; one that does so several times, such as a whole backbone, is looked into. So the
network becomes a sequence of units up to its global pooling, and of the maps between them `feats` are the last of each
resolution; where there is one resolution only, as in a vision transformer, they are the first and the last. The tokens
of a transformer count as a map of patches, without those that stand for no patch. The rest of the contract is found
from there: a map's activation and the last batch norm before it that is as wide; the classifier, which is the last
linear layer that gives a number a class, and what it is given.

The network stays what it was, with its own names in the state dict. It gets a class that derives from its own.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import nn

from mdistiller.errors import UserError

from ._adapted import HEADS_APART, Adapted, Contract, Stage, Tap, logits_of
from ._watch import ACTIVATIONS, Call, Grid, as_map, grid_of, is_channels_last, watch

CLOSE = 1e-4  # of the mean of a final map and what the classifier is given


def adapt(network: nn.Module, name: str, num_classes: int, image_size: int) -> nn.Module:
    """`network` itself, which meets the contract of `mdistiller.models` from now on.

    name: in messages; num_classes: that its logits must have; image_size: a side of its images, in pixels. Raises
    UserError where it takes no such images, or gives no such logits.
    """
    parameter = next(network.parameters(), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, image_size, image_size, generator=generator).to(parameter)
    try:
        call, returned = watch(network, image)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"network {name} takes no images of {image_size}x{image_size} pixels ({type(error).__name__}: {reason}); "
            "type another DATASET.IMAGE_SIZE, or give it arguments by DISTILLER.STUDENT_ARGS or TEACHER_ARGS"
        ) from error
    if isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict) and "feats" in returned[1]:
        return network
    try:
        logits = logits_of(returned)
    except (LookupError, TypeError, StopIteration, AttributeError):
        logits = None
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
        got = f"logits {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(returned).__name__
        raise UserError(f"network {name} returns {got} for one image; expected logits (1, {num_classes})")
    if hasattr(network, HEADS_APART):
        getattr(network, HEADS_APART)(True)
    vars(network)["contract"] = contract_of(call, name, num_classes, image)
    network.__class__ = type(type(network).__name__, (Adapted, type(network)), {"__module__": type(network).__module__})
    return network


def contract_of(root: Call, name: str, num_classes: int, image: torch.Tensor) -> Contract:
    """The contract of a network whose call with `image` is `root`."""
    calls = list(root.walk())
    classifiers = [
        call
        for call in calls
        if isinstance(call.module, nn.Linear)
        and call.module.out_features == num_classes
        and call.returned.shape == (1, num_classes)
    ]
    if not classifiers:
        raise UserError(f"network {name} has no linear layer that gives {num_classes} logits, as methods expect")
    classifier = classifiers[0] if len(classifiers) == 2 else classifiers[-1]  # two: of the class and of a token
    units, patches = units_of(root, None)
    maps = maps_of(units, image, patches)
    if not maps:
        raise UserError(f"network {name} has no maps of features (batch, channels, height, width) or tokens")
    stages, after = [], -1
    for call, takes_given, tensor in maps:
        place = max(place for place, each in enumerate(calls) if each is call)
        stages.append(stage_of(call, takes_given, tensor, calls, range(after + 1, place + (not takes_given)), patches))
        after = place
    pooled = Tap(classifier.module, classifier.number, takes_given=True)
    heads = [cast(nn.Linear, call.module) for call in classifiers]
    heads.sort(key=lambda head: head is not classifier.module)
    contract = Contract(name, image.shape[2], patches, stages, heads, pooled)
    call, takes_given, last = maps[-1]
    if not takes_given and call.is_changed:
        last = call.copy
    grid = grid_of(last, patches)
    assert grid is not None
    final = as_map(last, grid, stages[-1].is_last)
    for function in (torch.positive, F.relu, F.relu6, F.silu, F.hardswish):
        mean = function(final).mean(dim=(2, 3))
        if mean.shape == classifier.given.shape and torch.allclose(mean, classifier.given, rtol=CLOSE, atol=CLOSE):
            contract.final = function
            break
    return contract


def units_of(call: Call, patches: Grid | None) -> tuple[list[Call], Grid | None]:
    """The units below `call`, and the patches of a network whose maps become tokens."""
    for each in call.walk():
        if isinstance(each.module, nn.Conv2d) and patches is None and is_embedding(each):
            patches = grid_of(each.returned, None)
    units: list[Call] = []
    for each in call.calls:
        low, high = (grid_of(tensor, patches) for tensor in (each.returned, each.given))
        grids = {grid for below in each.walk() if (grid := grid_of(below.returned, patches))}
        between = {grid for grid in grids if low and high and low <= grid <= high}
        is_unit = low is not None and len(between | ({high} if high else set())) <= 2
        units += [each] if is_unit or not each.calls else units_of(each, patches)[0]
    return units, patches


def is_embedding(call: Call) -> bool:
    """Whether a convolution cuts an image into patches."""
    convolution = cast(nn.Conv2d, call.module)
    return convolution.in_channels == 3 and convolution.kernel_size == convolution.stride != (1, 1)


def maps_of(units: list[Call], image: torch.Tensor, patches: Grid | None) -> list[tuple[Call, bool, torch.Tensor]]:
    """The maps of the contract: the call, whether it was given or returned the map, and the map."""
    found: dict[Grid, list[tuple[Call, bool, torch.Tensor]]] = {}
    smallest: Grid | None = None
    for call in units:
        for takes_given, tensor in ((True, call.given), (False, call.returned)):
            grid = grid_of(tensor, patches)
            if tensor is image or (takes_given and grid is None and smallest is None):
                continue
            is_pooled = grid == (1, 1) and (smallest != grid if takes_given else not call.transforms)
            if grid is None or is_pooled or (smallest is not None and grid > smallest):
                if found and (grid is None or is_pooled):
                    return listed(found)
                continue
            smallest = grid
            same = found.setdefault(grid, [])
            if same and same[-1][2] is tensor and not takes_given and call.transforms:  # in place
                same.pop()
            if not same or same[-1][2] is not tensor:
                same.append((call, takes_given, tensor))
    return listed(found) if found else []


def listed(found: dict[Grid, list[tuple[Call, bool, torch.Tensor]]]) -> list[tuple[Call, bool, torch.Tensor]]:
    """The last map of each resolution, without a last one that is but pooled; of a single one the first, too."""
    *others, last = found.values()
    if others and not any(takes_given or call.transforms for call, takes_given, _ in last):
        others, last = others[:-1], others[-1]
    if not others:
        return [last[0], last[-1]] if len(last) > 1 else last
    return [same[-1] for same in (*others, last)]


def stage_of(
    call: Call, takes_given: bool, tensor: torch.Tensor, calls: list[Call], places: range, patches: Grid | None
) -> Stage:
    """The stage that ends with the map `tensor`, which `call` was given or returned. places: of its calls."""
    within = [calls[place] for place in places]
    channels_last = tensor.ndim == 4 and is_channels_last(tensor)
    channels = tensor.shape[2 if tensor.ndim == 3 else 3 if channels_last else 1]
    made_by = [each for each in within if isinstance(each.module, ACTIVATIONS) and each.returned is tensor]
    before = None
    if made_by:
        activation = made_by[-1]
        if getattr(activation.module, "inplace", False):
            vars(activation.module)["inplace"] = False
        before = Tap(activation.module, activation.number, takes_given=True)
    norms = [
        each.module
        for each in within
        if isinstance(each.module, nn.BatchNorm2d) and each.returned.shape == tensor.shape and not channels_last
    ]
    after = Tap(call.module, call.number, takes_given, copies=not takes_given and call.is_changed)
    return Stage(after, before, channels, channels_last, norms[-1] if norms else None)
