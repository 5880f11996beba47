"""The teacher that an evaluated network is compared with: named weights, or those that its run had."""

import os
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.dataset import Data
from mdistiller.distillers import PLAIN_TRAINING, find_method
from mdistiller.errors import UserError
from mdistiller.folder_modules import is_file_reference
from mdistiller.models import canonical_name, model_names

from . import bounds
from .cfg import merge, merge_pairs
from .ensemble import Ensemble
from .networks import NO_ARGUMENTS, SEPARATOR, plain_arguments, split
from .resolve import with_plain_paths
from .runs import saved_config
from .students import WeightFile, name_in_file
from .teachers import fetch_pretrained, sha256_of
from .teaching import each_alone, load_teacher
from .values import read_yaml
from .weights import read_meta

RECORDED = "recorded"  # in the place of a file of weights: those of the run's own teacher
KEYS = "TEACHER", "TEACHER_ARGS", "TEACHER_IMAGE_SIZE", "TEACHER_MEAN", "TEACHER_STD"  # of DISTILLER


class Teacher(NamedTuple):
    """network: images to (logits of the data's classes, features); weights: its files; is_changed: since its run."""

    network: nn.Module
    weights: str
    is_changed: bool


def teacher_of(
    file: WeightFile, wanted: str, cfg: CN, pairs: list[str], models: str, data: Data, project: Path | None
) -> Teacher | None:
    """The teacher of `file`, on the CPU: of the weights `wanted`, several by commas, or RECORDED.

    That is the one that the config beside the log of the file's run tells; None where the run had none. cfg: of the
    evaluation, on `data`; pairs: that override it. models: the dataset of `build_model`. project: whose runs' own
    network files may run. Raises UserError where the teacher is not known, or its weights do not fit.
    """
    told = told_by_run(file) if wanted == RECORDED else told_by_weights(wanted, file.meta.get("teacher"), models)
    if told is None:
        return None
    cfg, source = cfg.clone(), f"the config of the run of {file.path}"
    merge(cfg, {"DISTILLER": {key: told[key] for key in (*KEYS, "TEACHER_WEIGHTS") if key in told}}, source)
    merge_pairs(cfg, pairs)
    chosen = cfg.DISTILLER
    is_here = project is not None and file.path.resolve().is_relative_to(project.resolve())
    may_run = "DISTILLER.TEACHER" in pairs[::2] or (wanted == RECORDED and is_here)
    for name in split(chosen.TEACHER):
        if is_file_reference(name) and not may_run:
            raise UserError(
                f"the teacher of {file.path} is a network in a file, {name}, which is run where you name it: add "
                f"DISTILLER.TEACHER {name}"
            )
    chosen.TEACHER = SEPARATOR.join(canonical_name(models, name) for name in split(chosen.TEACHER))
    chosen.TEACHER_ARGS = plain_arguments(chosen.TEACHER_ARGS, "TEACHER_ARGS", chosen.TEACHER)
    chosen.TEACHER_WEIGHTS = with_plain_paths(chosen.TEACHER_WEIGHTS, chosen.TEACHER)
    bounds.check(cfg, find_method(PLAIN_TRAINING))
    networks, checksums = [], []
    for own in each_alone(cfg):
        path = Path(own.DISTILLER.TEACHER_WEIGHTS)
        fetch_pretrained(path, own.DISTILLER.TEACHER, own.DISTILLER.TEACHER_ARGS)
        network, *_ = load_teacher(own, path, models, data)
        networks.append(network)
        checksums.append(sha256_of(path))
    is_changed = told.get("TEACHER_SHA256", "") not in ("", SEPARATOR.join(checksums))
    return Teacher(networks[0] if len(networks) == 1 else Ensemble(networks), chosen.TEACHER_WEIGHTS, is_changed)


def told_by_run(file: WeightFile) -> dict[str, Any] | None:
    """The section DISTILLER of the run of `file`, or None where that had no teacher."""
    if file.meta.get("distiller") and file.meta.get("teacher") is None:
        return None
    saved = saved_config(file.path, file.meta.get("run", ""))
    own = read_yaml(saved).get("DISTILLER", {}) if saved else {}
    if not (isinstance(own, dict) and own.get("TEACHER_WEIGHTS")):
        raise UserError(f"no log's config tells the weights of the teacher of {file.path}; type --agreement FILE")
    return own


def told_by_weights(wanted: str, recorded: str | None, models: str) -> dict[str, Any]:
    """Keys of DISTILLER for the teacher of the weights `wanted`, as these tell.

    recorded: the label that the student has for its teacher, which is a name for networks of ours.
    """
    paths = [wanted] if os.path.exists(wanted) else split(wanted)
    metas = [read_meta(path) for path in paths]
    names = []
    for path, meta in zip(paths, metas, strict=True):
        name = meta.get("network") or name_in_file(Path(path), models)
        if name is None and recorded in model_names(models):
            name = recorded
        if name is None:
            raise UserError(
                f"{path} does not tell its network; add DISTILLER.TEACHER with one of {', '.join(model_names(models))}"
            )
        names.append(name)
    arguments = metas[0].get("arguments", NO_ARGUMENTS) if len(paths) == 1 else NO_ARGUMENTS
    return {
        "TEACHER": SEPARATOR.join(names),
        "TEACHER_ARGS": arguments,
        "TEACHER_WEIGHTS": SEPARATOR.join(paths),
    }
