"""Evaluation of finished weight files: which there are, and what each reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from mdistiller.dataset import Data, build_data
from mdistiller.errors import UserError

from .index import BENCHMARKS
from .metrics import Result, evaluate
from .networks import label
from .runs import BASELINE_FOLDERS, BEST, STATES, student_weights
from .students import Reader, WeightFile, weight_file
from .values import dump

WHICH_IMAGES = {"DATASET.ROOT", "DATASET.SYNTHETIC.SEED", "DATASET.SYNTHETIC.TEST_IMAGES"}


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


def one_a_run(files: Sequence[WeightFile]) -> list[WeightFile]:
    """`files`, of each run the best in its own folder, else the first: the others are copies of it."""
    chosen: dict[Any, WeightFile] = {}
    for file in sorted(files, key=lambda file: file.path.parts[-2:] != (file.meta.get("run"), BEST)):
        chosen.setdefault(file.meta.get("run") or file.path, file)
    kept = {file.path for file in chosen.values()}
    return [file for file in files if file.path in kept]


class Evaluator(Reader):
    """Evaluates weight files on the test images that their `meta` names, overridden by `pairs`; reads these once."""

    def __init__(self, network: str | None, pairs: list[str], device: torch.device, project: Path | None = None):
        super().__init__(network, pairs, project)
        self.device = device
        self.data_sets: dict[str, Data] = {}  # by their config

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
        meta, cfg = file.meta, self.config_of(file)
        named = self.named(file, cfg)
        data = self.data_of(cfg)
        # A network of more classes than the data has is tested as it is: any class may win, wrong ones included.
        model, classes, rows = self.network_of(file, cfg, named, data.classes)
        columns = None if rows is None else torch.tensor(rows, device=self.device)
        model = model.to(self.device).to(memory_format=torch.channels_last)
        confusion = torch.zeros(2 * [len(classes)], dtype=torch.int64, device=self.device) if per_class else None
        result = evaluate(model, data.test, columns, confusion, title)
        return Evaluation(
            file=file.path,
            dataset=cfg.DATASET.TYPE,
            teacher=meta.get("teacher"),
            student=label(named.name, named.arguments),
            method=meta.get("distiller"),
            seed=cfg.EXPERIMENT.SEED if "SEED" in self._said(file).get("EXPERIMENT", {}) else None,
            epoch=meta.get("epoch"),
            chosen_by=meta.get("chosen_by"),
            is_changed=self.is_changed(file, cfg),
            result=result,
            classes=classes,
            confusion=None if confusion is None else confusion.cpu(),
        )
