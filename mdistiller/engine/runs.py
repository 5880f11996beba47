"""Where a run writes, and what: the log, TensorBoard scalars, metrics.csv, config and weights."""

import csv
import io
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from mdistiller.errors import UserError

from .checkpoint import atomic_write, copy_file, read_weights, save_checkpoint

COLUMNS = "epoch,lr,train_loss,train_top1,train_top5,test_loss,test_top1,test_top5,images_per_second,seconds".split(",")


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
        return self.weights / "best.pth"

    @property
    def last(self) -> Path:
        return self.weights / "last.pth"


def create_run(log_folder, weights_folder, dataset_label: str, title: str, published_name: str) -> RunFiles:
    """Claim a new run's folders, so that no two runs share one, and return its paths.

    dataset_label: as in the log's name, such as `cifar-100`; title: what follows the time in the run's name.
    Raises UserError where they cannot be made.
    """
    log_folder, weights_folder = Path(log_folder), Path(weights_folder)
    started = time.strftime("%Y-%m-%d-%H-%M-%S")
    for attempt in range(1, 1000):
        name = f"{started}_{title}" if attempt == 1 else f"{started}-{attempt}_{title}"
        stem = f"experiment_{dataset_label}_{name}"
        try:
            log_folder.mkdir(parents=True, exist_ok=True)
            (weights_folder / name).mkdir(parents=True)
            (log_folder / stem).mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot create {error.filename}: {error.strerror}; make it writable") from error
        return RunFiles(
            name=name,
            log=log_folder / f"{stem}.log",
            folder=log_folder / stem,
            weights=weights_folder / name,
            published=weights_folder / f"best_model_weights_{published_name}.pth",
        )
    raise UserError(f"1000 runs named {started}_{title} exist in {weights_folder}; start again")


class RunLog:
    """Writes what a run reports: lines to the log and stdout, scalars to TensorBoard, a row an epoch to metrics.csv."""

    def __init__(self, files: RunFiles, config_text: str):
        self.files = files
        self.columns: list[str] = []
        self.rows: list[dict] = []
        self.tensorboard = SummaryWriter(str(files.folder))
        self.logger = logging.Logger(files.name)
        for handler in (logging.FileHandler(files.log), logging.StreamHandler(sys.stdout)):
            handler.setFormatter(logging.Formatter("%(asctime)s - %(message)s"))
            self.logger.addHandler(handler)
        files.config.write_text(config_text)

    def line(self, message: str) -> None:
        self.logger.info(message)

    def epoch(self, row: dict) -> None:
        """Record an epoch: the values of COLUMNS, then each loss term, which may come and go."""
        new = [column for column in row if column not in self.columns]
        self.columns += new
        self.rows.append(row)
        if new:  # the first epoch, or one with another loss term
            with atomic_write(self.files.metrics) as file:
                text = io.TextIOWrapper(file, newline="")
                writer = csv.DictWriter(text, self.columns)
                writer.writeheader()
                writer.writerows(self.rows)
                text.detach()
        else:
            with self.files.metrics.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)
        for column, value in row.items():
            if column != "epoch":
                split, _, rest = column.partition("_")
                tag = f"{split}/{rest}" if split in ("train", "test") else f"train/{column}"
                self.tensorboard.add_scalar(tag, value, row["epoch"])
        self.tensorboard.flush()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None:
            log_file, _ = self.logger.handlers  # whoever catches the error tells the terminal
            log_file.handle(self.logger.makeRecord("", logging.ERROR, "", 0, f"Stopped: {error!r}", (), None))
        self.tensorboard.close()
        for handler in list(self.logger.handlers):
            self.logger.removeHandler(handler)
            handler.close()


def save_best(files: RunFiles, content: dict) -> str | None:
    """Write a run's new best to its `best.pth` and, where it may, to the published name.

    The published name belongs to the best run on the data of its first. Other data displaces only synthetic data, and
    nothing displaces weights that say nothing about their origin. Returns a line that says why the published name was
    not taken, or None.
    """
    save_checkpoint(content, files.best)
    meta = content["meta"]
    if files.published.exists():
        try:
            _, other = read_weights(files.published)
        except UserError as error:
            return f"Kept {files.published}: {error}"
        if not other:
            return f"Kept {files.published}, which names no run of ours; this run's best is {files.best}"
        if other.get("run") != meta["run"]:
            theirs, ours = other.get("dataset", {}), meta["dataset"]
            if theirs != ours and theirs.get("type") != "synthetic":
                return f"Kept {files.published}, of other data; this run's best is {files.best}"
            if theirs == ours and other.get("top1", 0.0) > meta["top1"]:
                return f"Kept {files.published}, top-1 {other['top1']:.2f}; this run's best is {files.best}"
    copy_file(files.best, files.published)
    return None
