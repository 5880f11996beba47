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
from mdistiller.models.others import is_other
from mdistiller.models.published import TORCHVISION_NAMES

from .cfg import CFG
from .describe import plain
from .identity import is_same_data
from .index import Benchmark
from .networks import NO_ARGUMENTS, PRETRAINED, label_of
from .pretrained import OR_FILE, fetch_of_library, is_of_library, library_file
from .runs import BASELINE_FOLDERS, PROJECT, baseline_weights, published_weights, shown
from .values import leaves
from .weights import read_meta, rows_of

NOT_OF_DATA = "FINGERPRINT", "NUM_WORKERS", "AUGMENT", "TEST.BATCH_SIZE"  # keys of DATASET that say how it is read
USEFUL_SHARE = 0.1  # of the way from chance to 100 %, which a teacher has gone at least

# Where MDistiller keeps the teachers that it publishes, by the dataset of `build_model`.
MDISTILLERS = {
    "cifar100": "download_ckpts/cifar_teachers/{}_vanilla/ckpt_epoch_240.pth",
    "tiny_imagenet": "download_ckpts/tiny_imagenet_teachers/{}_vanilla/*",
}
# Those of CIFAR-100 and their top-1, in percent: Zhao et al., Decoupled Knowledge Distillation, CVPR 2022.
RELEASED = {
    "resnet32x4": 79.42,
    "resnet56": 72.34,
    "resnet110": 74.31,
    "vgg13": 74.64,
    "wrn_40_2": 75.61,
    "ResNet50": 79.34,
}
FETCHER = PROJECT / "tools/teachers.py"  # which a clone has


def find_teacher_weights(benchmark: Benchmark, cfg: CN, utils: Path, dataset: dict[str, Any]) -> tuple[Path, list[str]]:
    """Where the weights of the teacher DISTILLER.TEACHER lie, and warnings about the choice.

    dataset: what `meta` tells of the run's data. Where DISTILLER.TEACHER_WEIGHTS names none, it is the best that
    `train.py` made on this very data; else, on classes of ImageNet, a library's file, to be downloaded; else the best
    on other data of these classes; and then where MDistiller keeps its teachers. What is passed over is named in a
    warning. Raises UserError, listing the places and the command that trains one, where there is none.
    """
    name, models = cfg.DISTILLER.TEACHER, benchmark.models_for(cfg.DATASET.TYPE)
    if cfg.DISTILLER.TEACHER_WEIGHTS not in ("", PRETRAINED):
        return Path(cfg.DISTILLER.TEACHER_WEIGHTS), []
    classes = dataset["classes"]
    is_imagenet = {*classes} <= {*IMAGENET_WNIDS}
    if cfg.DISTILLER.TEACHER_WEIGHTS == PRETRAINED:
        if not is_imagenet:
            raise UserError(
                f"the pretrained weights of {name} score classes of ImageNet, and the data has others, such as "
                f"{next(each for each in classes if each not in IMAGENET_WNIDS)!r}; train it by train.py, or name "
                "weights for this data"
            )
        return pretrained_path(name, cfg.DISTILLER.TEACHER_ARGS, benchmark.models), []
    candidates = [candidate_at(path) for path in baseline_weights(utils, label_of(cfg, "TEACHER"))]
    arguments = cfg.DISTILLER.TEACHER_ARGS
    fitting = [each for each in candidates if each.is_of(name, models, arguments) and each.scores(classes)]
    same = [each for each in fitting if is_same_data(each.dataset, dataset)]
    others = [each for each in fitting if each not in same]
    takes_published = is_imagenet and benchmark.models == "imagenet"
    published = published_file(name, arguments, benchmark.models) if takes_published else None
    if same:
        passed_over = [published] if published and published.is_file() else []
        return best_of(same).path, passing_over(others) + [told_of(path) for path in passed_over]
    if published:
        return published, passing_over(others)
    if fitting:
        return best_of(fitting).path, []
    mdistillers = "" if is_other(name) else MDISTILLERS.get(models, "").format(name)
    downloaded = sorted(path for path in PROJECT.glob(mdistillers) if path.is_file()) if mdistillers else []
    if downloaded:
        return next((path for path in downloaded if "best" in path.name), downloaded[0]), []
    place = published_weights(utils / BASELINE_FOLDERS[1], label_of(cfg, "TEACHER"))
    other = f" ({place} is of other classes)" if place.is_file() else ""
    places = f"{place}{other}, runs beside it" + (f" and {PROJECT / mdistillers}" if mdistillers else "")
    fetching = f"fetch it ({command}), " if (command := fetching_command(cfg)) else ""
    raise UserError(
        f"no weights of the teacher {name} for these {len(classes)} classes: looked for {places}; "
        f"{fetching}train it ({training_command(benchmark, cfg, name, utils)}) or name a file with --teacher_weights"
    )


def fetching_command(cfg: CN) -> str:
    """The command that downloads the teacher of `cfg`; empty where none does."""
    is_released = cfg.DATASET.TYPE == "cifar100" and cfg.DISTILLER.TEACHER in RELEASED
    return f"python {shown(FETCHER)} fetch {cfg.DISTILLER.TEACHER}" if is_released and FETCHER.is_file() else ""


