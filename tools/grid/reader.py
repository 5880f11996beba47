"""Reading of a grid's YAML file."""

import itertools
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mdistiller.checks import SEED, brief, number
from mdistiller.distillers import DISTILLERS, PLAIN_TRAINING, Distiller, canonical_name, find_method
from mdistiller.engine.cfg import CFG, SHARED_SECTIONS
from mdistiller.engine.index import BENCHMARKS, Benchmark
from mdistiller.engine.networks import label
from mdistiller.engine.resolve import pick
from mdistiller.engine.values import as_text, leaves, read_yaml
from mdistiller.errors import UserError, nearest

from .plan import Cell, Grid, Part, short
from .run import Run, find_preset

OF_PART = "title", "keys", "pairs", "methods", "seeds", "sweep", "published"
OF_GRID = *OF_PART, "benchmark", "parts"
OF_PAIR = "student", "teacher", "teacher_weights", "keys"
OF_METHOD = "name", "label", "preset", "keys"
SOURCE = "source"  # of the published numbers, beside the pairs
PLAIN, KD = "plain student", "KD"  # what the others are compared with
TEACHER_WEIGHTS = "DISTILLER.TEACHER_WEIGHTS"
MOST_RUNS = 10_000
ARROW = " \N{RIGHTWARDS ARROW} "
VARIABLE = re.compile(r"\$(\w+|\{\w+\})")  # of the environment
EXAMPLES = {"pairs": "[{student: resnet20, teacher: resnet56}]", "methods": "[NONE, KD, SKD]", "seeds": "[2021, 1, 2]"}


def read_grid(path: str | Path, typed: Mapping[str, str], project: Path) -> Grid:
    """The grid in the YAML file `path`, the config of every run resolved.

    typed: dotted keys of the command line, over all that the file says; project: holds the scripts' folders.
    Raises UserError for what no run can use.
    """
    values, path = read_yaml(path), Path(path)
    known(values, OF_GRID, str(path))
    name = values.get("benchmark", "cifar100")
    if not isinstance(name, str) or name not in BENCHMARKS:
        raise UserError(f"benchmark in {path} is {brief(repr(name))}; expected one of {', '.join(BENCHMARKS)}")
    parts = values.get("parts", [{}])
    if not isinstance(parts, list) or not parts:
        raise UserError(f"parts in {path} is {brief(repr(parts))}; expected a list of mappings")
    shared = {key: value for key, value in values.items() if key not in ("benchmark", "parts")}
    readers = []
    for index, part in enumerate(parts, 1):
        where = f"{path}, part {index}" if "parts" in values else str(path)
        known(part, OF_PART, where)
        keys = keys_of(shared, where) | keys_of(part, where)
        readers.append(Reader({**shared, **part, "keys": keys}, where, BENCHMARKS[name], typed, project))
    if sum(reader.most_runs for reader in readers) > MOST_RUNS:
        raise UserError(f"{path} makes more than {MOST_RUNS:,} runs; leave some methods, pairs, seeds or values out")
    grid = Grid(path.stem, text(values.get("title", path.stem), f"title in {path}"))
    grid.parts = [reader.read() for reader in readers]
    used = {section for part in grid.parts for cell in part.cells for section in cell.runs[0].config}
    for key in typed:
        if key.split(".")[0] not in used or not any(reads(kind, key) for reader in readers for kind in reader.kinds):
            refuse(key, str(path))
    return grid


