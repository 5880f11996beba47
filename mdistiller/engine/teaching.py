"""The teacher of a run: one network or several, with their weights, that see images as they were trained on them."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.dataset import DATASETS, Data
from mdistiller.errors import UserError
from mdistiller.models import build_model
from mdistiller.models.folding import fold_batch_norms
from mdistiller.models.others import is_other

from .cfg import changed
from .distributed import Processes
from .ensemble import Ensemble
from .index import Benchmark
from .metrics import evaluate
from .networks import SEPARATOR, arguments_of, label, split
from .provenance import describe_data
from .sight import Seeing, Sight
from .teachers import fetch_pretrained, find_teacher_weights, pretrained_file, sha256_of, warnings_of
from .weights import load_weights, read_meta


def build_teacher(
    cfg: CN, benchmark: Benchmark, data: Data, utils: Path, device: torch.device, processes: Processes
) -> tuple[CN, nn.Module, float, list[str]]:
    """The teacher that `cfg` names, on `device`; beside it `cfg` with its weights found, its top-1, and notes.

    Raises UserError for weights that are missing, or are another network's.
    """
    dataset = describe_data(cfg, data)["dataset"] | {"num_classes": data.num_classes}
    paths, networks, metas, notes = [], [], [], []
    for own in each_alone(cfg):
        path, passed_over = processes.first(partial(find_teacher_weights, benchmark, own, utils, dataset))
        with processes.in_turn():
            fetch_pretrained(path, own.DISTILLER.TEACHER, own.DISTILLER.TEACHER_ARGS)
        network, meta, note = load_teacher(own, path, benchmark.models_for(cfg.DATASET.TYPE), data)
        paths.append(str(path))
        networks.append(network)
        metas.append(meta)
        notes += passed_over + note
    teacher = networks[0] if len(networks) == 1 else Ensemble(networks)
    top1 = evaluate(teacher.to(device), data.val or data.test, processes=processes).top1
    sha256 = SEPARATOR.join(map(sha256_of, paths))
    notes += warnings_of(cfg, metas, dataset, top1, sha256)
    cfg = changed(cfg, "DISTILLER.TEACHER_WEIGHTS", SEPARATOR.join(paths))
    return changed(cfg, "DISTILLER.TEACHER_SHA256", sha256), teacher, top1, notes


def each_alone(cfg: CN) -> list[CN]:
    """`cfg` with each of its teachers alone."""
    names = split(cfg.DISTILLER.TEACHER)
    if len(names) == 1:
        return [cfg]
    weights = split(cfg.DISTILLER.TEACHER_WEIGHTS) if cfg.DISTILLER.TEACHER_WEIGHTS else [""] * len(names)
    alone = [changed(cfg, "DISTILLER.TEACHER", name) for name in names]
    return [changed(own, "DISTILLER.TEACHER_WEIGHTS", path) for own, path in zip(alone, weights, strict=True)]


def load_teacher(cfg: CN, path: Path, models: str, data: Data) -> tuple[nn.Module, dict[str, Any], list[str]]:
    """The one teacher of `cfg` with the weights at `path`, what these tell, and notes. models: as of `build_model`."""
    name, text = cfg.DISTILLER.TEACHER, cfg.DISTILLER.TEACHER_ARGS
    meta = read_meta(path)
    theirs = meta.get("arguments", text) if meta.get("network") == name else text
    if is_other(name) and theirs != text:
        raise UserError(
            f"weights {path} are of {name} with other arguments than {text}; type DISTILLER.TEACHER_ARGS '{theirs}'"
        )
    given = Sight(data.image_size, tuple(data.mean), tuple(data.std))
    if path == pretrained_file(name):
        imagenet = DATASETS["imagenet"]
        own = Sight(imagenet.image_size, imagenet.mean, imagenet.std)
    else:
        own = given.over(meta)
    own = Sight(
        cfg.DISTILLER.TEACHER_IMAGE_SIZE or own.image_size,
        tuple(cfg.DISTILLER.TEACHER_MEAN) or own.mean,
        tuple(cfg.DISTILLER.TEACHER_STD) or own.std,
    )
    arguments = arguments_of(text, "DISTILLER.TEACHER_ARGS", name)
    network = build_model(models, name, data.num_classes, arguments, own.image_size)
    load_weights(network, path, name, data.classes)
    if own == given:
        return network, meta, []
    return Seeing(network, own, given), meta, [f"The teacher {label(name, text)} sees images of {own}"]


def folded(teacher: nn.Module) -> nn.Module:
    """A copy of `teacher` for inference, the batch norms of each of its networks folded."""
    if isinstance(teacher, Ensemble):
        return Ensemble([folded(network) for network in teacher.networks]).eval()
    if isinstance(teacher, Seeing):
        return Seeing(folded(teacher.network), teacher.own, teacher.given).eval()
    return fold_batch_norms(teacher)
