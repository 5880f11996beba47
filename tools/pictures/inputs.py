"""What a user may name in the place of a file: a run, by its name or one of its folders, or a published name."""

import os
from pathlib import Path

from mdistiller.checks import brief
from mdistiller.engine.index import BENCHMARKS
from mdistiller.engine.runs import BEST, published_weights
from mdistiller.errors import UserError, nearest

METRICS = "metrics.csv"
START = "experiment_"  # of the name of a run's folder of logs


def weights_at(text, project):
    """The file of weights that `text` means: a file, a run's name or folder, or the names in a published one."""
    path = Path(text)
    if os.path.isfile(path / BEST):
        return path / BEST
    if (os.path.lexists(path) or path.suffix) and not os.path.isdir(path):
        return path
    name = run_of(Path(os.path.abspath(path))) if os.path.isdir(path) else text
    folders = [folder for utils in utils_of(project) for folder in utils.glob("*_pth")]
    for found in (each for folder in folders for each in (folder / name / BEST, published_weights(folder, name))):
        if os.path.isfile(found) and Path(name).name == name:
            return found
    known = [found.parent.name for folder in folders for found in folder.glob(f"*/{BEST}")]
    raise UserError(f"no weights {brief(text)!r}{nearest(name, known)}; expected a file, or a run's folder or name")


def metrics_at(text, project):
    """The metrics.csv that `text` means: a file, or a run's name or folder."""
    path = Path(text)
    if os.path.isfile(path / METRICS):
        return path / METRICS
    if os.path.lexists(path) and not os.path.isdir(path) and path.name != BEST:
        return path
    path = Path(os.path.abspath(path))
    name = run_of(path.parent if path.name == BEST else path)
    # Beside the run's own folder first, as the project may have been moved or copied.
    near = [parent for parent in path.parents[:3] if parent.name == "Utils"]
    tables = [found for utils in (*near, *utils_of(project)) for found in utils.glob(f"*_log/{START}*/{METRICS}")]
    runs = {run_of(found.parent): found for found in reversed(tables)}
    if name not in runs:
        raise UserError(
            f"no {METRICS} of {brief(text)!r}{nearest(name, runs)}; expected a file, or a run's folder or name"
        )
    return runs[name]


def run_of(path):
    """The run's name in that of its folder of weights or of logs."""
    name = path.name
    for benchmark in BENCHMARKS.values():
        name = name.removeprefix(f"{START}{benchmark.label}_")
    return name


def utils_of(project):
    return [project / benchmark.folder / "Utils" for benchmark in BENCHMARKS.values()]