class Reader:
    """What one part of a grid says.

    values: its own over those of the whole grid; where: what messages call it.
    """

    def __init__(
        self, values: dict[str, Any], where: str, benchmark: Benchmark, typed: Mapping[str, str], project: Path
    ):
        self.values, self.where, self.benchmark, self.typed, self.project = values, where, benchmark, typed, project
        self.pairs = [self.entry(each, OF_PAIR, "pairs", "student") for each in self.items("pairs")]
        methods = [each if isinstance(each, dict) else {"name": each} for each in self.items("methods")]
        methods = [self.entry(each, OF_METHOD, "methods", "name") for each in methods]
        self.kinds = [find_method(each["name"]) for each in methods]
        self.methods = {label_of(each): each for each in methods}
        names = [label_of(each) for each in methods]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"two methods in {where} are called {twice[0]!r}; give one of them a label")
        self.seeds = self.items("seeds")
        for seed in self.seeds:
            SEED.require(f"an entry of seeds in {where}", seed)
        if len({*self.seeds}) < len(self.seeds):
            raise UserError(f"seeds in {where} has one twice: {brief(self.seeds)}; leave it out")
        sweep = keys_of(values, where, "sweep")
        self.sweep = {key: list(each) if isinstance(each, list) else [each] for key, each in sweep.items()}
        if empty := [key for key, each in self.sweep.items() if not each]:
            raise UserError(f"sweep in {where} has no values for {empty[0]}; expected a list such as [0, 0.1]")

    @property
    def most_runs(self) -> int:
        settings = math.prod(len(values) for values in self.sweep.values())
        return len(self.pairs) * len(self.methods) * len(self.seeds) * settings

    def items(self, key: str) -> list[Any]:
        """The list under `key`. Raises UserError where there is none."""
        values = self.values.get(key)
        values = [values] if isinstance(values, (str, int, dict)) else values
        if not isinstance(values, list) or not values:
            told = "is missing" if values is None else f"is {brief(repr(values))}"
            raise UserError(f"{key} in {self.where} {told}; expected a list such as {EXAMPLES[key]}")
        return values

    def entry(self, values: Any, keys: tuple[str, ...], what: str, needed: str) -> dict[str, Any]:
        """An entry of the list `what`, checked: text, and its `keys`."""
        where = f"an entry of {what} in {self.where}"
        known(values, keys, where)
        if needed not in values:
            raise UserError(f"{where} has no {needed}: {brief(values)}; expected a list such as {EXAMPLES[what]}")
        of_text = {key: text(value, f"{key} of {where}") for key, value in values.items() if key != "keys"}
        return {**of_text, "keys": keys_of(values, where)}

    def read(self) -> Part:
        """The part, with published numbers in its cells."""
        cells = [cell for pair in self.pairs for name in self.methods for cell in self.cells(pair, name)]
        published = self.published()
        for cell in cells:
            cell.published = published.get((cell.pair, cell.method))
        if unread := {*self.sweep} - {key for kind in self.kinds for key in self.sweep if reads(kind, key)}:
            refuse(min(unread), self.where)
        references = {what: what for what in (PLAIN, KD) if what in self.methods}
        source = self.values.get("published", {}).get(SOURCE)
        title = text(self.values.get("title", self.where), f"title in {self.where}")
        return Part(title, cells, references, text(source, f"published.{SOURCE} in {self.where}") if source else "")

    def cells(self, pair: dict[str, Any], name: str) -> Iterator[Cell]:
        """Those of a method and a pair, one for each setting that the method can have."""
        method = self.methods[name]
        kind = find_method(method["name"])
        if kind.needs_teacher and "teacher" not in pair:
            raise UserError(f"{name} in {self.where} needs a teacher, and an entry of pairs has none: {brief(pair)}")
        networks = {role: pick(role, pair.get(role), self.benchmark) for role in ("student", "teacher")}
        title = ARROW.join(label(networks[role]) for role in ("teacher", "student") if role in pair)
        fixed = {**method["keys"], **self.typed}
        axes = {key: values for key, values in self.sweep.items() if reads(kind, key) and key not in fixed}
        weights = pair.get("teacher_weights") if kind.needs_teacher and TEACHER_WEIGHTS not in self.typed else None
        weights = weights and self.expanded(TEACHER_WEIGHTS, weights)
        file = find_preset(self.benchmark, method["preset"], networks) if "preset" in method else None
        for values in itertools.product(*axes.values()):
            setting = {key: as_typed(value) for key, value in zip(axes, values, strict=True)}
            keys = {**self.values["keys"], **pair["keys"], **setting}
            keys = {key: value for key, value in keys.items() if reads(kind, key)} | method["keys"]
            keys = {key: self.expanded(key, as_typed(each)) for key, each in keys.items() if key not in self.typed}
            keys |= {key: value for key, value in self.typed.items() if reads(kind, key)}
            cell = Cell(title, name, setting, [])
            of_networks = networks, weights, file, keys
            run = Run.of(
                f"{title}, {cell.name}", self.benchmark, self.project, canonical_name(method["name"]), *of_networks
            )
            cell.runs = [run.with_seed(seed) for seed in self.seeds]
            yield cell

    def expanded(self, key: str, value: str) -> str:
        """`value` with variables of the environment. Raises UserError for one that is not set."""
        value = os.path.expandvars(value)
        if missing := VARIABLE.search(value):
            raise UserError(
                f"{key} in {self.where} is {brief(value)}, and {missing[1].strip('{}')} is not set; export it, or type "
                f"{key} and its value"
            )
        return value

    def published(self) -> dict[tuple[str, str], float]:
        """Published numbers by pair and method, as cells name them."""
        values, found = self.values.get("published") or {}, {}
        if not isinstance(values, dict):
            raise UserError(
                f"published in {self.where} is {brief(repr(values))}; expected TEACHER-STUDENT: {{KD: 70.5}}"
            )
        for pair, numbers in values.items():
            if pair == SOURCE:
                continue
            where = f"published.{pair} in {self.where}"
            if not isinstance(numbers, dict):
                raise UserError(f"{where} is {brief(repr(numbers))}; expected a mapping such as {{KD: 70.5}}")
            names = dict(zip(("teacher", "student"), pair.rpartition("-")[::2], strict=True))
            title = ARROW.join(label(pick(role, name, self.benchmark)) for role, name in names.items() if name)
            for name, value in numbers.items():
                number(0, 100).require(f"{name} of {where}", value)
                found[title, name if name in self.methods else label_of({"name": name, "keys": {}})] = float(value)
        return found


