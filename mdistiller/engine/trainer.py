"""The training loop."""

import math
import time
from dataclasses import asdict
from typing import Any

from mdistiller.dataset import Data
from mdistiller.distillers import Distiller
from mdistiller.errors import UserError

from .describe import describe_best, describe_epoch
from .metrics import Meter, NotFinite, Progress, Result, evaluate
from .optim import build_minimiser, learning_rate
from .precision import Precision, gradient_scaler, set_backends
from .runlog import COLUMNS, RunLog
from .runs import RunFiles, save_best
from .seeds import generators_state, set_generators_state
from .signals import held
from .weights import save_checkpoint


class Trainer:
    """Trains a distiller's student on `data.train`, evaluates it each epoch, keeps the best.

    meta: what a weight file tells of its run, to which each epoch's results are added.
    """

    def __init__(self, cfg: Any, distiller: Distiller, data: Data, files: RunFiles, log: RunLog, meta: dict[str, Any]):
        self.cfg, self.distiller, self.data, self.files, self.log, self.meta = cfg, distiller, data, files, log, meta
        self.device = data.train.device
        self.precision = Precision(cfg.SOLVER, self.device)
        scaler = gradient_scaler(cfg.SOLVER, self.device)
        self.optimizer = build_minimiser(cfg.SOLVER, distiller.get_learnable_parameters(), scaler)
        self.meter = Meter(self.device)
        self.split = "validation" if data.val else "test"
        self.epoch = self.saved_epoch = self.best_epoch = 0
        self.kept: str | None = None  # why the best has not the published name
        self.best = Result(math.inf, -math.inf, -math.inf, 0)

    def fit(self) -> Result:
        """Run all epochs that are left; returns the best student's result.

        Raises NotFinite where a loss, or a weight, is no longer finite, and UserError where no epoch could be the best.
        """
        started, before, epochs = time.monotonic(), self.epoch, self.cfg.SOLVER.EPOCHS
        set_backends(self.cfg.SOLVER)
        while self.epoch < epochs:
            self.epoch += 1
            self.log.line(f"Epoch: {self.epoch} / {epochs}")
            self.optimizer.lr = learning_rate(self.cfg.SOLVER, self.epoch)
            train, terms, seconds = self.train_epoch()
            judged = evaluate(self.distiller.student, self.data.val or self.data.test)
            self.check(judged)
            with held():
                self.save(judged)  # first: the log may have no room
                self.report(train, terms, seconds, judged)
                left = (time.monotonic() - started) / (self.epoch - before) * (epochs - self.epoch)
                self.log.line(describe_epoch(self.epoch, train.images, seconds, left))
        minutes, seconds = divmod(round(time.monotonic() - started), 60)
        if not self.best_epoch:
            raise UserError(
                f"the {self.split} loss was finite after none of {epochs} epochs, so that none is the best; "
                f"the last is kept in {self.files.last}; try a lower SOLVER.LR, or more SOLVER.EPOCHS"
            )
        if self.kept:
            self.log.line(self.kept)
        self.log.line(describe_best(self.split, self.best.top1, self.best_epoch, self.files.best))
        self.log.line(f"Learning Time: {minutes}m {seconds}s")
        return self.best

    def train_epoch(self) -> tuple[Result, dict[str, float], float]:
        """One pass over the training set; returns its averages, those of each loss term, and its seconds."""
        self.distiller.train()
        self.meter, started = Meter(self.device), time.monotonic()
        title = f"Epoch {self.epoch}/{self.cfg.SOLVER.EPOCHS}"
        with Progress(self.meter, title, self.data.train.num_images_per_epoch) as progress:
            for batch in self.data.train:
                with self.precision:
                    logits, losses = self.distiller(**batch, epoch=self.epoch)
                self.optimizer.backward(losses)
                self.optimizer.step()
                self.meter.update(losses, logits, batch["target"])
                progress.show()
        return *self.meter.read(), time.monotonic() - started

    def check(self, judged: Result) -> None:
        """Raise NotFinite where a loss that is not finite comes from weights that no training mends."""
        if math.isfinite(judged.loss):
            return
        for name, values in self.distiller.student.state_dict().items():
            if not values.isfinite().all():
                raise NotFinite(f"the student's {name}")

    def report(self, train: Result, terms: dict[str, float], seconds: float, judged: Result) -> None:
        """Tell the log what an epoch reached."""
        self.log.line(f"Train {train}")
        self.log.line(f"{self.split.capitalize()} {judged}")
        if not math.isfinite(judged.loss):
            self.log.line(f"Warning: the {self.split} loss is not finite, so that this epoch cannot be the best")
        speed = {"images_per_second": train.images / seconds, "seconds": seconds}
        tops = {"teacher_top1": self.meta.get("teacher_top1"), "best_top1": self.best.top1 if self.best_epoch else None}
        row = {"epoch": self.epoch, "lr": self.optimizer.lr, **train.row("train"), **judged.row(self.split)}
        known = {**dict.fromkeys(COLUMNS), **row, **speed, **tops}
        # A user's distiller file may call a term as a column is called.
        self.log.epoch(known | {f"loss_{name}" if name in known else name: value for name, value in terms.items()})

    def save(self, judged: Result) -> None:
        """Keep the student where it is the best so far, and always what the next epoch starts from."""
        student = self.distiller.student.state_dict()
        meta = self.meta | {"epoch": self.epoch, "top1": judged.top1, "top5": judged.top5, "loss": judged.loss}
        if judged.top1 > self.best.top1 and math.isfinite(judged.loss):
            self.best, self.best_epoch = judged, self.epoch
            self.kept = save_best(self.files, {"model": student, "meta": meta})
        save_checkpoint({"model": student, "meta": meta, "training": self.state_dict()}, self.files.last)
        self.saved_epoch = self.epoch

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on, but for what never changes: a constant teacher, data and config."""
        left_out = "teacher." if self.distiller.teacher_is_constant else ()
        return {
            "epoch": self.epoch,
            "best": {"epoch": self.best_epoch, **asdict(self.best)},
            "distiller": {k: v for k, v in self.distiller.state_dict().items() if not k.startswith(left_out)},
            "optimizer": self.optimizer.state_dict(),
            "loader": self.data.train.state_dict(),
            "generators": generators_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a run with the same config, data and teacher."""
        self.epoch = self.saved_epoch = state["epoch"]
        best = dict(state["best"])
        self.best_epoch, self.best = best.pop("epoch"), Result(**best)
        kept = self.distiller.state_dict()
        self.distiller.load_state_dict({k: v for k, v in kept.items() if k.startswith("teacher.")} | state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.data.train.load_state_dict(state["loader"])
        set_generators_state(state["generators"])
