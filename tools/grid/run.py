"""One run of a grid: the command that starts it, and the config that it then has."""

import functools
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from mdistiller.distillers import PLAIN_TRAINING, find_method
from mdistiller.engine.cfg import changed
from mdistiller.engine.index import Benchmark
from mdistiller.engine.networks import label, split
from mdistiller.engine.resolve import Choices, baseline_config, distillation_config
from mdistiller.engine.runs import BASELINE_FOLDERS, CONFIGS, folders_of, shown
from mdistiller.errors import UserError, nearest

CPU = torch.device("cpu")  # what a config says does not depend on it, without --fast


@dataclass(frozen=True)
class Run:
    """title: its cell, in words; choices: as the script's flags say them; config: what they resolve to.

    project: holds the scripts' folders.
    """

    title: str
    benchmark: Benchmark
    project: Path
    choices: Choices
    config: CN
    is_plain: bool

    @classmethod
    def of(
        cls,
        title: str,
        benchmark: Benchmark,
        project: Path,
        method: str,
        networks: Mapping[str, str],
        weights: str | None,
        file: str | None,
        keys: Mapping[str, str],
    ) -> "Run":
        """The run of the canonical `method` on `networks`, "student" and "teacher"; keys: dotted, as typed.

        Raises UserError for a config that no run can use.
        """
        is_plain, pairs = method == PLAIN_TRAINING, [word for pair in keys.items() for word in pair]
        if is_plain:
            choices = Choices(selected_model=networks["student"], cfg=file, pairs=pairs)
        else:
            teacher, student = networks["teacher"], networks["student"]
            choices = Choices(student, teacher, method, cfg=file, teacher_weights=weights, pairs=pairs)
        return cls(title, benchmark, project, choices, config_of(benchmark, is_plain)(choices), is_plain)

    def with_seed(self, seed: int) -> "Run":
        return replace(
            self, choices=replace(self.choices, seed=seed), config=changed(self.config, "EXPERIMENT.SEED", seed)
        )

    @property
    def seed(self) -> int:
        return self.config.EXPERIMENT.SEED

    @property
    def name(self) -> str:
        """What the run is called while it goes on."""
        return f"{self.title}, seed {self.seed}"

    def is_like(self, other: "Run") -> bool:
        """Whether the two differ in their seeds alone."""
        return self.words_of(None) == other.words_of(None)

    def learns_from(self, other: "Run") -> bool:
        """Whether `other` trains a teacher that this run will look for."""
        mine, theirs = self.config, other.config
        is_taught = find_method(mine.DISTILLER.TYPE).needs_teacher and not mine.DISTILLER.TEACHER_WEIGHTS
        is_of_it = other.is_plain and theirs.DISTILLER.STUDENT in split(mine.DISTILLER.TEACHER)
        return (
            is_taught
            and is_of_it
            and (mine.DATASET.TYPE, mine.DATASET.ROOT) == (theirs.DATASET.TYPE, theirs.DATASET.ROOT)
        )

    @property
    def utils(self) -> Path:
        return self.project / self.benchmark.folder / "Utils"

    @property
    def folders(self) -> tuple[Path, Path]:
        """Those of the logs and of the weights of such runs."""
        logs, weights = BASELINE_FOLDERS if self.is_plain else folders_of(find_method(self.config.DISTILLER.TYPE))
        return self.utils / logs, self.utils / weights

    @functools.cached_property
    def words(self) -> tuple[str, ...]:
        """The command, without the interpreter, for the working directory."""
        return self.words_of(self.seed)

    def words_of(self, seed: int | None) -> tuple[str, ...]:
        """The command with another seed, or without one."""
        choices = replace(self.choices, seed=seed)
        flags = ("selected_model",) if self.is_plain else ("selected_teacher", "selected_student", "selected_distiller")
        given = [(flag, getattr(choices, flag)) for flag in (*flags, "cfg", "teacher_weights", "seed")]
        words = [word for flag, value in given if value is not None for word in (f"--{flag}", str(value))]
        script = self.utils / ("train.py" if self.is_plain else "distillation_train.py")
        return shown(script), *words, *choices.pairs

    def command(self, interpreter: str = "python", resume: str | None = None) -> list[str]:
        """The command's words; resume: the name of the run to go on with."""
        return [interpreter, *self.words, *(["--resume", resume] if resume else [])]

    def line(self, resume: str | None = None) -> str:
        """The command as a shell takes it."""
        return shlex.join(self.command(resume=resume))


def config_of(benchmark: Benchmark, is_plain: bool):
    """A script's way from choices to a config."""
    return functools.partial(baseline_config if is_plain else distillation_config, benchmark, device=CPU)


def find_preset(benchmark: Benchmark, name: str, networks: Mapping[str, str]) -> str:
    """The file of the preset `name` for a pair, else for its student, else for all. Raises UserError for none."""
    folder = CONFIGS / benchmark.models
    teacher, student = (label(networks[role]) for role in ("teacher", "student"))
    for stem in (f"{name}-{teacher}-{student}", f"{name}-{student}", name):
        if (folder / f"{stem}.yaml").is_file() and Path(stem).name == stem:
            return shown(folder / f"{stem}.yaml")
    names = [path.stem for path in folder.glob("*.yaml")]
    raise UserError(f"unknown preset {name!r}{nearest(name, names)}; expected a file of {shown(folder)}, without .yaml")
