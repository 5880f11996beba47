"""Going on with a run that was stopped: which one, and whether it is still the same."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from mdistiller.errors import UserError

from .cfg import changed
from .checkpoint import read_state
from .distributed import ONE, Processes
from .metrics import Result
from .places import NEWEST, Place, find_run
from .resolve import Choices
from .runs import RunFiles
from .values import leaves

FILES = {  # of users, whose checksums a saved config has
    "DISTILLER.TYPE_SHA256": "distiller's file",
    "DISTILLER.STUDENT_FILE_SHA256": "student's network file",
    "DISTILLER.TEACHER_FILE_SHA256": "teacher's network file",
}
# What may change while a run goes on, beside all of LOG; SOLVER.LR_DECAY_STAGES may after the present epoch.
FREE = {
    "SOLVER.EPOCHS",
    "SOLVER.SKIP_NONFINITE",
    "DATASET.ROOT",
    "DATASET.NUM_WORKERS",
    "DISTILLER.TEACHER_WEIGHTS",
    *FILES,
    "DISTILLER.STUDENT_WEIGHTS",
    "EXPERIMENT.PROJECT",
    "EXPERIMENT.VERSIONS",
}
FOUND = (  # by a run, where not given
    "DISTILLER.TEACHER_WEIGHTS",
    "DISTILLER.TEACHER_SHA256",
    *FILES,
    "DISTILLER.STUDENT_SHA256",
    "DATASET.FINGERPRINT",
)
STAGES = "SOLVER.LR_DECAY_STAGES"
WORDS = {
    "DATASET.FINGERPRINT": "the images have changed",
    "DISTILLER.TEACHER_SHA256": "the teacher's file has changed",
    "DISTILLER.STUDENT_SHA256": "the file that the student begins with has changed",
}
SELECTIONS = "selected_student", "selected_teacher", "selected_distiller", "selected_model", "cfg"
LAST_LINE = "Learning Time: "


@dataclass
class SavedRun:
    """A run to go on with, and the config that it was started by. content: of what it saved, once that is read."""

    place: Place
    config: CN
    content: dict[str, Any] | None = None
    note: str | None = None

    def read(self, files: RunFiles, processes: Processes = ONE) -> dict[str, Any] | None:
        """The trainer's state, read by the first of `processes`; None where the run was stopped before it saved any."""
        self.content, self.note = processes.first(lambda: read_state(files))
        return self.content and self.content["training"]

    def check(self, cfg: CN) -> None:
        """Raise UserError, listing what differs, where `cfg` is the config of another run."""
        finished = self.content["training"]["finished"] if self.content else 0
        check_same(self.place.name, self.config, cfg, finished)

    def result(self, cfg: CN) -> tuple[Result, RunFiles] | None:
        """What the run reached, where it has ended by `cfg`, and its paths."""
        files = self.place.files()
        try:
            state = self.read(files)
        except UserError:
            return None
        if state is None or not has_ended(state, cfg, files) or not files.best.is_file():
            return None
        return best_of(state)[1], files

    def load_into(self, trainer: Any) -> None:
        """Have `trainer` go on from the state. Raises UserError where that is none of such a trainer."""
        assert self.content is not None
        try:
            trainer.load_state_dict(self.content["training"])
        except (LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"the state of run {self.place.name} does not fit it ({type(error).__name__}); start a new run"
            ) from error

    def describe(self, trainer: Any) -> list[str]:
        """What the log is told where the run goes on."""
        where = f"{trainer.where} after {trainer.steps} of {len(trainer.data.train)} steps"
        lines = [f"===== Logging Session Resumed in {where} ====="]
        if self.note:
            lines.append(self.note)
        meta = self.content["meta"] if self.content else {}
        before, now = meta.get("versions", {}), trainer.meta["versions"]
        if (processes := meta.get("processes", 1)) != trainer.processes.size:
            lines.append(f"Number of processes: {trainer.processes.size}, was {processes}")
        then, after = leaves(self.config), leaves(trainer.cfg)
        for key, what in FILES.items():
            if then[key] != after[key]:
                lines.append(f"Warning: the {what} has changed since the run was started")
        if changes := [f"{name} {now[name]}, was {before[name]}" for name in now if now[name] != before.get(name)]:
            lines.append(f"Warning: the code has changed since the run was stopped: {', '.join(changes)}")
        return lines


