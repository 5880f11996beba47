"""The training loop."""

import math
import time
from dataclasses import asdict
from typing import Any

from torch import nn

from mdistiller.dataset import Data
from mdistiller.distillers import Distiller
from mdistiller.errors import UserError

from .checkpoint import Checkpointer
from .describe import describe_best, describe_epoch
from .distributed import ONE, Processes
from .freezing import set_train_mode
from .metrics import Meter, NotFinite, Progress, Result, evaluate
from .optim import WeightAverage, build_minimiser
from .pictures import show_augmented, show_difference
from .precision import Precision, gradient_scaler, set_backends
from .runlog import COLUMNS, QuietLog, RunLog
from .runs import RunFiles, save_best
from .seeds import generators_state, set_generators_state
from .signals import Stopped, held
from .solver import learning_rate
from .weights import load_weights


class Trainer:
    """Trains a distiller's student on `data.train`, evaluates it each epoch, keeps the best.

    meta: what a weight file tells of its run, to which each epoch's results are added.
    finished: epochs that are behind; steps: those of the epoch that runs.
    """

    def __init__(
        self,
        cfg: Any,
        distiller: Distiller,
        data: Data,
        files: RunFiles,
        log: RunLog | QuietLog | None,
        meta: dict[str, Any],
        processes: Processes = ONE,
    ):
        self.cfg, self.distiller, self.data, self.files, self.meta = cfg, distiller, data, files, meta
        self.log = log or QuietLog()
        self.device, self.processes = data.train.device, processes
        self.precision = Precision(cfg.SOLVER, self.device)
        scaler = gradient_scaler(cfg.SOLVER, self.device)
        self.optimizer = build_minimiser(cfg.SOLVER, distiller.get_learnable_parameters(), scaler)
        is_plain = self.optimizer.passes == 1 and not distiller.takes_new_sections
        self.model = processes.wrap(distiller, is_plain)
        self.optimizer.average = None if is_plain else processes.average
        self.average = WeightAverage(distiller.student, cfg.SOLVER.EMA) if cfg.SOLVER.EMA else None
        self.checkpointer = Checkpointer(cfg.LOG, files)
        self.meter = Meter(self.device, processes)
        self.split = "validation" if data.val else "test"
        self.finished = self.best_epoch = 0
        self.kept: str | None = None  # why the best has not the published name
        self.best = Result(math.inf, -math.inf, -math.inf, 0)
        self.seconds = {"epoch": 0.0, "run": 0.0}  # of training in this epoch, of all
        self.untold: dict[str, Any] | None = None  # a finished epoch's report, until the log has it

    @property
    def epoch(self) -> int:
        return self.finished + 1

    @property
    def student(self) -> nn.Module:
        """The network that is evaluated and saved: the student, or the average of its weights."""
        return self.average.module if self.average else self.distiller.student

    @property
    def steps(self) -> int:
        return self.meter.steps + self.meter.skipped

    def fit(self) -> Result:
        """Run all epochs that are left; returns the best student's result on the test images.

        Raises NotFinite where a loss, gradient or weight is no longer finite, and UserError where no epoch could be the
        best. What a signal stops is saved first.
        """
        set_backends(self.cfg.SOLVER)
        try:
            with held():
                self.checkpointer.save(self)  # so that a run can be resumed from its first step on
                self.tell()
            if self.finished == self.steps == 0:
                show_difference(self)
            while self.finished < self.cfg.SOLVER.EPOCHS:
                if self.steps == 0:
                    self.log.line(f"Epoch: {self.epoch} / {self.cfg.SOLVER.EPOCHS}")
                self.train_epoch()
                self.judge_epoch()
        except Stopped:  # which comes between steps
            self.checkpointer.save(self)
            raise
        return self.end()

    def train_epoch(self) -> None:
        """What is left of one pass over the training set."""
        self.optimizer.lr = learning_rate(self.cfg.SOLVER, self.epoch)
        set_train_mode(self.distiller, self.cfg)
        self.data.train.load_state_dict({"epoch": self.finished, "batch": self.steps})
        title = f"Epoch {self.epoch}/{self.cfg.SOLVER.EPOCHS}"
        with Progress(self.meter, title, self.data.train.num_images_per_epoch, self.processes.is_first) as progress:
            started = time.monotonic()
            for batch in self.data.train:
                with held():
                    self.train_step(batch)
                    started = self.count_seconds(started, "epoch", "run")
                    self.checkpointer.maybe_save(self)
                progress.show()

    def train_step(self, batch: dict[str, Any]) -> None:
        """Forward, losses, backward, step."""
        self.processes.begin(self.data.train, self.steps, self.cfg.EXPERIMENT.SEED, self.finished)
        show_augmented(self, batch)
        buffers = [buffer.clone() for buffer in self.distiller.buffers()] if self.optimizer.skips else []
        with self.precision:
            logits, losses = self.model(**batch, epoch=self.epoch)
        weight, is_last = self.data.train.part_of_group(self.steps, self.cfg.SOLVER.ACCUMULATE)
        self.optimizer.backward({name: loss * weight for name, loss in self.processes.weighed(losses).items()})
        if not is_last:
            self.meter.update(losses, logits, batch["target"])
            return
        gradient_norm = self.optimizer.step()
        if gradient_norm is not None:
            if self.average:
                self.average.update_parameters(self.distiller.student)
            self.meter.update(losses, logits, batch["target"], gradient_norm)
        else:
            for buffer, before in zip(self.distiller.buffers(), buffers, strict=True):
                buffer.copy_(before)
            self.meter.skip()

    def judge_epoch(self) -> None:
        """Evaluate the student, save it, and tell the log; a signal waits until what belongs together is written."""
        train, terms = self.meter.read()
        started = time.monotonic()
        self.processes.copy(self.distiller.buffers())  # each has the statistics of its own part of the batches
        if self.average:
            self.processes.copy(self.average.buffers())
        judged = evaluate(self.student, self.data.val or self.data.test, processes=self.processes)
        self.check(judged)
        self.count_seconds(started, "run")
        with held():
            if math.isfinite(judged.loss) and judged.top1 > self.best.top1:
                self.best, self.best_epoch = judged, self.epoch
            self.untold = {
                "train": asdict(train),
                "terms": terms,
                "judged": asdict(judged),
                "seconds": self.seconds["epoch"],
            }
            self.finished += 1
            self.meter, self.seconds["epoch"] = Meter(self.device, self.processes), 0.0
            if self.best_epoch == self.finished and self.processes.is_first:
                self.kept = save_best(self.files, {"model": self.student.state_dict(), "meta": self.about()})
            self.checkpointer.save(self)  # before the log, which may have no room
            self.tell()

    def check(self, judged: Result) -> None:
        """Raise NotFinite where a loss that is not finite comes from weights that no training mends."""
        if math.isfinite(judged.loss):
            return
        for name, values in self.student.state_dict().items():
            if not values.isfinite().all():
                raise NotFinite(f"the student's {name}")

    def tell(self) -> None:
        """Tell the log what the epoch before reached, where it does not know yet."""
        if self.untold is None:
            return
        untold, self.untold = self.untold, None
        train, judged, seconds = Result(**untold["train"]), Result(**untold["judged"]), untold["seconds"]
        self.log.line(f"Train {train}")
        self.log.line(f"{self.split.capitalize()} {judged}")
        if not math.isfinite(judged.loss):
            self.log.line(f"Warning: the {self.split} loss is not finite, so that this epoch cannot be the best")
        speed = {"images_per_second": train.images / seconds, "seconds": seconds}
        tops = {"teacher_top1": self.meta.get("teacher_top1"), "best_top1": self.best.top1 if self.best_epoch else None}
        lr = learning_rate(self.cfg.SOLVER, self.finished)
        row = {"epoch": self.finished, "lr": lr, **train.row("train"), **judged.row(self.split)}
        known, terms = {**dict.fromkeys(COLUMNS), **row, **speed, **tops}, untold["terms"]
        # A user's distiller file may call a term as a column is called.
        self.log.epoch(known | {f"loss_{name}" if name in known else name: value for name, value in terms.items()})
        left = self.seconds["run"] / self.finished * (self.cfg.SOLVER.EPOCHS - self.finished)
        self.log.line(describe_epoch(self.finished, train.images, seconds, left))

    def end(self) -> Result:
        """The log's last lines."""
        if not self.best_epoch:
            raise UserError(
                f"the {self.split} loss was finite after none of {self.finished} epochs, so that none is the best; "
                f"the last is kept in {self.files.last}; try a lower SOLVER.LR, or more SOLVER.EPOCHS"
            )
        if self.kept:
            self.log.line(self.kept)
        self.log.line(describe_best(self.split, self.best.top1, self.best_epoch, self.files.best))
        result = self.best
        if self.data.val:  # whose images chose the best student; the test images are asked once
            student = self.student
            self.processes.first(lambda: load_weights(student, self.files.best, self.cfg.DISTILLER.STUDENT) and None)
            self.processes.copy([*student.parameters(), *student.buffers()])
            result = evaluate(student, self.data.test, processes=self.processes)
            self.log.line(f"Test {result}")
            scalars = {"test/loss": result.loss, "test/top1": result.top1, "test/top5": result.top5}
            self.log.scalars(scalars, self.best_epoch)
        show_difference(self)
        minutes, seconds = divmod(round(self.seconds["run"]), 60)
        self.log.line(f"Learning Time: {minutes}m {seconds}s")
        if self.processes.is_first:
            self.files.previous.unlink(missing_ok=True)
        return result

    def count_seconds(self, started: float, *spans: str) -> float:
        """Add what has passed since `started` to `spans` of `seconds`; returns the time now."""
        now = time.monotonic()
        for span in spans:
            self.seconds[span] += now - started
        return now

    def about(self) -> dict[str, Any]:
        """What a weight file tells of the student as it is."""
        judged = self.untold["judged"] if self.untold else {}
        return self.meta | {"epoch": self.finished} | {key: value for key, value in judged.items() if key != "images"}

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, but for what never changes: a constant teacher, data and config."""
        left_out = "teacher." if self.distiller.teacher_is_constant else ()
        return {
            "finished": self.finished,
            "best": {"epoch": self.best_epoch, **asdict(self.best)},
            "kept": self.kept,
            "distiller": {k: v for k, v in self.distiller.state_dict().items() if not k.startswith(left_out)},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "generators": generators_state(),
            "meter": self.meter.state_dict(),
            "seconds": dict(self.seconds),
            "untold": self.untold,
            "log": self.log.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a run with the same config, data and teacher."""
        self.finished, self.kept, self.untold = state["finished"], state["kept"], state["untold"]
        best = dict(state["best"])
        self.best_epoch, self.best = best.pop("epoch"), Result(**best)
        kept = self.distiller.state_dict()
        self.distiller.load_state_dict({k: v for k, v in kept.items() if k.startswith("teacher.")} | state["distiller"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.meter.load_state_dict(state["meter"])
        self.seconds = dict(state["seconds"])
        set_generators_state(state["generators"])
