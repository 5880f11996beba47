"""Which file a teacher comes from: the default places, torchvision's pretrained weights among them."""

import hashlib
import shlex
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from yacs.config import CfgNode as CN

from mdistiller.dataset import IMAGENET_WNIDS, fill_defaults
from mdistiller.errors import UserError
from mdistiller.models.published import TORCHVISION_NAMES

from .cfg import CFG
from .identity import is_same_data
from .index import Benchmark
from .runs import BASELINE_FOLDERS, PROJECT, baseline_weights, published_weights, shown
from .weights import read_meta, rows_of

USEFUL_SHARE = 0.1  # of the way from chance to 100 %, which a teacher has gone at least

# Where MDistiller keeps the teachers that it publishes, by the dataset of `build_model`.
MDISTILLERS = {
    "cifar100": "download_ckpts/cifar_teachers/{}_vanilla/ckpt_epoch_240.pth",
    "tiny_imagenet": "download_ckpts/tiny_imagenet_teachers/{}_vanilla/*",
}


def find_teacher_weights(benchmark: Benchmark, cfg: CN, utils: Path, dataset: dict[str, Any]) -> tuple[Path, list[str]]:
    """Where the weights of the teacher DISTILLER.TEACHER lie, by the default places, and warnings about the choice.

    dataset: what `meta` tells of the run's data. On classes of ImageNet that is torchvision's file, to be downloaded.
    Else it is the best that `train.py` made on this very data; else the best on other data of these classes, with a
    warning; and then where MDistiller keeps its teachers. Raises UserError, listing the places and the command
    that trains one, where there is none.
    """
    name, classes = cfg.DISTILLER.TEACHER, dataset["classes"]
    if benchmark.models == "imagenet" and {*classes} <= {*IMAGENET_WNIDS} and (file := pretrained_file(name)):
        return file, []
    folder = utils / BASELINE_FOLDERS[1]
    candidates = [candidate_at(path) for path in baseline_weights(utils, name)]
    fitting = [candidate for candidate in candidates if candidate.scores(classes)]
    same = [candidate for candidate in fitting if is_same_data(candidate.dataset, dataset)]
    if same or fitting:
        best = max(same or fitting, key=lambda candidate: candidate.top1)
        return best.path, [] if same else [f"Warning: the teacher's weights {shown(best.path)} are of other data"]
    mdistillers = MDISTILLERS.get(benchmark.models_for(cfg.DATASET.TYPE), "").format(name)
    downloaded = sorted(path for path in PROJECT.glob(mdistillers) if path.is_file()) if mdistillers else []
    if downloaded:
        return next((path for path in downloaded if "best" in path.name), downloaded[0]), []
    published = published_weights(folder, name)
    other = f" ({published} is of other classes)" if published.is_file() else ""
    places = f"{published}{other}, runs beside it" + (f" and {PROJECT / mdistillers}" if mdistillers else "")
    raise UserError(
        f"no weights of the teacher {name} for these {len(classes)} classes: looked for {places}; train it "
        f"({training_command(cfg, name, utils)}) or name a file with --teacher_weights"
    )


def training_command(cfg: CN, name: str, utils: Path) -> str:
    """The command that trains the network `name` on the data of `cfg`."""
    script = f"python {utils.parent.name}/{utils.name}/train.py --selected_model {name}"
    defaults = CFG.DATASET.clone()
    defaults.TYPE = cfg.DATASET.TYPE
    fill_defaults(defaults)
    defaults.ROOT = str(Path(defaults.ROOT).resolve())
    is_default_type = cfg.DATASET.TYPE in ("cifar100", "imagenet")
    keys = [] if is_default_type else [("TYPE", cfg.DATASET.TYPE)]
    for key in ("ROOT", "IMAGE_SIZE", "VAL_FRACTION"):
        if cfg.DATASET[key] != defaults[key]:
            keys.append((key, shown(Path(cfg.DATASET.ROOT)) if key == "ROOT" else str(cfg.DATASET[key])))
    return " ".join([script, *(f"DATASET.{key} {shlex.quote(value)}" for key, value in keys)])


class Candidate(NamedTuple):
    """Weights that may be a teacher's. top1: what they say they reach, 0 where they say nothing."""

    path: Path
    dataset: dict[str, Any]
    top1: float

    def scores(self, classes: list[str]) -> bool:
        """Whether the weights score `classes`, as far as they tell."""
        theirs = self.dataset.get("classes", classes)
        return theirs == classes or bool(rows_of(classes, theirs))


def candidate_at(path: Path) -> Candidate:
    """The weights at `path`, which say nothing where they cannot be read, for loading to say why."""
    try:
        meta = read_meta(path)
    except UserError:
        meta = {}
    return Candidate(path, meta.get("dataset", {}), meta.get("top1", 0.0))


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
        return digest.hexdigest()


def warnings_of(cfg: CN, top1: float, sha256: str, classes: int) -> list[str]:
    """What a user should know of a teacher that is right on `top1` percent of the images it is asked about."""
    lines = []
    if cfg.DISTILLER.TEACHER_SHA256 not in ("", sha256):
        lines.append("Warning: the teacher's file has changed since the run of this config; its numbers will differ")
    chance = 100 / classes
    if top1 < chance + USEFUL_SHARE * (100 - chance):
        lines.append(
            f"Warning: the teacher is near chance ({chance:.1f} %). Its classes may be in another order, as "
            "folders named 0 to 99 are when sorted as text, or its images normalised otherwise"
        )
    return lines


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