def training_command(benchmark: Benchmark, cfg: CN, name: str, utils: Path) -> str:
    """The command that trains the network `name` on the data of `cfg`."""
    defaults = CFG.DATASET.clone()
    defaults.TYPE = cfg.DATASET.TYPE
    fill_defaults(defaults, benchmark.side)
    defaults.ROOT = str(Path(defaults.ROOT).resolve())
    values, usual = leaves(cfg.DATASET), leaves(defaults) | {"TYPE": benchmark.models}
    keys = {key: value for key, value in values.items() if key not in NOT_OF_DATA and plain(value) != plain(usual[key])}
    if "ROOT" in keys:
        keys["ROOT"] = shown(Path(cfg.DATASET.ROOT))
    words = [shown(utils / "train.py"), "--selected_model", name]
    if cfg.DISTILLER.TEACHER_ARGS != NO_ARGUMENTS:
        words += ["DISTILLER.STUDENT_ARGS", cfg.DISTILLER.TEACHER_ARGS]
    words += [word for key, value in keys.items() for word in (f"DATASET.{key}", plain(value))]
    return f"python {shlex.join(words)}"


class Candidate(NamedTuple):
    """Weights that may be a teacher's, and what they say: of themselves, their data, and what they reach, or 0."""

    path: Path
    meta: dict[str, Any]

    @property
    def dataset(self) -> dict[str, Any]:
        return self.meta.get("dataset", {})

    @property
    def top1(self) -> float:
        return self.meta.get("top1", 0.0)

    def is_of(self, name: str, models: str, arguments: str) -> bool:
        """Whether the weights are those of the network `name` of `models`, as far as they tell."""
        is_same = self.meta.get("network", name) == name and self.meta.get("arguments", arguments) == arguments
        return is_same and (is_other(name) or self.meta.get("models", models) == models)

    def scores(self, classes: list[str]) -> bool:
        """Whether the weights score `classes`, as far as they tell."""
        theirs = self.dataset.get("classes", classes)
        return theirs == classes or bool(rows_of(classes, theirs))


def best_of(candidates: list[Candidate]) -> Candidate:
    return max(candidates, key=lambda candidate: candidate.top1)


def passing_over(others: list[Candidate]) -> list[str]:
    """Warnings of the best of other weights that might have been the teacher's, and of those that tell nothing."""
    told = [each for each in others if each.dataset]
    untold = [each for each in others if not each.dataset]
    lines = [told_of(each.path, "which do not tell their data, ") for each in untold[:1]]
    if told:
        best = best_of(told)
        lines.append(told_of(best.path, f"of other data, with a top-1 of {best.top1:.2f}, "))
    return lines


def told_of(path: Path, what: str = "") -> str:
    return f"Warning: the weights {shown(path)}, {what}are not the teacher's; --teacher_weights takes them"


def candidate_at(path: Path) -> Candidate:
    """The weights at `path`, which say nothing where they cannot be read, for loading to say why."""
    try:
        return Candidate(path, read_meta(path))
    except UserError:
        return Candidate(path, {})


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
        return digest.hexdigest()


def warnings_of(cfg: CN, metas: list[dict[str, Any]], dataset: dict[str, Any], top1: float, sha256: str) -> list[str]:
    """What a user should know of a teacher that is right on `top1` percent of the images it is asked about.

    metas: what the weights of each of its networks tell; dataset: what that of this run does.
    """
    lines = []
    if cfg.DISTILLER.TEACHER_SHA256 not in ("", sha256):
        lines.append("Warning: the teacher's file has changed since the run of this config; its numbers will differ")
    theirs = [meta.get("dataset", {}) for meta in metas]
    if any("fingerprints" in each and not is_same_data(each, dataset) for each in theirs):
        lines.append("Warning: the teacher's weights are of other data")
    chance = 100 / dataset["num_classes"]
    if top1 < chance + USEFUL_SHARE * (100 - chance):
        causes = "Its classes may be in another order, as folders named 0 to 99 are when sorted as text, or its images "
        is_known = all(each.get("classes") == dataset["classes"] for each in theirs)
        causes = "Train it longer" if is_known else f"{causes}normalised otherwise"
        lines.append(f"Warning: the teacher is near chance ({chance:.1f} %). {causes}")
    return lines


def pretrained_file(name: str) -> Path | None:
    """Where the weights IMAGENET1K_V1 of the ImageNet network `name` are or will be; None where there are none."""
    return _cache_path(_url(name)) if name in TORCHVISION_NAMES else None


def published_file(name: str, arguments: str, models: str) -> Path | None:
    """Where pretrained weights of a network of `models`, or of a library, are or will be; None where there are none."""
    if is_of_library(name):
        return library_file(name, arguments)
    return pretrained_file(name) if models == "imagenet" else None


def pretrained_path(name: str, arguments: str, models: str) -> Path:
    """As `published_file`. Raises UserError where there are none."""
    path = published_file(name, arguments, models)
    if path is None:
        raise UserError(
            f"{name} has no pretrained weights (these do: {', '.join(TORCHVISION_NAMES)} on ImageNet, torchvision:NAME "
            f"and timm:NAME); {OR_FILE}"
        )
    return path


def fetch_pretrained(path: str | Path, name: str, arguments: str = NO_ARGUMENTS) -> None:
    """Download the pretrained weights of `name` to `path` where that is their place and they are not there yet.

    They are kept in torch's own cache of downloads. Raises UserError, with the address and the place, where that fails.
    """
    path = Path(path)
    if is_of_library(name) and path == library_file(name, arguments):
        fetch_of_library(name, arguments)
    if path != pretrained_file(name) or path.is_file():
        return
    url = _url(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
    except (OSError, RuntimeError, HTTPException) as error:
        raise UserError(
            f"{name}'s pretrained weights are not at {path}, and downloading them failed ({error}): fetch {url} "
            f"and save it there, or {OR_FILE}"
        ) from error


def _url(name: str) -> str:
    from torchvision.models import get_model_weights  # torchvision takes a second to import

    return get_model_weights(TORCHVISION_NAMES[name]).IMAGENET1K_V1.url


def _cache_path(url: str) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name).resolve()
