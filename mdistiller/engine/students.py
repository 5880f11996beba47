"""Networks out of weight files, by what these tell of themselves: for tests, for tools, and for Python."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.checks import Check, require_all, whole
from mdistiller.dataset import CIFAR100_CLASSES, DATASETS, IMAGENET_WNIDS, Transform, fill_defaults
from mdistiller.distillers import PLAIN_TRAINING, find_method
from mdistiller.errors import UserError
from mdistiller.folder_modules import is_file_reference
from mdistiller.models import build_model, canonical_name, model_names
from mdistiller.models.others import is_other

from . import bounds
from . import cfg as config
from .effects import check_evaluation
from .index import BENCHMARKS, CIFAR100
from .networks import NO_ARGUMENTS, arguments_in, arguments_of, no_larger_than, plain_arguments
from .runs import PROJECT, published_names, saved_config
from .values import parse_yaml, read_yaml
from .weights import check_scores, load_weights, read_meta, read_weights, rows_of, weights_classes

# What a file may say of its own evaluation, and how much of it. It says nothing of where images are or go.
SAID = {"DATASET": ("IMAGE_SIZE", "MEAN", "STD", "NUM_CLASSES", "SYNTHETIC"), "EXPERIMENT": ("SEED",)}
ROOM = 10**7  # parameters of a network of others beyond the bytes of its weights, for classes of the data
MOST = {
    "DATASET.IMAGE_SIZE": Check(lambda side: side <= 2048, "a side of at most 2048 pixels"),
    "DATASET.SYNTHETIC.TEST_IMAGES": Check(lambda count: count <= 10**5, "at most 100000"),
}
CLASSES = {"cifar100": CIFAR100_CLASSES, "imagenet": IMAGENET_WNIDS}  # of complete copies
MOST_CLASSES = 100_000


@dataclass(frozen=True)
class WeightFile:
    """A file to evaluate, what it tells of itself, and DATASET.TYPE of what it was trained on, as far as is known."""

    path: Path
    meta: dict[str, Any]
    dataset: str


class Named(NamedTuple):
    """A network before it is built. models: the dataset of `build_model`; arguments: as in the config."""

    models: str
    name: str
    arguments: str


class Student(NamedTuple):
    """A finished network, in eval mode on the CPU, and what it takes to use it.

    network: images (batch, 3, height, width) to (logits, features). transform: a PIL image, or uint8 (3, H, W), to what
    the network takes of it, as in its evaluation. class_names: in the order of the logits; numbers where they are not
    known. meta: what the weight file tells.
    """

    network: nn.Module
    transform: Transform
    class_names: tuple[str, ...]
    meta: dict[str, Any]


def weight_file(path: Path, dataset: str) -> WeightFile:
    """What the file at `path` tells of itself; it was trained on `dataset` where it does not tell."""
    meta = read_meta(path)
    kind = meta.get("dataset", {}).get("type")
    return WeightFile(path, meta, kind if isinstance(kind, str) else dataset)


def name_in_file(path: Path, models: str) -> str | None:
    """The network that a published file name, `best_model_weights_{network}[_{distiller}].pth`, tells."""
    parts = (published_names(path) or "").split("_")
    for length in range(len(parts), 0, -1):
        try:
            return canonical_name(models, "_".join(parts[:length]))
        except UserError:
            continue
    return None


class Reader:
    """Reads weight files by what they tell of themselves, overridden by `pairs`.

    network: the name of the files' network, for files that do not tell. project: whose runs' own network files may run.
    also: keys that `pairs` may have beside those of DATASET.
    """

    def __init__(self, network: str | None, pairs: list[str], project: Path | None = None, also: Sequence[str] = ()):
        self.network, self.pairs, self.project = network, pairs, project
        self.plain = find_method(PLAIN_TRAINING)
        config.merge_pairs(config.config_for(self.plain), pairs)
        check_evaluation(pairs[::2], also)

    def config_of(self, file: WeightFile, needs_images: bool = True) -> CN:
        """The config that says which data `file` is evaluated on, and all that its `meta` says.

        needs_images: whether a folder of images must be known, where they are of one.
        """
        cfg = config.config_for(self.plain)
        cfg.DATASET.TYPE = file.dataset
        config.merge(cfg, self._said(file), f"the meta of {file.path}")
        if "DATASET.ROOT" not in self.pairs[::2] and (saved := saved_config(file.path, file.meta.get("run", ""))):
            own = read_yaml(saved).get("DATASET", {})  # which was written here, unlike the file's
            if isinstance(own, dict) and own.get("TYPE") == file.dataset:
                cfg.DATASET.ROOT = str(own.get("ROOT", ""))
        config.merge_pairs(cfg, self.pairs)
        try:
            require_all({key: check for key, check in MOST.items() if key not in self.pairs[::2]}, cfg)
        except UserError as error:
            raise UserError(f"the meta of {file.path} is not used: {error}, or the same key typed by you") from error
        if needs_images and cfg.DATASET.TYPE == "folder" and not cfg.DATASET.ROOT:
            theirs = self._config_in(file).get("DATASET")
            was = f" (its run had {theirs['ROOT']})" if isinstance(theirs, dict) and theirs.get("ROOT") else ""
            raise UserError(f"{file.path} is of a folder of images; type DATASET.ROOT FOLDER to test it on one{was}")
        fill_defaults(cfg.DATASET)
        bounds.check(cfg, self.plain)
        return cfg

    def _config_in(self, file: WeightFile) -> dict[str, Any]:
        return parse_yaml(file.meta.get("config", ""), f"the meta of {file.path}")

    def _said(self, file: WeightFile) -> dict[str, Any]:
        """Of the config in the file's `meta` what says how images are tested, not where they are or what reads them."""
        values = self._config_in(file)
        said: dict[str, Any] = {}
        for section, keys in SAID.items():
            if isinstance(theirs := values.get(section), dict):
                said[section] = {key: theirs[key] for key in keys if key in theirs}
        return said

    def _is_own(self, file: WeightFile, network: str) -> bool:
        """Whether a run of the project, by the config that it wrote there, trained the `network` that `file` names."""
        if self.project is None or not file.path.resolve().is_relative_to(self.project.resolve()):
            return False
        saved = saved_config(file.path, file.meta.get("run", ""))
        own = read_yaml(saved).get("DISTILLER", {}) if saved else {}
        return isinstance(own, dict) and own.get("STUDENT") == network

    def named(self, file: WeightFile, cfg: CN) -> Named:
        """The network of `file`. Raises UserError where it is not known, or is code that only the file names."""
        path, meta = file.path, file.meta
        models = meta.get("models", BENCHMARKS.get(cfg.DATASET.TYPE, CIFAR100).models_for(cfg.DATASET.TYPE))
        name = self.network or meta.get("network") or name_in_file(path, models)
        if name is None:
            read_meta(path)  # which says why, where nothing can be read
            names = ", ".join(model_names(models))
            raise UserError(f"{path} does not tell its network; add --model with one of {names}")
        if is_file_reference(name) and self.network is None and not self._is_own(file, name):
            raise UserError(
                f"{path} is of a network in a file, {name}, which is run where you name it: add --model {name}"
            )
        name, theirs = canonical_name(models, name), meta.get("network", "")
        is_own = name == theirs or (is_file_reference(name) and is_file_reference(theirs))  # which may have been moved
        arguments = arguments_in(meta, path, name) if is_own else NO_ARGUMENTS
        if "DISTILLER.STUDENT_ARGS" in self.pairs[::2]:
            arguments = plain_arguments(cfg.DISTILLER.STUDENT_ARGS, "STUDENT_ARGS", name)
        return Named(models, name, arguments)

    def network_of(
        self, file: WeightFile, cfg: CN, named: Named, classes: list[str], are_known: bool = True
    ) -> tuple[nn.Module, list[str], list[int] | None]:
        """The network of `file`, on the CPU; the classes that it scores; where `classes` are a part, their places.

        are_known: whether `classes` are names, which must be the weights' own. Raises UserError where the file's
        weights are not the network's.
        """
        path, rows = file.path, None

        def build(count: int) -> nn.Module:
            given = arguments_of(named.arguments, f"the meta of {path}", named.name)
            with no_larger_than(path.stat().st_size + ROOM) if is_other(named.name) else contextlib.nullcontext():
                return build_model(named.models, named.name, count, given, cfg.DATASET.IMAGE_SIZE)

        network = build(len(classes))
        if are_known:
            state_dict, _ = read_weights(path, network)
            known = weights_classes(state_dict, file.meta, network)
            rows = rows_of(classes, known)
            if known is not None and rows:
                check_scores(state_dict, known, network, path)
                network, classes = build(len(known)), known
        load_weights(network, path, named.name, classes if are_known else None)
        return network, classes, rows