def has_ended(state: dict[str, Any], cfg: CN, files: RunFiles) -> bool:
    """Whether the run whose trainer saved `state` has nothing left to do, by its log's last line."""
    if state["finished"] < cfg.SOLVER.EPOCHS:
        return False
    try:
        return LAST_LINE in files.log.read_bytes()[state["log"]["position"] :].decode(errors="replace")
    except OSError:
        return False


def best_of(state: dict[str, Any]) -> tuple[int, Result]:
    """The epoch of a run's best student, and what that reached."""
    best = dict(state["best"])
    return best.pop("epoch"), Result(**best)


def tell_ended(state: dict[str, Any], files: RunFiles) -> Result:
    """Print that the run has ended; returns its best result."""
    epoch, result = best_of(state)
    print(f"run {files.name} has ended: {state['finished']} epochs, the best {epoch} with top-1 {result.top1:.2f};")
    print("to train it further, add SOLVER.EPOCHS and more of them")
    return result


def with_found(cfg: CN, then: CN) -> CN:
    """`cfg` with what the run whose config was `then` found out for itself, where it is not given."""
    given, found = leaves(cfg), leaves(then)
    for key in FOUND:
        if not given[key]:
            cfg = changed(cfg, key, found[key])
    return cfg


def check_same(name: str, then: CN, now: CN, finished: int) -> None:
    """Raise UserError, listing what differs, where `now` is the config of another run than `then`, that of run `name`.

    finished: epochs that the run has behind it.
    """
    others = differences(then, now, finished)
    if now.SOLVER.EPOCHS < finished:
        others.append(f"SOLVER.EPOCHS {now.SOLVER.EPOCHS}, and {finished} are done")
    if others:
        raise UserError(f"run {name} cannot go on otherwise than it began: {'; '.join(others)}; start a new run")


def differences(then: CN, now: CN, finished: int) -> list[str]:
    """What makes a run by the config `now` another one than that by `then`, in words."""
    before, after = (
        {key: list(value) if isinstance(value, tuple) else value for key, value in leaves(cfg).items()}
        for cfg in (then, now)
    )
    if all(passed(values[STAGES], finished) == passed(before[STAGES], finished) for values in (before, after)):
        before[STAGES] = after[STAGES]
    told = []
    if now.SOLVER.SCHEDULER == "cosine" and finished and now.SOLVER.EPOCHS != then.SOLVER.EPOCHS:
        told.append(f"SOLVER.EPOCHS {now.SOLVER.EPOCHS}, was {then.SOLVER.EPOCHS}, over which the learning rate falls")
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key, ""), after.get(key, "")
        if key not in FREE and not key.startswith("LOG.") and old != new:
            told.append(WORDS.get(key, f"{key} {new}, was {old}"))
    return told


def passed(stages: Iterable[int], finished: int) -> list[int]:
    """Those that the learning rate of the finished epochs and of the next depends on."""
    return [stage for stage in stages if stage <= finished]


def resolve(
    choices: Choices, wanted: str, runs: list[Place], utils: Path, config_of: Callable[[Choices], CN]
) -> tuple[CN, SavedRun]:
    """The config to go on by, and the run that `wanted` means: its name, folder or file, or NEWEST.

    Where `choices` name networks, a method or a config, these make the config, and NEWEST means the newest run that
    they would have started; else they change the run's own. config_of: a script's way from choices to a config.
    """
    place = find_run(wanted, runs, utils)
    are_given = any(getattr(choices, name) is not None for name in SELECTIONS)
    if not are_given:
        own = replace(choices, cfg=place.files().config)
        return config_of(own), SavedRun(place, config_of(Choices(cfg=own.cfg)))
    now = config_of(choices)
    if wanted == NEWEST and (found := find_same(now, runs, config_of)):
        return with_found(now, found.config), found
    saved = SavedRun(place, config_of(Choices(cfg=place.files().config)))
    now = with_found(now, saved.config)
    check_same(place.name, saved.config, now, 0)
    return now, saved


def find_same(cfg: CN, runs: list[Place], config_of: Callable[[Choices], CN]) -> SavedRun | None:
    """The newest of `runs` that `cfg` would have started, else that it may change to what it says, if there is one."""
    found = []
    for place in runs:
        with contextlib.suppress(UserError):  # the config of another version
            then = config_of(Choices(cfg=place.files().config))
            if not differences(then, with_found(cfg, then), 0):
                if then.SOLVER == cfg.SOLVER:
                    return SavedRun(place, then)
                found.append(SavedRun(place, then))
    return found[0] if found else None
