"""From what a user chose to the config that runs: read once, filled, checked and frozen here."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from mdistiller import distillers, models
from mdistiller.dataset import fill_defaults
from mdistiller.errors import UserError

from . import cfg as config
from .effects import check_effects
from .index import Benchmark
from .precision import fastest_settings
from .runs import CONFIGS
from .values import read_yaml

PLAIN_TRAINING = "NONE"
ROLES = {"TYPE": "distiller", "STUDENT": "student", "TEACHER": "teacher"}


def distillation_config(benchmark: Benchmark, flags: Any, device: torch.device) -> CN:
    """The config of a distillation run: defaults, preset or --cfg, flags, KEY VALUE pairs, in that order.

    flags: of the command line, indices or names in `selected_*`. Raises UserError for what no run can use.
    """
    in_file = read_yaml(flags.cfg) if flags.cfg else None
    indices: dict[str, Mapping[int, str] | Sequence[str]]
    indices = {"TYPE": benchmark.distillers, "STUDENT": benchmark.students, "TEACHER": benchmark.teachers}
    chosen = {
        key: pick(role, getattr(flags, f"selected_{role}"), key, in_file, flags.pairs, indices[key], benchmark)
        for key, role in ROLES.items()
    }
    preset = find_preset(benchmark, chosen["TYPE"], chosen["TEACHER"], chosen["STUDENT"])
    return resolved(benchmark, flags, device, in_file, preset, chosen)


def baseline_config(benchmark: Benchmark, flags: Any, device: torch.device) -> CN:
    """The config of plain training of one network, by the same order of precedence."""
    in_file = read_yaml(flags.cfg) if flags.cfg else None
    kind = given("TYPE", None, in_file, flags.pairs)
    if kind is not None and (kind.isdigit() or distillers.find_method(kind).needs_teacher):
        raise UserError(
            f"DISTILLER.TYPE is {kind}, and train.py trains without a teacher; type {benchmark.folder}/Utils/"
            "distillation_train.py to distil, or leave it out"
        )
    network = pick("model", flags.selected_model, "STUDENT", in_file, flags.pairs, benchmark.students, benchmark)
    chosen = {"TYPE": PLAIN_TRAINING, "STUDENT": network}
    return resolved(benchmark, flags, device, in_file, find_preset(benchmark, PLAIN_TRAINING, None, network), chosen)


def resolved(
    benchmark: Benchmark,
    flags: Any,
    device: torch.device,
    in_file: dict[str, Any] | None,
    preset: Path,
    chosen: dict[str, str],
) -> CN:
    """The frozen config: names canonical, keys that the data decides filled, paths absolute, values checked.

    in_file: what the --cfg file says, in place of `preset`; chosen: canonical names, keys of DISTILLER.
    """
    method = distillers.find_method(chosen["TYPE"])
    cfg = config.config_for(method)
    values, source = (read_yaml(preset), preset) if in_file is None else (in_file, flags.cfg)
    config.merge(cfg, values, f"config {source}", method.takes_new_sections)
    if flags.seed is not None:
        cfg.EXPERIMENT.SEED = flags.seed
    if flags.fast:
        cfg.SOLVER.update(fastest_settings(device))
    if getattr(flags, "teacher_weights", None):
        cfg.DISTILLER.TEACHER_WEIGHTS = flags.teacher_weights
    config.merge_pairs(cfg, flags.pairs, method.takes_new_sections)
    cfg.DISTILLER.update(chosen)
    cfg.DISTILLER.TEACHER = models.canonical_name(benchmark.models, cfg.DISTILLER.TEACHER)
    fill_defaults(cfg.DATASET)
    cfg.DATASET.ROOT = str(Path(cfg.DATASET.ROOT).resolve())
    if cfg.DISTILLER.TEACHER_WEIGHTS:
        cfg.DISTILLER.TEACHER_WEIGHTS = str(Path(cfg.DISTILLER.TEACHER_WEIGHTS).resolve())
    config.check(cfg, method)
    check_effects(cfg, method, in_file or {}, flags.pairs[::2])
    cfg.freeze()
    return cfg


def find_preset(benchmark: Benchmark, method: str, teacher: str | None, student: str) -> Path:
    """The YAML of a method and pair, else of the method, else (one without a YAML) of plain training."""
    name = distillers.find_method(method).__name__
    folder, plain = CONFIGS / benchmark.models, distillers.find_method(PLAIN_TRAINING).__name__
    candidates = [folder / f"{name}-{teacher}-{student}.yaml", folder / f"{name}.yaml"]
    return next((path for path in candidates if path.is_file()), folder / f"{plain}.yaml")


def pick(
    role: str,
    flag: str | None,
    key: str,
    in_file: dict[str, Any] | None,
    pairs: Sequence[str],
    choices: Mapping[int, str] | Sequence[str],
    benchmark: Benchmark,
) -> str:
    """The canonical name that DISTILLER.`key` of the pairs selects, else the flag, else the --cfg file, else index 0.

    Each may be an index or a name. choices: names by index. Raises UserError, listing the valid ones, for another.
    """
    by_name: Callable[[str], str] = distillers.canonical_name
    if key != "TYPE":
        by_name = partial(models.canonical_name, benchmark.models)
    choice = given(key, flag, in_file, pairs) or "0"
    if not re.fullmatch(r"[+-]?[0-9]+", choice):
        return by_name(choice)
    by_index = choices if isinstance(choices, Mapping) else dict(enumerate(choices))
    if int(choice) not in by_index:
        valid = ", ".join(f"{index} {name}" for index, name in by_index.items())
        raise UserError(f"unknown {role} index {choice}; valid: {valid}")
    return by_name(by_index[int(choice)])


def given(key: str, flag: str | None, in_file: dict[str, Any] | None, pairs: Sequence[str]) -> str | None:
    """What DISTILLER.`key` of the pairs says, else the flag, else the --cfg file; None where none says anything."""
    section = (in_file or {}).get("DISTILLER")
    of_file = section.get(key) if isinstance(section, dict) else None
    of_pairs = dict(zip(pairs[::2], pairs[1::2], strict=False)).get(f"DISTILLER.{key}")
    return next((str(value) for value in (of_pairs, flag, of_file) if value not in (None, "")), None)
