"""What a run reports: its log, TensorBoard scalars, metrics.csv and the config that ran."""

import contextlib
import csv
import errno
import hashlib
import io
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from mdistiller.errors import UserError, printable

from .board import EventFile, link_runs
from .cfg import CFG
from .lines import as_lines
from .runs import RunFiles
from .signals import Stopped
from .values import dump, parse_yaml
from .writing import atomic_write, writing

COLUMNS = (
    "epoch,lr,train_loss,train_top1,train_top5,test_loss,test_top1,test_top5,images_per_second,seconds,"
    "teacher_top1,best_top1"
).split(",")
DIGITS = 6  # of metrics.csv
KEPT = "; finished epochs are kept"
STOPPED = "Stopped: "  # how the lines begin that say why a run ended early


class QuietLog:
    """What a process reports that is not the first of several: nothing."""

    shows_pictures = False

    def line(self, message: str, wrap: bool = True) -> None: ...

    def epoch(self, row: dict[str, Any]) -> None: ...

    def scalars(self, values: dict[str, float], epoch: int) -> None: ...

    def picture(self, tag: str, pixels: torch.Tensor, epoch: int) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}


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
    options |= {
        "id": hashlib.sha256(files.name.encode()).hexdigest()[:16],
        "resume": "allow",
    }  # one run, resumed or not
    return import_wandb().init(**options, config=parse_yaml(dump(cfg), "config"))


def take_back(log: Path, position: int) -> None:
    """Cut a log off at `position`, in bytes, but for the lines that say why the run stopped there."""
    if not log.exists():
        return
    text = log.read_bytes()
    lines = text[position:].splitlines(keepends=True)
    stop = next((number for number, line in enumerate(lines) if f" - {STOPPED}".encode() in line), len(lines))
    with atomic_write(log) as file:
        file.write(text[:position] + b"".join(lines[stop:]))


def round_to(value: Any, digits: int = DIGITS) -> Any:
    """A float with so many significant digits; anything else as it is."""
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def tag_of(column: str, judged_on: str) -> str:
    """The name that a column of metrics.csv has in TensorBoard: grouped by what it is measured on."""
    split, _, rest = column.partition("_")
    if split in ("train", "validation", "test"):
        return f"{split}/{rest}"
    return f"{judged_on}/{column}" if column.endswith("_top1") else f"train/{column}"


class RunLog:
    """Writes what a run reports: lines to the log and stdout, scalars to TensorBoard, a row an epoch to metrics.csv.

    wandb: a run of Weights & Biases that gets the rows too, where there is one. state: a `state_dict`, to go on from
    there; what was told since is taken back. judged_on: "test" or "validation", the images that choose the best.
    """

    shows_pictures = True

    def __init__(
        self,
        files: RunFiles,
        config_text: str,
        wandb: Any = None,
        state: dict[str, Any] | None = None,
        judged_on: str = "test",
    ):
        self.judged_on = judged_on
        state = state or {"position": 0, "columns": [], "rows": []}
        self.files, self.wandb, self.folder = files, wandb, Path.cwd()
        self.columns: list[str] = list(state["columns"])
        self.rows: list[dict[str, Any]] = list(state["rows"])
        with atomic_write(files.config) as file:
            file.write(config_text.encode())
        with writing(files.log):
            take_back(files.log, state["position"])
            self.file = files.log.open("a", encoding="utf-8", errors="backslashreplace")
        with writing(files.folder):
            if self.rows:
                self.write_rows()
            else:
                files.metrics.unlink(missing_ok=True)
            self.events = EventFile(files.folder, first_step=self.rows[-1]["epoch"] + 1 if self.rows else 1)
            self.events.add_settings(config_text, judged_on)
        link_runs(files.log.parents[1])

    def line(self, message: str, wrap: bool = True) -> None:
        """Tell `message` in lines that fit a terminal, or in one where others count on its wording."""
        for line in as_lines(message, self.folder) if wrap else [message]:
            with writing(self.files.log, KEPT):
                stamped = self.write(printable(line))
            with writing("to the standard output", KEPT):
                try:
                    print(stamped, flush=True)
                except BrokenPipeError as error:  # whoever reads it, such as `head`, has enough
                    raise Stopped(signal.SIGPIPE) from error
                except OSError as error:
                    if error.errno != errno.EIO:  # a terminal that is gone: whoever left it counts on the log
                        raise

    def write(self, line: str) -> str:
        """Add `line` to the log alone; returns it as it stands there, with the time."""
        now = time.time()
        stamped = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(now))},{int(now % 1 * 1000):03d} - {line}"
        print(stamped, file=self.file, flush=True)
        return stamped

    def epoch(self, row: dict[str, Any]) -> None:
        """Record an epoch: the values of COLUMNS, None for what is not known, then each loss term, which may come late.

        metrics.csv gets them with DIGITS significant digits.
        """
        self.columns += [column for column in row if column not in self.columns]
        self.rows.append({column: round_to(value) for column, value in row.items()})
        if not self.files.folder.is_dir():
            raise UserError(f"{self.files.folder} was removed, where metrics.csv and TensorBoard's events go{KEPT}")
        self.write_rows()
        known = {column: value for column, value in row.items() if value is not None}
        scalars = {tag_of(name, self.judged_on): value for name, value in known.items() if name != "epoch"}
        self.scalars(scalars, row["epoch"])
        if self.wandb:
            self.wandb.log(known, step=len(self.rows))

    def scalars(self, values: dict[str, float], epoch: int) -> None:
        """Show numbers, by their tags, in TensorBoard."""
        with writing(self.files.folder, KEPT):
            self.events.add_scalars(values, epoch)

    def picture(self, tag: str, pixels: torch.Tensor, epoch: int) -> None:
        """Show a picture, uint8 (3, height, width), in TensorBoard."""
        with writing(self.files.folder, KEPT):
            self.events.add_image(tag, pixels, epoch)

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
        return {
            "position": os.fstat(self.file.fileno()).st_size,
            "columns": list(self.columns),
            "rows": list(self.rows),
        }

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is not None:  # whoever catches it tells the terminal
            reason = str(error) if isinstance(error, (UserError, Stopped)) else repr(error)
            with contextlib.suppress(OSError):
                for line in as_lines(f"{STOPPED}{reason}", self.folder):
                    self.write(printable(line))
        for file in (self.events, self.file):
            with contextlib.suppress(OSError):  # all of it is flushed as it is written
                file.close()
        if self.wandb:
            self.wandb.finish(exit_code=0 if error is None else 1)
