"""What a run reports: its log, TensorBoard scalars, metrics.csv and the config that ran."""

import csv
import io
import logging
import sys
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from mdistiller.errors import UserError

from .board import link_runs, write_settings
from .cfg import CFG
from .lines import as_lines
from .runs import RunFiles
from .values import dump, parse_yaml
from .weights import atomic_write

COLUMNS = (
    "epoch,lr,train_loss,train_top1,train_top5,test_loss,test_top1,test_top5,images_per_second,seconds,"
    "teacher_top1,best_top1"
).split(",")
DIGITS = 6  # of metrics.csv
STOPPED = " - Stopped: "  # how the last line of a run that ends early begins, after its time


def import_wandb() -> Any:
    """The package wandb. Raises UserError where it is missing."""
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            f"LOG.WANDB True needs the package wandb ({error}); type pip install wandb, or LOG.WANDB False"
        ) from error
    return wandb


def start_wandb(cfg: CN, files: RunFiles) -> Any:
    """A run of Weights & Biases under the run's name, where LOG.WANDB asks for one; offline with WANDB_MODE=offline."""
    if not cfg.LOG.WANDB:
        return None
    tags = [tag for tag in cfg.EXPERIMENT.TAG.split(",") if tag and tag != CFG.EXPERIMENT.TAG]
    options = {"project": cfg.EXPERIMENT.PROJECT, "name": files.name, "tags": tags, "dir": str(files.folder)}
    return import_wandb().init(**options, config=parse_yaml(dump(cfg), "config"))


def take_back(log: Path, position: int) -> None:
    """Cut a log off at `position`, in bytes, but for the lines that say why the run stopped there."""
    if not log.exists():
        return
    text = log.read_bytes()
    lines = text[position:].splitlines(keepends=True)
    stop = next((number for number, line in enumerate(lines) if STOPPED.encode() in line), len(lines))
    with atomic_write(log) as file:
        file.write(text[:position] + b"".join(lines[stop:]))


def round_to(value: Any, digits: int = DIGITS) -> Any:
    """A float with so many significant digits; anything else as it is."""
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def tag_of(column: str) -> str:
    """The name that a column of metrics.csv has in TensorBoard: grouped by what it is measured on."""
    split, _, rest = column.partition("_")
    if split in ("train", "validation", "test"):
        return f"{split}/{rest}"
    return f"test/{column}" if column.endswith("_top1") else f"train/{column}"


class RunLog:
    """Writes what a run reports: lines to the log and stdout, scalars to TensorBoard, a row an epoch to metrics.csv.

    wandb: a run of Weights & Biases that gets the rows too, where there is one. state: a `state_dict`, to go on from
    there; what was told since is taken back.
    """

    def __init__(self, files: RunFiles, config_text: str, wandb: Any = None, state: dict[str, Any] | None = None):
        from torch.utils.tensorboard import SummaryWriter  # takes long to import, and only runs need it

        state = state or {"position": 0, "columns": [], "rows": []}
        self.files, self.wandb, self.folder = files, wandb, Path.cwd()
        self.columns: list[str] = list(state["columns"])
        self.rows: list[dict[str, Any]] = list(state["rows"])
        take_back(files.log, state["position"])
        if self.rows:
            self.write_rows()
        else:
            files.metrics.unlink(missing_ok=True)
        self.tensorboard = SummaryWriter(str(files.folder), purge_step=len(self.rows) + 1)
        self.logger = logging.Logger(files.name)
        for handler in (logging.FileHandler(files.log), logging.StreamHandler(sys.stdout)):
            handler.setFormatter(logging.Formatter("%(asctime)s - %(message)s"))
            self.logger.addHandler(handler)
        files.config.write_text(config_text)
        write_settings(self.tensorboard, config_text)
        link_runs(files.log.parents[1])

    def line(self, message: str, wrap: bool = True) -> None:
        """Tell `message` in lines that fit a terminal, or in one where others count on its wording."""
        for line in as_lines(message, self.folder) if wrap else [message]:
            self.logger.info(line)

    def epoch(self, row: dict[str, Any]) -> None:
        """Record an epoch: the values of COLUMNS, None for what is not known, then each loss term, which may come late.

        metrics.csv gets them with DIGITS significant digits.
        """
        new = [column for column in row if column not in self.columns]
        self.columns += new
        rounded = {column: round_to(value) for column, value in row.items()}
        self.rows.append(rounded)
        if new:  # the first epoch, or one with another loss term
            self.write_rows()
        else:
            with self.files.metrics.open("a", newline="") as metrics:
                csv.DictWriter(metrics, self.columns).writerow(rounded)
        known = {column: value for column, value in row.items() if value is not None}
        for column, value in known.items():
            if column != "epoch":
                self.tensorboard.add_scalar(tag_of(column), value, row["epoch"])
        self.tensorboard.flush()
        if self.wandb:
            self.wandb.log(known, step=row["epoch"])

    def write_rows(self) -> None:
        """Write metrics.csv anew."""
        with atomic_write(self.files.metrics) as file:
            text = io.TextIOWrapper(file, newline="")
            writer = csv.DictWriter(text, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
            text.detach()

    def state_dict(self) -> dict[str, Any]:
        """What has been told so far: the log's length in bytes, and the rows of metrics.csv."""
        return {"position": self.files.log.stat().st_size, "columns": list(self.columns), "rows": list(self.rows)}

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None:
            log_file, _ = self.logger.handlers  # whoever catches the error tells the terminal
            for line in as_lines(f"Stopped: {error!r}", self.folder):
                log_file.handle(self.logger.makeRecord("", logging.ERROR, "", 0, line, (), None))
        self.tensorboard.close()
        if self.wandb:
            self.wandb.finish(exit_code=0 if error is None else 1)
        for handler in list(self.logger.handlers):
            self.logger.removeHandler(handler)
            handler.close()