def load_student(
    path: str | Path, network: str | None = None, num_classes: int | None = None, pairs: Iterable[str] = ()
) -> Student:
    """The student, or any network, whose weights are at `path`, ready for images.

    A file that a run of ours wrote needs nothing else. For others: network, its name as the scripts take it, where the
    file's own does not tell; num_classes, how many it scores; pairs, keys and values as `test.py` takes them, such as
    ["DATASET.TYPE", "imagenet", "DATASET.IMAGE_SIZE", "160"]. Code in a network's file is run only where `network`
    names it, or a run of this project did.
    Raises UserError, in one line, for what is missing, damaged, or another network's.
    """
    return read_student(Reader(network, [str(word) for word in pairs], PROJECT), Path(path), num_classes)


def read_student(reader: Reader, path: Path, num_classes: int | None = None) -> Student:
    """As `load_student`."""
    file = weight_file(path, CIFAR100.models)
    cfg = reader.config_of(file, needs_images=False)
    named = reader.named(file, cfg)
    names = file.meta.get("dataset", {}).get("classes")
    told = len(names) if names else file.meta.get("num_classes")
    count = num_classes if told is None else told
    if count is None:
        raise UserError(f"{path} does not tell how many classes it scores; add --num_classes N, or num_classes=N")
    if num_classes not in (None, count):
        raise UserError(f"{path} scores {count} classes, not {num_classes}; leave num_classes out")
    whole(1, MOST_CLASSES).require("num_classes", count)
    table = CLASSES.get(cfg.DATASET.TYPE, ())
    known = names or (table if len(table) == count else None)
    network, classes, _ = reader.network_of(file, cfg, named, list(known or map(str, range(count))), known is not None)
    dataset = cfg.DATASET
    crops = DATASETS[dataset.TYPE].stays_in_files
    transform = Transform(dataset.IMAGE_SIZE, tuple(dataset.MEAN), tuple(dataset.STD), crops)
    return Student(network.eval(), transform, tuple(classes), file.meta)
