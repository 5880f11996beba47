"""Weights of ImageNet that torchvision and timm have for their networks, as files that tell what they are."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mdistiller.dataset import IMAGENET_WNIDS
from mdistiller.errors import UserError
from mdistiller.models.others import LIBRARIES, SIDE_KEYS, import_timm

from .networks import PRETRAINED, arguments_of, label
from .runs import make_folder
from .sight import Sight
from .values import dump
from .weights import save_checkpoint

OR_FILE = "name a file with --teacher_weights, DISTILLER.STUDENT_WEIGHTS or --checkpoint"
PLAIN = (0.5, 0.5, 0.5)  # mean and deviation of what a network takes that itself turns it from ImageNet's


def library_file(name: str, arguments: str) -> Path:
    """Where the pretrained weights of a library's network are kept, in torch's own cache of downloads."""
    return Path(torch.hub.get_dir(), "checkpoints", f"{label(name, arguments)}.{PRETRAINED}.pth").resolve()


def is_of_library(name: str) -> bool:
    return name.partition(":")[0] in LIBRARIES


def fetch_of_library(name: str, text: str) -> Path:
    """The file of the pretrained weights of a library's network, made by the library's own loader where it is missing.

    name: canonical; text: its arguments. It holds `meta` as ours do: the network, classes, image size, normalisation.
    Raises UserError where the library has none that score ImageNet's 1000 classes, and where loading them fails.
    """
    path = library_file(name, text)
    if path.is_file():
        return path
    library, _, own = name.partition(":")
    try:
        arguments = arguments_of(text, f"the arguments of {name}", name)
        with torch.random.fork_rng(devices=[]):  # as the numbers that come after are not to tell who fetched them
            network, sight = (_of_torchvision if library == "torchvision" else _of_timm)(own, arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # of the network, of a server, of a library of either
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"the pretrained weights of {name} cannot be had from {library} ({reason}); connect once, or {OR_FILE}"
        ) from error
    meta = {
        "network": name,
        "arguments": text,
        "dataset": {"type": "imagenet", "classes": IMAGENET_WNIDS, "image_size": sight.image_size},
        "normalisation": {"mean": list(sight.mean), "std": list(sight.std)},
        "config": dump({"DATASET": {"IMAGE_SIZE": sight.image_size, "MEAN": sight.mean, "STD": sight.std}}),
    }
    make_folder(path.parent)
    save_checkpoint({"model": network.state_dict(), "meta": meta}, path)
    return path


def _of_torchvision(name: str, arguments: dict[str, Any]) -> tuple[nn.Module, Sight]:
    from torchvision.models import get_model, get_model_weights  # torchvision takes a second to import

    available = list(get_model_weights(name))
    if not available:
        raise UserError(f"torchvision has no pretrained weights of {name}; {OR_FILE}")
    weights = get_model_weights(name).DEFAULT
    if name == "googlenet":  # which it would build without the heads that it has otherwise
        arguments = {"aux_logits": True, **arguments}
    network = get_model(name, weights=weights, **arguments)
    transforms = weights.transforms()
    sight = Sight(transforms.crop_size[0], tuple(transforms.mean), tuple(transforms.std))
    return network, sight._replace(mean=PLAIN, std=PLAIN) if getattr(network, "transform_input", False) else sight


def _of_timm(name: str, arguments: dict[str, Any]) -> tuple[nn.Module, Sight]:
    network = import_timm().create_model(name, pretrained=True, **arguments)
    known = network.pretrained_cfg
    if known.get("num_classes") != len(IMAGENET_WNIDS):
        raise UserError(
            f"the pretrained weights of timm:{name} score {known.get('num_classes')} classes, not ImageNet's 1000; "
            f"choose those of another tag (--list timm PATTERN), or {OR_FILE}"
        )
    side = arguments.get(SIDE_KEYS["timm"])
    side = side if isinstance(side, int) else known["input_size"][1]
    return network, Sight(side, tuple(known["mean"]), tuple(known["std"]))
