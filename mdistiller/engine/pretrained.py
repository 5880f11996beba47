"""torchvision's pretrained ImageNet weights, kept in torch's own cache of downloads."""

from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch
from torchvision.models import get_model_weights

from mdistiller.errors import UserError

# Our names of the networks that torchvision has, and its own.
TORCHVISION_NAMES = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "MobileNetV2": "mobilenet_v2",
}


def pretrained_file(name: str) -> Path | None:
    """Where the weights IMAGENET1K_V1 of the ImageNet network `name` are or will be; None where there are none."""
    return _cache_path(_url(name)) if name in TORCHVISION_NAMES else None


def fetch_pretrained(path, name: str) -> None:
    """Download the pretrained weights of `name` to `path` where that is their place and they are not there yet.

    Raises UserError, with the address and the place, where that fails.
    """
    path = Path(path)
    if path != pretrained_file(name) or path.is_file():
        return
    url = _url(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(
            f"{name}'s pretrained weights are not at {path}, and downloading them failed ({error}): fetch {url} "
            "and save it there, or name a file with --teacher_weights or --checkpoint"
        ) from error


def _url(name):
    return get_model_weights(TORCHVISION_NAMES[name]).IMAGENET1K_V1.url


def _cache_path(url):
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name).resolve()
