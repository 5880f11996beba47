"""Which weight files `test.py` evaluates: those it finds, those that are named."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdistiller import models
from mdistiller.errors import UserError

from .ending import tell
from .evaluate import Evaluator
from .index import BENCHMARKS
from .lines import count
from .networks import NO_ARGUMENTS
from .runs import BASELINE_FOLDERS, BEST, STATES, student_weights
from .students import WeightFile, weight_file
from .teachers import fetch_pretrained, pretrained_teacher


def files_to_evaluate(project: Path, flags: argparse.Namespace, evaluator: Evaluator) -> list[WeightFile]:
    """The files that `flags` name, else all below `project` that they ask for. Raises UserError for none."""
    if flags.checkpoint or flags.model:
        if flags.all:
            raise UserError("--all has no effect on named files; leave it out")
        paths = list(map(Path, flags.checkpoint or [])) or [pretrained_network(flags.model, flags.dataset)]
        for path in paths:
            if paths.count(path) > 1:
                raise UserError(f"--checkpoint names {path} twice; leave one out")
        return [named_file(path, flags.dataset) for path in paths]
    files = find_weights(project, flags.dataset, flags.all)
    found = len(files)
    if flags.dataset and (left_out := found - len(files := evaluator.of_same_data(files))):
        tell(f"{count(left_out, 'file')} of other images left out")
    if not files:
        kind = flags.dataset or "synthetic"
        folder = BENCHMARKS[kind if kind in BENCHMARKS else "cifar100"].folder
        root = " DATASET.ROOT FOLDER" if kind == "folder" else ""
        example = {"synthetic": " --demo"}.get(kind, "" if kind in BENCHMARKS else f" DATASET.TYPE {kind}{root}")
        on = f" on {flags.dataset}" if flags.dataset else ""
        if others := sorted({file.dataset for file in find_weights(project)}):
            on += f" (there are some on {', '.join(others)})"
        raise UserError(
            f"no students{on} in {project}; distil one (python {folder}/Utils/distillation_train.py{example}) or name "
            "a file with --checkpoint"
        )
    return files


def named_file(path: Path, dataset: str | None) -> WeightFile:
    """The file at `path`, trained on `dataset` where it does not tell. Raises UserError where it tells of another."""
    file = weight_file(path, dataset or BENCHMARKS["cifar100"].models)
    if dataset not in (None, file.dataset):
        raise UserError(
            f"{path} was trained on data of type {file.dataset}, not {dataset}; leave out --dataset, or type "
            f"DATASET.TYPE {dataset} to evaluate it there"
        )
    return file


def pretrained_network(name: str, dataset: str | None) -> Path:
    """The pretrained weights of an ImageNet network, downloaded where they are missing."""
    if dataset != "imagenet":
        raise UserError(
            f"--model {name} needs --checkpoint FILE, the weights to evaluate, or --dataset imagenet for its own"
        )
    name = models.canonical_name("imagenet", name)
    path = pretrained_teacher(name, NO_ARGUMENTS, dataset)
    fetch_pretrained(path, name)
    return path


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
