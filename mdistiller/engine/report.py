"""What the log is told of an epoch."""

import math
from typing import Any

from .describe import describe_epoch
from .metrics import Result
from .runlog import COLUMNS
from .solver import learning_rate
from .stages import epoch_of, solver_of


def report(trainer: Any, untold: dict[str, Any]) -> None:
    """Tell the log of `trainer` what the last epoch reached: averages in training, the student judged, seconds.

    An epoch of the initial stage has judged nobody; its row has the epochs 0, −1, …, counted back from the last.
    """
    log, train, seconds = trainer.log, Result(**untold["train"]), untold["seconds"]
    is_initial = untold["judged"] is None
    if is_initial:
        log.line(f"Initial Loss: {train.loss:.4f}")
        number = trainer.initial_finished
        row = {"epoch": number - trainer.initial_epochs}
    else:
        number, judged = trainer.finished, Result(**untold["judged"])
        log.line(f"Train {train}")
        log.line(f"{trainer.split.capitalize()} {judged}")
        if not math.isfinite(judged.loss):
            log.line(f"Warning: the {trainer.split} loss is not finite, so that this epoch cannot be the best")
        row = {"epoch": number, **train.row("train"), **judged.row(trainer.split)}
    row |= {"lr": learning_rate(solver_of(trainer.cfg, type(trainer.distiller), is_initial), number)}
    row |= {"images_per_second": train.images / seconds, "seconds": seconds}
    row |= {"teacher_top1": trainer.meta.get("teacher_top1")}
    row |= {"best_top1": trainer.best.top1 if trainer.best_epoch else None}
    known, terms = {**dict.fromkeys(COLUMNS), **row}, untold["terms"]
    # A user's distiller file may call a term as a column is called.
    log.epoch(known | {f"loss_{name}" if name in known else name: value for name, value in terms.items()})
    epochs = trainer.initial_epochs + trainer.cfg.SOLVER.EPOCHS
    left = trainer.seconds["run"] / trainer.behind * (epochs - trainer.behind)
    log.line(describe_epoch(epoch_of(number, is_initial), train.images, seconds, left))
