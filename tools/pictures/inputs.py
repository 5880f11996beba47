"""What a user may name in the place of a file: a run, by its name or one of its folders, or a published name."""

from pathlib import Path

from mdistiller.engine.index import BENCHMARKS
from mdistiller.engine.runs import BEST, published_weights
from mdistiller.errors import UserError, nearest

METRICS = "metrics.csv"
START = "experiment_"  # of the name of a run's folder of logs


def weights_at(text, project):
    """The file of weights that `text` means: a file, a run's name or folder, or the names in a published one."""
    path = Path(text)
    if path.is_dir():
        own = path / BEST
        return own if own.is_file() else weights_at(run_of(path), project)
    if path.exists() or path.suffix:
        return path
    for utils in utils_of(project):
        for folder in utils.glob("*_pth"):
            for found in (folder / text / BEST, published_weights(folder, text)):
                if found.is_file():
                    return found
    known = [found.parent.name for utils in utils_of(project) for found in utils.glob(f"*_pth/*/{BEST}")]
    raise UserError(f"no weights {text!r}{nearest(text, known)}; expected a file, or a run's folder or name")


def metrics_at(text, project):
    """The metrics.csv that `text` means: a file, or a run's name or folder."""
    path = Path(text)
    if path.is_dir() and (path / METRICS).is_file():
        return path / METRICS
    if path.is_file() and path.name != BEST:
        return path
    name = run_of(path.parent if path.name == BEST else path)
    # Beside the run's own folder first, as the project may have been moved or copied.
    near = [parent for parent in path.absolute().parents[:3] if path.exists() and parent.name == "Utils"]
    folders = [*near, *utils_of(project)]
    for utils in folders:
        for found in utils.glob(f"*_log/{START}*/{METRICS}"):
            if run_of(found.parent) == name:
                return found
    known = [run_of(found.parent) for utils in folders for found in utils.glob(f"*_log/{START}*/{METRICS}")]
    raise UserError(f"no {METRICS} of {text!r}{nearest(name, known)}; expected a file, or a run's folder or name")


def run_of(path):
    """The run's name in that of its folder of weights or of logs."""
    if not path.name.startswith(START):
        return path.name
    for benchmark in BENCHMARKS.values():
        path = Path(path.name.removeprefix(f"{START}{benchmark.label}_"))
    return path.name


def utils_of(project):
    return [project / benchmark.folder / "Utils" for benchmark in BENCHMARKS.values()]
