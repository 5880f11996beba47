"""Which file a teacher comes from: the default places, torchvision's pretrained weights among them."""

from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlparse

import torch

from mdistiller.dataset import IMAGENET_WNIDS
from mdistiller.errors import UserError

from .index import Benchmark
from .runs import PROJECT, baseline_weights
from .weights import read_weights, rows_of

# Our names of the networks that torchvision has, and its own.
TORCHVISION_NAMES = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "MobileNetV2": "mobilenet_v2",
}


def find_teacher_weights(benchmark: Benchmark, name: str, utils: Path, classes: list[str]) -> Path:
    """The first of the default places that holds weights of the teacher `name` for `classes`.

    On classes of ImageNet that is torchvision's, to be downloaded. Else it is what `train.py` wrote on these classes,
    the published name first, then its best run, and then where MDistiller keeps teachers of CIFAR-100.
    Raises UserError, listing the places and the command that trains one, where there is none.
    """
    if benchmark.models == "imagenet" and {*classes} <= {*IMAGENET_WNIDS} and (file := pretrained_file(name)):
        return file
    published, *runs = baseline_weights(utils, name)
    mdistillers = PROJECT / "download_ckpts" / "cifar_teachers" / f"{name}_vanilla" / "ckpt_epoch_240.pth"
    if published.is_file() and top1_on(published, classes) is not None:
        return published
    if scored := [(top1, path) for path in runs if (top1 := top1_on(path, classes)) is not None]:
        return max(scored)[1]
    if benchmark.models == "cifar100" and mdistillers.is_file():
        return mdistillers
    other = f" ({published} is of other classes)" if published.is_file() else ""
    command = f"python {utils.parent.name}/{utils.name}/train.py --selected_model {name}"
    raise UserError(
        f"no weights of the teacher {name} for these {len(classes)} classes: looked for {published}{other}, runs "
        f"beside it and {mdistillers}; train it ({command}) or name a file with --teacher_weights"
    )


def top1_on(path: Path, classes: list[str]) -> float | None:
    """Top-1 that the weights at `path` say they reach; None where they say that they score other classes.

    0 for weights that say nothing; those that cannot be read pass, for loading them to say why.
    """
    try:
        _, meta = read_weights(path)
    except UserError:
        return 0.0
    theirs = meta.get("dataset", {}).get("classes", classes)
    return meta.get("top1", 0.0) if theirs == classes or rows_of(classes, theirs) else None


def pretrained_file(name: str) -> Path | None:
    """Where the weights IMAGENET1K_V1 of the ImageNet network `name` are or will be; None where there are none."""
    return _cache_path(_url(name)) if name in TORCHVISION_NAMES else None


def fetch_pretrained(path: str | Path, name: str) -> None:
    """Download the pretrained weights of `name` to `path` where that is their place and they are not there yet.

    They are kept in torch's own cache of downloads. Raises UserError, with the address and the place, where that fails.
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


def _url(name: str) -> str:
    from torchvision.models import get_model_weights  # torchvision takes a second to import

    return get_model_weights(TORCHVISION_NAMES[name]).IMAGENET1K_V1.url


def _cache_path(url: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name).resolve()
