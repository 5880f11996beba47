"""Which runs of a grid are there, how far they are, and what they have reached."""

import contextlib
import csv
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from mdistiller.dataset import build_data
from mdistiller.distillers import find_method
from mdistiller.engine.networks import checksums_of, split
from mdistiller.engine.owner import LOCK, owned
from mdistiller.engine.places import RUN, Place
from mdistiller.engine.provenance import fingerprint_of
from mdistiller.engine.resolve import Choices
from mdistiller.engine.resume import LAST_LINE, differences, with_found
from mdistiller.engine.runs import RunFiles
from mdistiller.engine.teachers import sha256_of
from mdistiller.engine.values import dump
from mdistiller.errors import UserError

from .run import Run, config_of

FINISHED, RUNNING, STOPPED, MISSING = "finished", "running", "stopped", "missing"
ORDER = FINISHED, RUNNING, STOPPED, MISSING  # the first is taken where there are several
LEARNING_TIME = re.compile(rf"{LAST_LINE}(\d+)m (\d+)s")
TEST_LINE = re.compile(r"Test Loss: .*Top-1 Accuracy: ([\d.]+)")


@dataclass
class Found:
    """A run as it is. epochs: those that are behind it; config: that it saved."""

    state: str = MISSING
    files: RunFiles | None = None
    epochs: int = 0
    config: CN | None = None


@dataclass
class Outcome:
    """What a finished run has reached: top-1 on the test images, in percent.

    last: None where validation images chose the best; curve: of each epoch, on the images that chose; seconds: of
    training and evaluation; commit: of the code, as the saved config tells it.
    """

    best: float
    last: float | None
    epoch: int
    curve: list[float] = field(default_factory=list)
    seconds: float | None = None
    versions: str = ""


class Finder:
    """Finds runs by their saved configs, whose text it keeps. data: the fingerprints of the images of configs."""

    def __init__(self) -> None:
        self.saved: dict[Path, tuple[int, str, CN | None]] = {}
        self.fingerprints: dict[str, str] = {}

    def look(self, run: Run) -> Found:
        """The one of the same runs that is the furthest; a finished one before others."""
        log_folder, weights_folder = run.folders
        label, found = run.benchmark.label, Found()
        lines = [dump({key: run.config[section][key]}).strip() for section, key in IN_TEXT]
        for path in sorted(log_folder.glob(f"experiment_{label}_*.yaml"), reverse=True):
            name = path.stem.removeprefix(f"experiment_{label}_")
            then = self.read(path, run, lines) if RUN.fullmatch(name) else None
            if then is not None and self.is_same(run, then):
                files = Place(name, log_folder, weights_folder, label).files()
                each = how_far(files, then)
                if (-ORDER.index(each.state), each.epochs) > (-ORDER.index(found.state), found.epochs):
                    found = each
        return found

    def read(self, path: Path, run: Run, lines: list[str]) -> CN | None:
        """The config saved at `path`, where `lines` are in it and it can be read."""
        with contextlib.suppress(OSError, UserError):
            time = path.stat().st_mtime_ns
            known = self.saved.get(path)
            if known is None or known[0] != time:
                known = self.saved[path] = time, path.read_text(encoding="utf-8", errors="replace"), None
            if not all(f" {line}\n" in known[1] for line in lines):
                return None
            if known[2] is None:
                config = config_of(run.benchmark, run.is_plain)(Choices(cfg=path))
                known = self.saved[path] = time, known[1], config
            return known[2]
        return None

    def is_same(self, run: Run, then: CN) -> bool:
        """Whether the saved config `then` is that of `run`, on the same images and with the same files."""
        now = run.config
        if now.SOLVER.EPOCHS != then.SOLVER.EPOCHS or differences(then, with_found(now, then), then.SOLVER.EPOCHS):
            return False
        method = find_method(now.DISTILLER.TYPE)
        pairs = [
            (method.checksum(), then.DISTILLER.TYPE_SHA256),
            (checksums_of(now, "STUDENT"), then.DISTILLER.STUDENT_FILE_SHA256),
            (sha256_of_all(now.DISTILLER.STUDENT_WEIGHTS), then.DISTILLER.STUDENT_SHA256),
        ]
        if method.needs_teacher:
            pairs.append((checksums_of(now, "TEACHER"), then.DISTILLER.TEACHER_FILE_SHA256))
            pairs.append((sha256_of_all(now.DISTILLER.TEACHER_WEIGHTS), then.DISTILLER.TEACHER_SHA256))
        if any(new != old for new, old in pairs if new and old):
            return False
        return self.fingerprint(now) in ("", then.DATASET.FINGERPRINT) or not then.DATASET.FINGERPRINT

    def fingerprint(self, cfg: CN) -> str:
        """That of the images of `cfg`; empty where they are not here."""
        key = dump(cfg.DATASET)
        if key not in self.fingerprints:
            self.fingerprints[key] = ""
            if cfg.DATASET.TYPE == "synthetic" or Path(cfg.DATASET.ROOT).exists():
                with contextlib.suppress(UserError):
                    self.fingerprints[key] = fingerprint_of(build_data(cfg, torch.device("cpu"), cfg.EXPERIMENT.SEED))
        return self.fingerprints[key]


IN_TEXT = ("EXPERIMENT", "SEED"), ("DISTILLER", "STUDENT"), ("SOLVER", "EPOCHS"), ("SOLVER", "BATCH_SIZE")


def sha256_of_all(paths: str) -> str:
    """The checksums of files as a saved config has them; empty where one is not there."""
    files = [Path(path) for path in split(paths) if path]
    return ",".join(map(sha256_of, files)) if files and all(file.is_file() for file in files) else ""


def how_far(files: RunFiles, then: CN) -> Found:
    """How far the run of `files`, by its saved config `then`, is."""
    rows = read_metrics(files)
    if len(rows) >= then.SOLVER.EPOCHS and LEARNING_TIME.search(read_text(files.log)):
        return Found(FINISHED, files, len(rows), then)
    if not files.weights.is_dir():  # which nothing can go on from
        return Found()
    return Found(RUNNING if is_owned(files.weights) else STOPPED, files, len(rows), then)


def is_owned(folder: Path) -> bool:
    """Whether a process writes the run whose weights are in `folder`."""
    if (folder / LOCK).exists():
        try:
            with owned(folder):
                pass
        except UserError:
            return True
    return False


def read_text(path: Path) -> str:
    """The text of a run's file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def read_metrics(files: RunFiles) -> list[dict[str, str]]:
    """The rows of a run's metrics.csv."""
    return list(csv.DictReader(read_text(files.metrics).splitlines()))


def outcome_of(found: Found) -> Outcome:
    """What the finished run `found` has reached. Raises UserError where its files do not tell."""
    assert found.files is not None and found.config is not None
    rows, log = read_metrics(found.files), read_text(found.files.log)
    try:
        judged = "test" if rows[-1]["test_top1"] else "validation"
        curve = [float(row[f"{judged}_top1"]) for row in rows]
        best, last = max(curve), curve[-1] if judged == "test" else None
        if judged == "validation":
            best = float(TEST_LINE.findall(log)[-1])
        minutes, seconds = map(int, LEARNING_TIME.findall(log)[-1])
    except (LookupError, ValueError, TypeError) as error:
        raise UserError(f"{found.files.metrics} or {found.files.log} is damaged; start that run again") from error
    versions = found.config.EXPERIMENT.VERSIONS
    return Outcome(best, last, curve.index(max(curve)) + 1, curve, 60 * minutes + seconds, versions)
