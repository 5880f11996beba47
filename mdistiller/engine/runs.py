"""Every path and name of a run, and which run has the published name."""

import filecmp
import glob
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mdistiller
from mdistiller.distillers import DISTILLERS, Distiller
from mdistiller.errors import UserError

from .identity import locked, why_kept
from .weights import copy_file, read_meta, save_checkpoint
from .writing import remove_stale, why

PACKAGE = Path(mdistiller.__file__).resolve().parent
PROJECT = PACKAGE.parent
# In the package where it was installed, beside it in a clone.
CONFIGS = PACKAGE / "configs" if (PACKAGE / "configs").is_dir() else PROJECT / "configs"
DEMO = "demo.yaml"  # among the presets of a benchmark that has one

DISTILLATION_FOLDERS = "distiller_train_log", "model_distillation_pth"
BASELINE_FOLDERS = "model_train_log", "model_pth"
PUBLISHED = "best_model_weights_"
BEST, LAST, PREVIOUS = "best.pth", "last.pth", "previous.pth"
STATES = LAST, PREVIOUS  # what a run goes on from; no results


def folders_of(method: type[Distiller]) -> tuple[str, str]:
    """Names of the folders, below `Utils`, of the logs and of the weights of a method's runs."""
    if method.has_own_folders:
        return f"{method.__name__}_train_log", f"{method.__name__}_model_pth"
    return DISTILLATION_FOLDERS


def published_weights(folder: Path, *names: str) -> Path:
    """Where the best weights of a network, or of a student and its method, lie in a folder of weights."""
    return folder / f"{PUBLISHED}{'_'.join(names)}.pth"


def published_names(path: Path) -> str | None:
    """The names, joined by `_`, that `published_weights` made the file name of `path` from; None for another name."""
    start, _, names = path.stem.partition(PUBLISHED)
    return names if names and not start else None


def baseline_weights(utils: Path, network: str) -> list[Path]:
    """What `train.py` made of a network, variants too: the weights under published names, then each run's best."""
    folder = utils / BASELINE_FOLDERS[1]
    names = network, f"{network}-*", f"{network}+*"
    published = [path for name in names for path in sorted(folder.glob(published_weights(folder, name).name))]
    return [*published, *sorted(path for name in names for path in folder.glob(f"*_{name}/{BEST}"))]


def student_weights(utils: Path) -> list[Path]:
    """The distilled students below `utils`: each run's best and those under the published name."""
    folders = dict.fromkeys(folders_of(method)[1] for method in DISTILLERS.values())
    found = [path for folder in folders for path in sorted((utils / folder).rglob("*.pth"))]
    return [path for path in found if path.name not in STATES]


def saved_config(weights: Path, run: str) -> Path | None:
    """The config that the run called `run` saved in the `Utils` folder that `weights` lie below, where it is there."""
    if Path(run).name != run:
        return None
    name = f"*_train_log/experiment_*_{glob.escape(run)}.yaml"
    return next((path for folder in weights.absolute().parents[1:4] for path in folder.glob(name)), None)


@dataclass(frozen=True)
class RunFiles:
    """The paths of one run, below a `Utils` folder.

    name: `{time}_{teacher}_{student}_{distiller}`; published: the weights' published name, which the best student
    of the runs takes.
    """

    name: str
    log: Path
    folder: Path
    weights: Path
    published: Path

    @property
    def config(self) -> Path:
        return self.log.with_suffix(".yaml")

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics.csv"

    @property
    def best(self) -> Path:
        return self.weights / BEST

    @property
    def last(self) -> Path:
        return self.weights / LAST

    @property
    def previous(self) -> Path:
        return self.weights / PREVIOUS


def create_run(
    log_folder: Path, weights_folder: Path, dataset_label: str, title: Iterable[str], published: Iterable[str]
) -> RunFiles:
    """Claim a new run's folders, so that no two runs share one, and return its paths.

    dataset_label: as in the log's name, such as `cifar-100`; title: the names that follow the time in the run's name;
    published: those of its published name. What killed runs left half-written there is removed.
    Raises UserError where the folders cannot be made.
    """
    for folder in (log_folder, weights_folder):
        make_folder(folder)
        remove_stale([folder, *folder.glob("*/")])
    started, rest = time.strftime("%Y-%m-%d-%H-%M-%S"), "_".join(title)
    for attempt in range(1, 1000):
        name = f"{started}_{rest}" if attempt == 1 else f"{started}-{attempt}_{rest}"
        stem = f"experiment_{dataset_label}_{name}"
        try:
            (weights_folder / name).mkdir()
            (log_folder / stem).mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot create {error.filename}: {why(error)}") from error
        return RunFiles(
            name=name,
            log=log_folder / f"{stem}.log",
            folder=log_folder / stem,
            weights=weights_folder / name,
            published=published_weights(weights_folder, *published),
        )
    raise UserError(f"1000 runs named {started}_{rest} exist in {weights_folder}; start again")


def make_folder(path: Path) -> None:
    """Have the folder `path` exist. Raises UserError, which names what is in the way, where it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for place in (path, *path.parents):
            if place.is_symlink() and not place.exists():
                reason = f"{place} is a link to {os.readlink(place)}, which does not exist; make it or remove the link"
                raise UserError(f"cannot create {path}: {reason}") from error
            if place.exists() and not place.is_dir():
                raise UserError(f"cannot create {path}: {place} is no folder; move it away") from error
        raise UserError(f"cannot create {error.filename}: {why(error)}") from error


def shown(path: Path) -> str:
    """A path as a user would type it: relative where it lies below the working directory."""
    real = Path(os.path.realpath(path))  # Path.resolve raises where a link points to itself
    return str(real.relative_to(Path.cwd()) if real.is_relative_to(Path.cwd()) else path)


def is_copy(published: Path, meta: dict[str, Any]) -> bool:
    """Whether the weights under a published name, of the meta `meta`, are the best of the run that they name, or were.

    They were where that run was killed before it could publish a better epoch.
    """
    best = published.parent / meta["run"] / BEST
    if Path(meta["run"]).name != meta["run"] or not best.is_file():
        return False
    try:
        now = read_meta(best)
        return filecmp.cmp(published, best, shallow=False) or (
            now.get("run") == meta["run"] and now.get("epoch", 0) > meta.get("epoch", 0)
        )
    except (UserError, OSError):
        return False


def save_best(files: RunFiles, content: dict[str, Any]) -> str | None:
    """Write a run's new best to its `best.pth` and, where it may, to the published name.

    The first run that takes the published name decides for which data it stands: from then on it holds the best of all
    runs on that data. Synthetic data gives way to any other; weights that do not say where they come from to nothing.
    Returns a line that says why the published name was not taken, or None.
    """
    save_checkpoint(content, files.best)
    with locked(files.published):
        if os.path.lexists(files.published):
            try:
                other = read_meta(files.published)
            except UserError as error:
                return f"Kept {files.published}: {error}"
            reason = why_kept(other, content["meta"])
            if reason is None and other["run"] != content["meta"]["run"] and not is_copy(files.published, other):
                reason = "which is no copy of a run's best"
            if reason:
                return f"Kept {files.published}, {reason}; this run's best is {files.best}"
        copy_file(files.best, files.published)
    return None
