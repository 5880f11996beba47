"""Evaluation of finished weight files, and how results are shown."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from mdistiller.dataset import build_data
from mdistiller.errors import UserError
from mdistiller.models import build_model, canonical_name, model_names

from . import cfg as config
from .checkpoint import check_classes, load_weights, read_weights
from .evaluation import Result, evaluate


@dataclass(frozen=True)
class Evaluation:
    """One row of the table."""

    file: Path
    teacher: str
    student: str
    distiller: str
    result: Result


def find_students(utils: Path) -> list[Path]:
    """The students below a Utils folder: each run's best and those under the published name."""
    folders = [utils / "model_distillation_pth", utils / "SDD_model_pth"]
    return [path for folder in folders for path in sorted(folder.rglob("*.pth")) if path.name != "last.pth"]


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


def evaluate_files(files, network: str | None, pairs: list[str], device) -> list[Evaluation | UserError]:
    """Evaluate each weight file on the test images that its `meta` names, or the config, overridden by `pairs`.

    network: the name of the files' network, for files that do not tell. The error of a bad file takes its row's place.
    """
    data_sets: dict[str, object] = {}
    results: list[Evaluation | UserError] = []
    for path in files:
        try:
            results.append(_evaluate_file(Path(path), network, pairs, device, data_sets))
        except UserError as error:
            results.append(error)
    return results


def _evaluate_file(path, network, pairs, device, data_sets):
    _, meta = read_weights(path)
    cfg = config.CFG.clone()
    source = f"the meta of {path}"
    config.merge(cfg, config.parse_yaml(meta.get("config", ""), source), source, allow_new_sections=True)
    config.merge_pairs(cfg, pairs)
    config.check(cfg)
    models = meta.get("models", "cifar100")
    name = network or meta.get("network") or name_in_file(path, models)
    if name is None:
        raise UserError(f"{path} does not tell its network; add --model with one of {', '.join(model_names(models))}")
    name = canonical_name(models, name)

    key = config.dump(cfg.DATASET)
    if key not in data_sets:
        data_sets[key] = build_data(cfg, device, cfg.EXPERIMENT.SEED, splits=("test",))
    data = data_sets[key]
    model = build_model(models, name, data.num_classes)
    check_classes(load_weights(model, path, name), data.classes, path)
    result = evaluate(model.to(device, memory_format=torch.channels_last), data.test)
    return Evaluation(path, meta.get("teacher", "-"), name, meta.get("distiller", "-"), result)


def format_table(evaluations: list[Evaluation]) -> str:
    """The evaluations as an aligned table."""
    rows = [("file", "teacher", "student", "distiller", "top-1", "top-5", "loss", "images")]
    for item in evaluations:
        result = item.result
        accuracies = f"{result.top1:.2f}", f"{result.top5:.2f}", f"{result.loss:.4f}", str(result.images)
        rows.append((shown(item.file), item.teacher, item.student, item.distiller, *accuracies))
    return align(rows)


def align(rows: list[tuple[str, ...]]) -> str:
    """Rows of text as columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def shown(path: Path) -> str:
    """A path as a user would type it: relative where it lies below the working directory."""
    path = Path(path)
    return str(path.resolve().relative_to(Path.cwd()) if path.resolve().is_relative_to(Path.cwd()) else path)
