"""What a run reports: its log, TensorBoard scalars, metrics.csv and the config that ran."""

import csv
import io
import logging
import sys
from typing import Any

from yacs.config import CfgNode as CN

from mdistiller.errors import UserError

from .cfg import CFG
from .runs import RunFiles
from .values import dump, parse_yaml
from .weights import atomic_write

COLUMNS = "epoch,lr,train_loss,train_top1,train_top5,test_loss,test_top1,test_top5,images_per_second,seconds".split(",")


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


class RunLog:
    """Writes what a run reports: lines to the log and stdout, scalars to TensorBoard, a row an epoch to metrics.csv.

    wandb: a run of Weights & Biases that gets the rows too, where there is one.
    """

    def __init__(self, files: RunFiles, config_text: str, wandb: Any = None):
        from torch.utils.tensorboard import SummaryWriter  # takes long to import, and only runs need it

        self.files, self.wandb = files, wandb
        self.columns: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.tensorboard = SummaryWriter(str(files.folder))
        self.logger = logging.Logger(files.name)
        for handler in (logging.FileHandler(files.log), logging.StreamHandler(sys.stdout)):
            handler.setFormatter(logging.Formatter("%(asctime)s - %(message)s"))
            self.logger.addHandler(handler)
        files.config.write_text(config_text)

    def line(self, message: str) -> None:
        self.logger.info(message)

    def epoch(self, row: dict[str, Any]) -> None:
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
            with self.files.metrics.open("a", newline="") as metrics:
                csv.DictWriter(metrics, self.columns).writerow(row)
        for column, value in row.items():
            if column != "epoch" and value is not None:
                split, _, rest = column.partition("_")
                tag = f"{split}/{rest}" if split in ("train", "validation", "test") else f"train/{column}"
                self.tensorboard.add_scalar(tag, value, row["epoch"])
        self.tensorboard.flush()
        if self.wandb:
            self.wandb.log(row, step=row["epoch"])

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None:
            log_file, _ = self.logger.handlers  # whoever catches the error tells the terminal
            log_file.handle(self.logger.makeRecord("", logging.ERROR, "", 0, f"Stopped: {error!r}", (), None))
        self.tensorboard.close()
        if self.wandb:
            self.wandb.finish(exit_code=0 if error is None else 1)
        for handler in list(self.logger.handlers):
            self.logger.removeHandler(handler)
            handler.close()
