"""Evaluation of finished weight files: which there are, and what each reaches."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.checks import Check, require_all
from mdistiller.dataset import Data, build_data, fill_defaults
from mdistiller.distillers import PLAIN_TRAINING, find_method
from mdistiller.errors import UserError
from mdistiller.folder_modules import is_file_reference
from mdistiller.models import build_model, canonical_name, model_names
from mdistiller.models.others import is_other

from . import bounds
from . import cfg as config
from .effects import check_evaluation
from .index import BENCHMARKS, Benchmark, benchmark_of
from .metrics import Result, evaluate
from .networks import NO_ARGUMENTS, arguments_in, arguments_of, label, no_larger_than, plain_arguments
from .runs import BASELINE_FOLDERS, BEST, STATES, published_names, saved_config, student_weights
from .values import dump, parse_yaml, read_yaml
from .weights import check_scores, load_weights, read_meta, read_weights, rows_of, weights_classes

# What a file may say of its own evaluation, and how much of it. It says nothing of where images are or go.
SAID = {"DATASET": ("IMAGE_SIZE", "MEAN", "STD", "NUM_CLASSES", "SYNTHETIC"), "EXPERIMENT": ("SEED",)}
ROOM = 10**7  # parameters of a network of others beyond the bytes of its weights, for classes of the data
PLACES = {"folder": "FOLDER", "csv": "FILE.csv"}  # of data that is nowhere by default
WHICH_IMAGES = {"DATASET.ROOT", "DATASET.SYNTHETIC.SEED", "DATASET.SYNTHETIC.TEST_IMAGES"}
MOST = {
    "DATASET.IMAGE_SIZE": Check(lambda side: side <= 2048, "a side of at most 2048 pixels"),
    "DATASET.SYNTHETIC.TEST_IMAGES": Check(lambda count: count <= 10**5, "at most 100000"),
}


@dataclass(frozen=True)
class WeightFile:
    """A file to evaluate, what it tells of itself, and DATASET.TYPE of what it was trained on, as far as is known."""

    path: Path
    meta: dict[str, Any]
    dataset: str


@dataclass(frozen=True)
class Evaluation:
    """What a weight file reaches on the data of type `dataset`; None stands for what the file does not tell.

    is_changed: whether the images are others than those that its run was tested on; classes: the names of those that
    the network scores; confusion: int64, images of each (row) taken for each (column).
    """

    file: Path
    dataset: str
    teacher: str | None
    student: str
    method: str | None
    seed: int | None
    epoch: int | None
    chosen_by: str | None
    is_changed: bool
    result: Result
    classes: list[str]
    confusion: torch.Tensor | None


def find_weights(project: Path, dataset: str | None = None, every: bool = False) -> list[WeightFile]:
    """The best weights of each run below the scripts' folders in `project`, and those that no run there has.

    dataset: DATASET.TYPE, only what was trained on such data; a file that does not tell was trained on the data of the
    folder's benchmark. every: teachers and baselines as well as distilled students. What cannot be read is among them,
    whatever the `dataset`, for its evaluation to say why.
    """
    found: list[WeightFile] = []
    for benchmark in BENCHMARKS.values():
        utils = project / benchmark.folder / "Utils"
        paths = student_weights(utils)
        if every:
            paths += [path for path in sorted((utils / BASELINE_FOLDERS[1]).rglob("*.pth")) if path.name not in STATES]
        files = []
        for path in paths:
            try:
                files.append(weight_file(path, benchmark.models))
            except UserError:
                files.append(WeightFile(path, {}, dataset or benchmark.models))
        found += one_a_run(files)
    return [file for file in found if dataset in (None, file.dataset)]


def weight_file(path: Path, dataset: str) -> WeightFile:
    """What the file at `path` tells of itself; it was trained on `dataset` where it does not tell."""
    meta = read_meta(path)
    kind = meta.get("dataset", {}).get("type")
    return WeightFile(path, meta, kind if isinstance(kind, str) else dataset)


def one_a_run(files: Sequence[WeightFile]) -> list[WeightFile]:
    """`files`, of each run the best in its own folder, else the first: the others are copies of it."""
    chosen: dict[Any, WeightFile] = {}
    for file in sorted(files, key=lambda file: file.path.parts[-2:] != (file.meta.get("run"), BEST)):
        chosen.setdefault(file.meta.get("run") or file.path, file)
    kept = {file.path for file in chosen.values()}
    return [file for file in files if file.path in kept]


def name_in_file(path: Path, models: str) -> str | None:
    """The network that a published file name, `best_model_weights_{network}[_{distiller}].pth`, tells."""
    parts = (published_names(path) or "").split("_")
    for length in range(len(parts), 0, -1):
        try:
            return canonical_name(models, "_".join(parts[:length]))
        except UserError:
            continue
    return None


class Evaluator:
    """Evaluates weight files on the test images that their `meta` names, overridden by `pairs`; reads these once.

    network: the name of the files' network, for files that do not tell. project: whose runs' own network files may run.
    """

    def __init__(self, network: str | None, pairs: list[str], device: torch.device, project: Path | None = None):
        self.network, self.pairs, self.device, self.project = network, pairs, device, project
        self.plain = find_method(PLAIN_TRAINING)
        config.merge_pairs(config.config_for(self.plain), pairs)
        check_evaluation(pairs[::2])
        self.data_sets: dict[str, Data] = {}  # by their config

    def config_of(self, file: WeightFile) -> CN:
        """The config that says which data `file` is evaluated on, and all that its `meta` says."""
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
        if cfg.DATASET.TYPE in PLACES and not cfg.DATASET.ROOT:
            theirs, place = self._config_in(file).get("DATASET"), PLACES[cfg.DATASET.TYPE]
            was = f" (its run had {theirs['ROOT']})" if isinstance(theirs, dict) and theirs.get("ROOT") else ""
            raise UserError(f"{file.path} is of images of your own; type DATASET.ROOT {place} to test it on some{was}")
        fill_defaults(cfg.DATASET, self._benchmark(file, cfg).side)
        bounds.check(cfg, self.plain)
        return cfg

    def _benchmark(self, file: WeightFile, cfg: CN) -> Benchmark:
        return benchmark_of(cfg.DATASET.TYPE, self.network or file.meta.get("network"))

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

    def data_of(self, cfg: CN) -> Data:
        """The test images that `cfg` names."""
        key = dump(cfg.DATASET)
        if key not in self.data_sets:
            self.data_sets[key] = build_data(cfg, self.device, cfg.EXPERIMENT.SEED, splits=("test",))
        return self.data_sets[key]

    def of_same_data(self, files: Sequence[WeightFile]) -> list[WeightFile]:
        """Those of `files` that were tested on the images that `pairs` name, where they name any."""
        if not WHICH_IMAGES.intersection(self.pairs[::2]):
            return list(files)
        return [file for file in files if not self._is_of_other_data(file)]

    def _is_own(self, file: WeightFile, network: str) -> bool:
        """Whether a run of the project, by the config that it wrote there, trained the `network` that `file` names."""
        if self.project is None or not file.path.resolve().is_relative_to(self.project.resolve()):
            return False
        saved = saved_config(file.path, file.meta.get("run", ""))
        own = read_yaml(saved).get("DISTILLER", {}) if saved else {}
        return isinstance(own, dict) and own.get("STUDENT") == network

    def _is_of_other_data(self, file):
        try:
            return self.is_changed(file, self.config_of(file))
        except UserError:  # its evaluation says why
            return False

    def is_changed(self, file: WeightFile, cfg: CN) -> bool:
        """Whether the test images of `cfg` are, as `file` tells, others of the same type than those of its run."""
        theirs = file.meta.get("dataset", {}).get("fingerprints")
        if cfg.DATASET.TYPE != file.dataset or not isinstance(theirs, dict):
            return False
        ours = self.data_of(cfg).fingerprints["test"]
        return theirs.get("test", ours) != ours

    def evaluate(self, file: WeightFile, title: str, per_class: bool = False) -> Evaluation:
        """What `file` reaches. title: of the progress bar; per_class: count what is taken for what."""
        path, meta, cfg = file.path, file.meta, self.config_of(file)
        models = meta.get("models", self._benchmark(file, cfg).models_for(cfg.DATASET.TYPE))
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

        def build(classes: int) -> nn.Module:
            given = arguments_of(arguments, f"the meta of {path}", name)
            with no_larger_than(path.stat().st_size + ROOM) if is_other(name) else contextlib.nullcontext():
                return build_model(models, name, classes, given, cfg.DATASET.IMAGE_SIZE)

        data = self.data_of(cfg)
        # A network of more classes than the data has is tested as it is: any class may win, wrong ones included.
        model, classes, columns = build(data.num_classes), data.classes, None
        state_dict, _ = read_weights(path, model)
        known = weights_classes(state_dict, meta, model)
        if known is not None and (rows := rows_of(classes, known)):
            check_scores(state_dict, known, model, path)
            model, classes = build(len(known)), known
            columns = torch.tensor(rows, device=self.device)
        load_weights(model, path, name, classes)
        model = model.to(self.device).to(memory_format=torch.channels_last)
        confusion = torch.zeros(2 * [len(classes)], dtype=torch.int64, device=self.device) if per_class else None
        result = evaluate(model, data.test, columns, confusion, title)
        return Evaluation(
            file=path,
            dataset=cfg.DATASET.TYPE,
            teacher=meta.get("teacher"),
            student=label(name, arguments),
            method=meta.get("distiller"),
            seed=cfg.EXPERIMENT.SEED if "SEED" in self._said(file).get("EXPERIMENT", {}) else None,
            epoch=meta.get("epoch"),
            chosen_by=meta.get("chosen_by"),
            is_changed=self.is_changed(file, cfg),
            result=result,
            classes=classes,
            confusion=None if confusion is None else confusion.cpu(),
        )