def label_of(method: dict[str, Any]) -> str:
    """What a method is called in tables."""
    name = PLAIN if canonical_name(method["name"]) == PLAIN_TRAINING else find_method(method["name"]).__name__
    keys = short({key: as_typed(value) for key, value in method["keys"].items()})
    words = [method.get("preset", name), *(f"{key} {value}" for key, value in keys.items())]
    return method.get("label", " ".join(words))


def known(values: Any, keys: tuple[str, ...], where: str) -> None:
    """Raise UserError where `values` is no mapping of some of `keys`."""
    if not isinstance(values, dict):
        raise UserError(f"{where} is {brief(repr(values))}; expected a mapping of {', '.join(keys)}")
    for key in values:
        if key not in keys:
            raise UserError(f"unknown key {brief(key)!r} in {where}{nearest(key, keys)}; valid: {', '.join(keys)}")


def refuse(key: str, where: str) -> None:
    """Raise UserError for a dotted key that none of the methods reads."""
    if key not in leaves(CFG):
        raise UserError(f"unknown config key {brief(key)!r} in {where}{nearest(key, leaves(CFG))}")
    raise UserError(f"{key} has no effect on any method in {where}; leave it out, or add its method")


def keys_of(values: Mapping[str, Any], where: str, name: str = "keys") -> dict[str, Any]:
    """The config keys under `name`, dotted or in sections, as dotted ones."""
    keys = values.get(name) or {}
    if not isinstance(keys, dict):
        raise UserError(f"{name} in {where} is {brief(repr(keys))}; expected a mapping such as {{SOLVER.EPOCHS: 60}}")
    return leaves(keys)


def text(value: Any, what: str) -> str:
    """`value` as text. Raises UserError, naming `what`, for a list, a mapping or nothing."""
    if isinstance(value, (list, dict, bool, type(None))) or str(value) == "":
        raise UserError(f"{what} is {brief(repr(value))}; expected text")
    return str(value)


def as_typed(value: Any) -> str:
    """A config's value as a command line takes it."""
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(as_typed, value))}]"
    return as_text(value) if isinstance(value, dict) else str(value)


def reads(method: type[Distiller], key: str) -> bool:
    """Whether runs of `method` read the section of the dotted `key`, which may be one that is unknown to all."""
    section = key.split(".")[0]
    if key.startswith("DISTILLER.TEACHER"):
        return method.needs_teacher
    if key == "DISTILLER.LOGIT_STANDARDIZATION":
        return method.compares_logits
    if section in (*SHARED_SECTIONS, *method.sections()):
        return True
    return method.takes_new_sections and not any(section in other.sections() for other in DISTILLERS.values())
