"""Evaluation of finished weight files, and how results are shown."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mdistiller.dataset import Data, build_data, fill_defaults
from mdistiller.distillers import PLAIN_TRAINING, find_method
from mdistiller.errors import UserError
from mdistiller.models import build_model, canonical_name, model_names

from . import cfg as config
from .effects import check_evaluation
from .index import BENCHMARKS, CIFAR100
from .metrics import Result, evaluate
from .runs import shown, student_weights
from .values import dump, parse_yaml
from .weights import load_weights, read_weights, rows_of, weights_classes


@dataclass(frozen=True)
class Evaluation:
    """One row of the table."""

    file: Path
    teacher: str
    student: str
    distiller: str
    result: Result


def find_students(project: Path, dataset: str | None = None) -> list[Path]:
    """The students below the scripts' folders in `project`: each run's best and those under the published name.

    dataset: "cifar100" or "imagenet", the students of its scripts; "tiny_imagenet", of either, those trained on it.
    """
    benchmarks = [BENCHMARKS[dataset]] if dataset in BENCHMARKS else BENCHMARKS.values()
    found = [path for benchmark in benchmarks for path in student_weights(project / benchmark.folder / "Utils")]
    if dataset == "tiny_imagenet":
        found = [path for path in found if trained_on(path) == dataset]
    return found


def trained_on(path: Path) -> str | None:
    """DATASET.TYPE that a weight file's `meta` names."""
    try:
        return read_weights(path)[1].get("dataset", {}).get("type")
    except UserError:
        return None


def name_in_file(path: Path, models: str) -> str | None:
    """The network that a published file name, `best_model_weights_{network}[_{distiller}].pth`, tells."""
    match = re.fullmatch(r"best_model_weights_(.+)", path.stem)
    parts = match[1].split("_") if match else []
    for length in range(len(parts), 0, -1):
        try:
            return canonical_name(models, "_".join(parts[:length]))
        except UserError:
            continue
    return None


def evaluate_files(
    files: Iterable[str | Path], network: str | None, dataset: str | None, pairs: list[str], device: torch.device
) -> list[Evaluation | UserError]:
    """Evaluate each weight file on the test images that its `meta` names, else `dataset`'s, overridden by `pairs`.

    network: the name of the files' network, for files that do not tell. The error of a bad file takes its row's place.
    """
    data_sets: dict[str, Data] = {}
    results: list[Evaluation | UserError] = []
    for path in files:
        try:
            results.append(evaluate_file(Path(path), network, dataset, pairs, device, data_sets))
        except UserError as error:
            results.append(error)
    return results


def evaluate_file(
    path: Path,
    network: str | None,
    dataset: str | None,
    pairs: list[str],
    device: torch.device,
    data_sets: dict[str, Data],
) -> Evaluation:
    """As `evaluate_files`, for one file. data_sets: what was read before, by its config; what is read is added."""
    state_dict, meta = read_weights(path)
    plain = find_method(PLAIN_TRAINING)
    cfg = config.config_for(plain)
    if dataset:
        cfg.DATASET.TYPE = dataset
    source = f"the meta of {path}"
    config.merge(cfg, parse_yaml(meta.get("config", ""), source), source, allow_new_sections=True)
    config.merge_pairs(cfg, pairs)
    fill_defaults(cfg.DATASET)
    config.check(cfg, plain)
    check_evaluation(pairs[::2])
    models = meta.get("models", BENCHMARKS.get(cfg.DATASET.TYPE, CIFAR100).models_for(cfg.DATASET.TYPE))
    name = network or meta.get("network") or name_in_file(path, models)
    if name is None:
        raise UserError(f"{path} does not tell its network; add --model with one of {', '.join(model_names(models))}")
    name = canonical_name(models, name)

    key = dump(cfg.DATASET)
    if key not in data_sets:
        data_sets[key] = build_data(cfg, device, cfg.EXPERIMENT.SEED, splits=("test",))
    data = data_sets[key]
    # A network that scores more classes than the data has is tested as it is: any class may win, wrong ones included.
    model, classes, columns = build_model(models, name, data.num_classes), data.classes, None
    known = weights_classes(state_dict, meta, model)
    if known is not None and (rows := rows_of(classes, known)):
        model, classes, columns = build_model(models, name, len(known)), known, torch.tensor(rows, device=device)
    load_weights(model, path, name, classes)
    result = evaluate(model.to(device).to(memory_format=torch.channels_last), data.test, columns)
    return Evaluation(path, meta.get("teacher", "-"), name, meta.get("distiller", "-"), result)


def format_table(evaluations: Iterable[Evaluation]) -> str:
    """The evaluations as an aligned table."""
    rows: list[tuple[str, ...]] = [("file", "teacher", "student", "distiller", "top-1", "top-5", "loss", "images")]
    for item in evaluations:
        result = item.result
        accuracies = f"{result.top1:.2f}", f"{result.top5:.2f}", f"{result.loss:.4f}", str(result.images)
        rows.append((shown(item.file), item.teacher, item.student, item.distiller, *accuracies))
    return align(rows)


def align(rows: Sequence[tuple[str, ...]]) -> str:
    """Rows of text as columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
