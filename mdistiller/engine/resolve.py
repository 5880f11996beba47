"""From what a user chose to the config that runs: read once, filled, checked and frozen here."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from mdistiller import distillers, models
from mdistiller.dataset import fill_defaults
from mdistiller.distillers import PLAIN_TRAINING
from mdistiller.errors import UserError

from . import bounds
from . import cfg as config
from .effects import check_effects
from .index import Benchmark
from .networks import PRETRAINED, SEPARATOR, label, plain_arguments, split, without_tag
from .precision import fastest_settings
from .runs import CONFIGS
from .values import Layers, read_layers


@dataclass(frozen=True)
class Choices:
    """What a user chose, as the scripts' flags say it: networks and method by index or name, None for the default."""

    selected_student: str | int | None = None
    selected_teacher: str | int | None = None
    selected_distiller: str | int | None = None
    selected_model: str | int | None = None  # of plain training
    cfg: str | Path | None = None  # a YAML file, in place of the preset
    seed: int | None = None
    fast: bool = False
    teacher_weights: str | Path | None = None
    pairs: Sequence[str] = ()  # KEY, VALUE, …

    @property
    def typed(self) -> dict[str, str]:
        """The pairs, value by dotted key."""
        return dict(zip(self.pairs[::2], self.pairs[1::2], strict=False))


def distillation_config(benchmark: Benchmark, choices: Choices, device: torch.device) -> CN:
    """The config of a distillation run: defaults, preset or --cfg, flags, KEY VALUE pairs, in that order.

    Raises UserError for what no run can use.
    """
    layers = read_layers(choices.cfg, config.TEXT_KEYS) if choices.cfg else []
    method = pick("distiller", given("TYPE", choices.selected_distiller, layers, choices), benchmark)
    student = pick("student", given("STUDENT", choices.selected_student, layers, choices), benchmark)
    teacher = pick("teacher", given("TEACHER", choices.selected_teacher, layers, choices), benchmark)
    chosen = {"TYPE": method, "STUDENT": student, "TEACHER": teacher}
    return resolved(benchmark, choices, device, layers, chosen)


def baseline_config(benchmark: Benchmark, choices: Choices, device: torch.device) -> CN:
    """The config of plain training of one network, by the same order of precedence."""
    layers = read_layers(choices.cfg, config.TEXT_KEYS) if choices.cfg else []
    kind = given("TYPE", None, layers, choices)
    if kind is not None and (kind.isdigit() or distillers.find_method(kind).needs_teacher):
        raise UserError(
            f"DISTILLER.TYPE is {kind}, and train.py trains without a teacher; type {benchmark.folder}/Utils/"
            "distillation_train.py to distil, or leave it out"
        )
    network = pick("model", given("STUDENT", choices.selected_model, layers, choices), benchmark)
    return resolved(benchmark, choices, device, layers, {"TYPE": PLAIN_TRAINING, "STUDENT": network})


def resolved(
    benchmark: Benchmark, choices: Choices, device: torch.device, layers: Layers, chosen: dict[str, str]
) -> CN:
    """The frozen config: names canonical, keys that the data decides filled, paths absolute, values checked.

    layers: of the --cfg file, in place of the preset; chosen: canonical names, keys of DISTILLER.
    """
    method = distillers.find_method(chosen["TYPE"])
    cfg = config.config_for(method)
    for path, values in layers or read_layers(find_preset(benchmark, method, chosen), config.TEXT_KEYS):
        config.merge(cfg, values, f"config {path}", method.takes_new_sections, method.mentions)
    if choices.seed is not None:
        cfg.EXPERIMENT.SEED = choices.seed
    if choices.fast:
        cfg.SOLVER.update(fastest_settings(device))
    for role in ("STUDENT", "TEACHER"):
        theirs = given(role, None, layers, Choices())
        if theirs and role in chosen and pick(role.lower(), theirs, benchmark) != chosen[role]:
            for key in [key for key in cfg.DISTILLER if key.startswith(f"{role}_")]:
                cfg.DISTILLER[key] = config.CFG.DISTILLER[key]  # as they are of the --cfg file's own network
    if choices.teacher_weights:
        cfg.DISTILLER.TEACHER_WEIGHTS = str(choices.teacher_weights)
    config.merge_pairs(cfg, choices.pairs, method.takes_new_sections, method.mentions)
    cfg.DISTILLER.update(chosen)
    cfg.DISTILLER.TEACHER = pick("teacher", cfg.DISTILLER.TEACHER, benchmark)
    bounds.check(cfg, method)  # before what follows takes any path or number for good
    for role in ("STUDENT", "TEACHER"):
        key = f"{role}_ARGS"
        cfg.DISTILLER[key] = plain_arguments(cfg.DISTILLER[key], key, cfg.DISTILLER[role])
    fill_defaults(cfg.DATASET, benchmark.side)
    cfg.DATASET.ROOT = str(Path(cfg.DATASET.ROOT).resolve())
    cfg.DISTILLER.TEACHER_WEIGHTS = with_plain_paths(cfg.DISTILLER.TEACHER_WEIGHTS, cfg.DISTILLER.TEACHER)
    if cfg.DISTILLER.STUDENT_WEIGHTS not in ("", PRETRAINED):
        cfg.DISTILLER.STUDENT_WEIGHTS = os.path.realpath(cfg.DISTILLER.STUDENT_WEIGHTS)
    check_effects(cfg, method, {section for _, values in layers for section in values}, choices.typed)
    cfg.freeze()
    return cfg


