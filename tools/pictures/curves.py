"""Picture `curves`: what runs reached epoch by epoch; runs that differ in their seeds are one line with a band."""

import csv
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np

from mdistiller.engine.places import RUN
from mdistiller.engine.values import leaves, read_yaml
from mdistiller.errors import UserError, nearest
from mdistiller.files import open_regular

from . import style
from .inputs import metrics_at, run_of

DEFAULT = "test_top1", "validation_top1"  # the first that all runs have
# Keys of a run's config in which runs of one variant may differ.
OWN = re.compile(r"EXPERIMENT\.(SEED|VERSIONS)|LOG\..*|.*_SHA256|DISTILLER\.TEACHER_WEIGHTS|DATASET\.FINGERPRINT")
LABELS = {"top1": "top-1 accuracy, %", "top5": "top-5 accuracy, %", "loss": "loss, nats"}
IMAGES = {"train": "training", "test": "test", "validation": "validation"}
MOST_BYTES = 2**26


def draw(flags, project):
    runs = [read_run(metrics_at(text, project)) for text in dict.fromkeys(flags.inputs)]
    metrics = flags.metric.split(",") if flags.metric else [default_metric(runs)]
    groups = group(runs)
    names = names_of(groups)
    figure, sheets = style.sheet(1, len(metrics), 62)
    for axes, metric in zip(sheets, metrics, strict=True):
        for number, (name, members) in enumerate(zip(names, groups, strict=True)):
            epochs, mean, deviation = band([run.column(metric) for run in members])
            colour = style.COLOURS[number % len(style.COLOURS)]
            pattern = style.LINES[number // len(style.COLOURS) % len(style.LINES)]
            title = f"{name} ({len(members)} runs)" if len(members) > 1 else name
            axes.plot(epochs, mean, pattern, color=colour, label=style.words(title))
            if len(members) > 1:
                axes.fill_between(epochs, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="epoch", ylabel=style.words(label_of(metric)))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(visible=True)
    style.legend_below(figure, sheets[0])
    if any(len(members) > 1 for members in groups):
        sheets[0].set_title("means of runs; bands: one standard deviation to either side", loc="left")
    return figure


class Run:
    """A run's table. columns: {name: {epoch: value}}; title, config: what is known of the run."""

    def __init__(self, path, columns):
        self.path, self.columns = path, columns
        folder = path.absolute().parent
        config = folder.parent / f"{folder.name}.yaml"
        self.config = leaves(read_yaml(config)) if config.is_file() else {}
        name = run_of(folder)
        match = RUN.fullmatch(name)
        self.title = name[len(match[1]) + (len(match[2]) + 1 if match[2] else 0) + 1 :] if match else name

    @property
    def variant(self):
        """What runs that are one line have in common."""
        return self.title, tuple(sorted((key, repr(v)) for key, v in self.config.items() if not OWN.fullmatch(key)))

    def column(self, metric):
        if metric not in self.columns:
            raise UserError(f"{self.path} has no column {metric!r}{nearest(metric, self.columns)}")
        if not self.columns[metric]:
            raise UserError(f"{self.path} has no value of {metric} yet")
        return self.columns[metric]


def read_run(path):
    """The run whose metrics.csv is at `path`; cells may be empty. Raises UserError, naming the line, for others."""
    try:
        with open_regular(path) as file:
            text = file.read(MOST_BYTES).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; expected a run's metrics.csv") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8; expected a run's metrics.csv") from error
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise UserError(f"{path} is no CSV file ({error}); expected a run's metrics.csv") from error
    if not rows or "epoch" not in rows[0] or len(set(rows[0])) != len(rows[0]):
        raise UserError(f"{path} does not begin with names of columns, epoch among them; expected a run's metrics.csv")
    columns = {name: {} for name in rows[0] if name != "epoch"}
    for number, row in enumerate(rows[1:], 2):
        try:
            values = {name: float(cell) for name, cell in zip(rows[0], row, strict=True) if cell}
            epoch = int(values.pop("epoch"))
        except (ValueError, KeyError, OverflowError) as error:
            raise UserError(f"line {number} of {path} is not {len(rows[0])} numbers, an epoch among them") from error
        for name, value in values.items():
            columns[name][epoch] = value
    if len(rows) == 1:
        raise UserError(f"{path} has no epoch yet")
    return Run(Path(path), columns)


def default_metric(runs):
    metric = next((name for name in DEFAULT if all(run.columns.get(name) for run in runs)), None)
    if metric is None:
        raise UserError(f"some runs have no values of {' or of '.join(DEFAULT)}; name a column with --metric")
    return metric


def group(runs):
    """Lists of the runs of one variant, in the order of the first of each."""
    groups = {}
    for run in runs:
        groups.setdefault(run.variant, []).append(run)
    return list(groups.values())


def band(columns):
    """Epochs that all of `columns`, {epoch: value} each, have; the mean over these, and the standard deviation.

    The deviation is that of a sample, n - 1; of one run it is 0.
    """
    epochs = sorted(set.intersection(*map(set, columns)))
    if not epochs:
        raise UserError("runs of one variant have no epoch in common; name those that have")
    values = np.array([[column[epoch] for epoch in epochs] for column in columns])
    return epochs, values.mean(axis=0), values.std(axis=0, ddof=1) if len(columns) > 1 else np.zeros(len(epochs))


def names_of(groups):
    """A name for each group: that of its runs without what all have in common, and what else it differs in."""
    first = [members[0] for members in groups]
    names = [name_of(run) for run in first]
    if len({network for network, _ in names}) == 1:
        texts = [method or network for network, method in names]
    else:
        texts = [", ".join(filter(None, name)) for name in names]
    for text, times in Counter(texts).items():
        alike = [number for number, other in enumerate(texts) if other == text]
        if times > 1:
            for number in alike:
                texts[number] = f"{text}{differences([first[other] for other in alike], first[number])}"
    return texts


def name_of(run):
    """A run's student and its method, or how it was trained; its title where no config tells."""
    node = {key.removeprefix("DISTILLER."): v for key, v in run.config.items() if key.startswith("DISTILLER.")}
    if "STUDENT" not in node:
        return run.title, ""
    teacher, student = node.get("TEACHER"), node["STUDENT"]
    for start in (f"{teacher}_{student}_", f"none_{student}_"):
        if run.title.startswith(start):
            return student, run.title.removeprefix(start)
    return (student, f"alone{run.title.removeprefix(student)}") if run.title.startswith(student) else (run.title, "")


def differences(runs, own):
    """Of the keys in which the configs of `runs` differ the values of `own`, of two at most, as text behind a name."""
    keys = dict.fromkeys(key for run in runs for key in run.config if not OWN.fullmatch(key))
    differing = [key for key in keys if len({repr(run.config.get(key)) for run in runs}) > 1]
    differing.sort(key=lambda key: not all(key in run.config for run in runs))
    shown = [(key.rpartition(".")[2], Path(str(own.config.get(key, "unset"))).name) for key in differing[:2]]
    return "".join(f", {key} {value}" for key, value in shown)


def label_of(metric):
    """A column's name as an axis has it."""
    split, _, rest = metric.partition("_")
    if split in IMAGES and rest in LABELS:
        return f"{IMAGES[split]} {LABELS[rest]}"
    return metric
