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
from .describe import describe_best
from .distributed import ONE, Processes
from .freezing import set_train_mode
from .metrics import Meter, Progress, Result, evaluate, require_finite
from .optim import WeightAverage
from .pictures import show_augmented, show_difference
from .precision import Precision, set_backends
from .report import report
from .runlog import QuietLog, RunLog
from .runs import RunFiles, save_best
from .seeds import generators_state, set_generators_state
from .signals import Stopped, held
from .solver import learning_rate
from .stages import enter, epoch_of, initial_epochs, solver_of
from .weights import load_weights


class Trainer:
    """Trains a distiller's student on `data.train`, evaluates it each epoch, keeps the best.

    A method's initial stage comes first, by a solver of its own; no student is evaluated in it.
    meta: what a weight file tells of its run, to which each epoch's results are added.
    finished, initial_finished: the student's epochs that are behind, and those of the initial stage; steps: those of
    the epoch that runs.
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
        self.initial_epochs = initial_epochs(cfg, type(distiller))
        self.finished = self.initial_finished = self.best_epoch = 0
        self.enter_stage()
        self.average = WeightAverage(distiller.student, cfg.SOLVER.EMA) if cfg.SOLVER.EMA else None
        self.checkpointer = Checkpointer(cfg.LOG, files)
        self.meter = Meter(self.device, processes)
        self.split = "validation" if data.val else "test"
        self.kept: str | None = None  # why the best has not the published name
        self.best = Result(math.inf, -math.inf, -math.inf, 0)
        self.seconds = {"epoch": 0.0, "run": 0.0}  # of training in this epoch, of all
        self.untold: dict[str, Any] | None = None  # a finished epoch's report, until the log has it

    def enter_stage(self) -> None:
        """Take up what the next epoch trains, by an optimiser of its own."""
        self.is_initial = self.initial_finished < self.initial_epochs
        self.title = "Initial Stage" if self.is_initial else "Epoch"
        self.solver = solver_of(self.cfg, type(self.distiller), self.is_initial)
        self.optimizer, self.model = enter(self.distiller, self.solver, self.is_initial, self.device, self.processes)

    @property
    def epoch(self) -> int:
        """The one that runs, counted from 1 in its stage."""
        return (self.initial_finished if self.is_initial else self.finished) + 1

    @property
    def behind(self) -> int:
        """Epochs of both stages."""
        return self.initial_finished + self.finished

    @property
    def where(self) -> str:
        return epoch_of(self.epoch, self.is_initial)

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
                    self.log.line(f"{self.title}: {self.epoch} / {self.solver.EPOCHS}")
                self.train_epoch()
                self.judge_epoch()
        except Stopped:  # which comes between steps
            self.checkpointer.save(self)
            raise
        return self.end()

    def train_epoch(self) -> None:
        """What is left of one pass over the training set."""
        self.optimizer.lr = learning_rate(self.solver, self.epoch)
        set_train_mode(self.distiller, self.cfg)
        self.data.train.load_state_dict({"epoch": self.behind, "batch": self.steps})
        title = f"{self.title} {self.epoch}/{self.solver.EPOCHS}"
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
        self.processes.begin(self.data.train, self.steps, self.cfg.EXPERIMENT.SEED, self.behind)
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
            if self.average and not self.is_initial:
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
        averages = self.average.buffers() if self.average else ()
        self.processes.copy([*self.distiller.buffers(), *averages])  # each has the statistics of its own parts
        judged = None
        if not self.is_initial:
            judged = evaluate(self.student, self.data.val or self.data.test, processes=self.processes)
            require_finite(self.student, judged)
        self.count_seconds(started, "run")
        with held():
            if judged and math.isfinite(judged.loss) and judged.top1 > self.best.top1:
                self.best, self.best_epoch = judged, self.epoch
            told = {"train": asdict(train), "terms": terms, "judged": judged and asdict(judged)}
            self.untold = {**told, "seconds": self.seconds["epoch"]}
            self.finished += not self.is_initial
            self.initial_finished += self.is_initial
            if self.is_initial and self.initial_finished == self.initial_epochs:
                self.enter_stage()
            self.meter, self.seconds["epoch"] = Meter(self.device, self.processes), 0.0
            if judged and self.best_epoch == self.finished and self.processes.is_first:
                self.kept = save_best(self.files, {"model": self.student.state_dict(), "meta": self.about()})
            self.checkpointer.save(self)  # before the log, which may have no room
            self.tell()

    def tell(self) -> None:
        """Tell the log what the epoch before reached, where it does not know yet."""
        untold, self.untold = self.untold, None
        if untold is not None:
            report(self, untold)

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
        judged = (self.untold and self.untold["judged"]) or {}
        return self.meta | {"epoch": self.finished} | {key: value for key, value in judged.items() if key != "images"}

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, but for what never changes: a constant teacher, data and config."""
        left_out = "teacher." if self.distiller.teacher_is_constant else ()
        return {
            "finished": self.finished,
            "initial_finished": self.initial_finished,
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
        self.initial_finished = state.get("initial_finished", 0)  # of a version without such stages
        if self.is_initial and self.initial_finished == self.initial_epochs:
            self.enter_stage()
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