def with_plain_paths(weights: str, teachers: str) -> str:
    """The files of weights with absolute paths, one for each of `teachers`. Raises UserError for another number."""
    names, paths = split(teachers), [weights]
    if len(names) > 1 and weights:
        paths = [PRETRAINED] * len(names) if weights == PRETRAINED else split(weights)
        if len(paths) != len(names):
            raise UserError(
                f"DISTILLER.TEACHER_WEIGHTS has {len(paths)} and there are {len(names)} teachers; name a file for "
                f"each, with commas between, or {PRETRAINED}"
            )
    return SEPARATOR.join(path if path in ("", PRETRAINED) else os.path.realpath(path) for path in paths)


def find_preset(benchmark: Benchmark, method: type[distillers.Distiller], chosen: dict[str, str]) -> Path:
    """The YAML of a method and pair, else of the method and student, else of the method, else of plain training.

    A user's file has none of its own: what ships for a method that happens to have its name is not for it.
    """
    plain = distillers.find_method(PLAIN_TRAINING).__name__
    name = plain if method.takes_new_sections else method.__name__
    teacher, student = (label(without_tag(chosen.get(role, ""))) for role in ("TEACHER", "STUDENT"))
    pair, student = f"{name}-{teacher}-{student}", f"{name}-{student}"
    candidates = [CONFIGS / benchmark.models / f"{stem}.yaml" for stem in (pair, student, name, plain)]
    return next((path for path in candidates if path.is_file()), candidates[-1])


def given(key: str, flag: str | int | None, layers: Layers, choices: Choices) -> str | None:
    """What DISTILLER.`key` of the pairs says, else the flag, else the --cfg file; None where none says anything."""
    said = [choices.typed.get(f"DISTILLER.{key}"), flag]
    for _, values in reversed(layers):
        section = values.get("DISTILLER")
        said.append(section.get(key) or None if isinstance(section, dict) else None)
    return next((str(value) for value in said if value is not None), None)


def pick(role: str, choice: str | None, benchmark: Benchmark) -> str:
    """The canonical name that `choice` says, an index or a name; without one that of index 0.

    role: "student", "teacher", "model" or "distiller". Raises UserError, listing the valid ones, for another.
    """
    choice = "0" if choice is None else choice
    if role == "teacher" and SEPARATOR in choice:
        return SEPARATOR.join(pick(role, each, benchmark) for each in split(choice))
    by_name: Callable[[str], str] = partial(models.canonical_name, benchmark.models)
    by_index = dict(enumerate(benchmark.teachers if role == "teacher" else benchmark.students))
    if role == "distiller":
        by_name, by_index = distillers.canonical_name, benchmark.distillers
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", choice):
        return by_name(choice)
    if int(choice) not in by_index:
        valid = ", ".join(f"{index} {name}" for index, name in by_index.items())
        raise UserError(f"unknown {role} index {choice}; valid: {valid}")
    return by_name(by_index[int(choice)])
