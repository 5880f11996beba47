"""The training loop."""

import inspect
import math
import random
import time
from dataclasses import asdict

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from mdistiller.distillers import is_file_reference
from mdistiller.errors import UserError

from .acceleration import autocast, begin_step, gradient_scaler, set_backends
from .checkpoint import save_checkpoint
from .evaluation import Result, count_correct, evaluate
from .optimizers import build_optimizer
from .runs import COLUMNS, RunFiles, RunLog, save_best

SECONDS_BETWEEN_READS = 0.5  # reading a value back makes the host wait for the device


def learning_rate(solver, epoch: int) -> float:
    """Learning rate of epoch `epoch` (from 1): LR, times LR_DECAY_RATE after each of LR_DECAY_STAGES."""
    return solver.LR * solver.LR_DECAY_RATE ** sum(epoch > stage for stage in solver.LR_DECAY_STAGES)


def accepted_keywords(function) -> set[str] | None:
    """Names of the arguments of `function`, or None where it takes any."""
    parameters = inspect.signature(function).parameters.values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return None if takes_any else {parameter.name for parameter in parameters}


class Meter:
    """Sums of losses and hits over an epoch, kept on `device` until they are read."""

    def __init__(self, device="cpu"):
        self.images = self.steps = 0
        self.read_at = time.monotonic()
        self.names: list[str] = []
        self.sums = torch.zeros(0, dtype=torch.float64, device=device)
        self.failed_at = self.sums.clone()  # a term's first step that was not finite
        self.correct = torch.zeros(2, dtype=torch.int64, device=device)

    def update(self, losses: dict, logits: torch.Tensor, target: torch.Tensor) -> None:
        """losses: {name: scalar}, of which some may come later; logits: (batch, classes); target: (batch,)."""
        new = [name for name in losses if name not in self.names]
        if new:
            self.names += new
            self.sums = torch.cat([self.sums, self.sums.new_zeros(len(new))])
            self.failed_at = torch.cat([self.failed_at, self.sums.new_full((len(new),), math.inf)])
        zero = self.sums.new_zeros(())
        values = torch.stack([losses[name].detach().double() if name in losses else zero for name in self.names])
        self.sums = self.sums + values * len(target)
        self.failed_at = self.failed_at.minimum(torch.where(values.isfinite(), math.inf, self.steps))
        self.correct = self.correct + count_correct(logits.detach(), target)
        self.images += len(target)
        self.steps += 1

    def read(self) -> tuple[Result, dict]:
        """Averages so far, and those of each loss term.

        Raises FloatingPointError, with the name of the term that was the first not to be finite.
        """
        failed_at = dict(zip(self.names, self.failed_at.tolist(), strict=True))
        name = min(failed_at, key=failed_at.get)
        if failed_at[name] < math.inf:
            raise FloatingPointError(name)
        losses = (self.sums / self.images).tolist()
        top1, top5 = (100 * self.correct / self.images).tolist()
        return Result(sum(losses), top1, top5, self.images), dict(zip(self.names, losses, strict=True))


class Trainer:
    """Trains a distiller's student on `data.train`, evaluates it on `data.test` each epoch, keeps the best.

    meta: what a weight file tells of its run, to which each epoch's results are added.
    """

    def __init__(self, cfg, distiller: nn.Module, data, files: RunFiles, log: RunLog, meta: dict):
        self.cfg, self.distiller, self.data, self.files, self.log, self.meta = cfg, distiller, data, files, log, meta
        self.device = data.train.device
        self.scaler = gradient_scaler(cfg.SOLVER, self.device)
        self.optimizer = build_optimizer(cfg.SOLVER, distiller.get_learnable_parameters())
        self.keywords = accepted_keywords(distiller.forward_train)
        self.best, self.best_epoch = None, 0

    def fit(self) -> Result:
        """Run all epochs; returns the best student's result. Raises UserError where a loss is no longer finite."""
        started, epochs = time.monotonic(), self.cfg.SOLVER.EPOCHS
        set_backends(self.cfg.SOLVER)
        for epoch in range(1, epochs + 1):
            self.log.line(f"Epoch: {epoch} / {epochs}")
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.cfg.SOLVER, epoch)
            train, terms, seconds = self.train_epoch(epoch)
            test = evaluate(self.distiller.student, self.data.test)
            if not math.isfinite(test.loss):
                raise self.failure("test loss", epoch)
            self.report(epoch, train, terms, seconds, test)
            self.save(epoch, test)
        minutes, seconds = divmod(round(time.monotonic() - started), 60)
        self.log.line(f"Best Test Top-1 Accuracy: {self.best.top1:.2f}, epoch {self.best_epoch}, {self.files.best}")
        self.log.line(f"Learning Time: {minutes}m {seconds}s")
        return self.best

    def train_epoch(self, epoch: int) -> tuple[Result, dict, float]:
        """One pass over the training set; returns its averages, those of each loss term, and its seconds."""
        self.distiller.train()
        meter, started = Meter(self.device), time.monotonic()
        with self.progress_bar(epoch) as bar:
            for batch in self.data.train:
                logits, losses = self.forward(batch, meter, epoch)
                self.optimizer.minimise(losses, self.scaler)
                meter.update(losses, logits, batch["target"])
                self.show(bar, meter, epoch)
        train, terms = self.read(meter, epoch)
        return train, terms, time.monotonic() - started

    def forward(self, batch: dict, meter: Meter, epoch: int) -> tuple[torch.Tensor, dict]:
        """The student's logits (batch, classes) and the losses as scalars."""
        keywords = batch | {"epoch": epoch}
        if self.keywords is not None:
            keywords = {name: value for name, value in keywords.items() if name in self.keywords}
        begin_step(self.device, self.cfg.SOLVER)
        try:
            with autocast(self.cfg.SOLVER, self.device):
                logits, losses = self.distiller(**keywords)
        except ValueError as error:
            if len(batch["target"]) > 1 or "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"the last batch of an epoch has one image, whose maps of one pixel no batch norm can normalise; "
                f"type another SOLVER.BATCH_SIZE than {self.cfg.SOLVER.BATCH_SIZE}"
            ) from error
        except torch.linalg.LinAlgError as error:  # of weights that are no longer finite, more likely than not
            if meter.steps:
                self.read(meter, epoch)
            raise self.failure(f"a matrix of {type(self.distiller).__name__}", epoch) from error
        return logits, {name: loss.mean() for name, loss in losses.items()}

    def progress_bar(self, epoch: int) -> tqdm:
        return tqdm(
            desc=f"Epoch {epoch}/{self.cfg.SOLVER.EPOCHS}",
            total=self.data.train.num_images_per_epoch,
            unit=" images",
            mininterval=SECONDS_BETWEEN_READS,
            leave=False,
            dynamic_ncols=True,
            disable=None,  # where stderr is no terminal
        )

    def show(self, bar: tqdm, meter: Meter, epoch: int) -> None:
        """Advance the bar; at most every SECONDS_BETWEEN_READS, read the averages back and check them."""
        now = time.monotonic()
        if now - meter.read_at >= SECONDS_BETWEEN_READS:
            meter.read_at = now
            train, _ = self.read(meter, epoch)
            bar.set_postfix(loss=f"{train.loss:.3f}", top1=f"{train.top1:.1f}", refresh=False)
        bar.update(meter.images - bar.n)

    def read(self, meter: Meter, epoch: int) -> tuple[Result, dict]:
        try:
            return meter.read()
        except FloatingPointError as error:
            raise self.failure(str(error), epoch) from error

    def failure(self, what: str, epoch: int) -> UserError:
        kept = f"epoch {epoch - 1} is kept in {self.files.last}" if epoch > 1 else "no epoch was finished"
        return UserError(f"{what} is not finite in epoch {epoch}, training stopped; {kept}; try a lower SOLVER.LR")

    def report(self, epoch: int, train: Result, terms: dict, seconds: float, test: Result) -> None:
        for split, result in ("Train", train), ("Test", test):
            self.log.line(
                f"{split} Loss: {result.loss:.4f}, Top-1 Accuracy: {result.top1:.2f}, Top-5 Accuracy: {result.top5:.2f}"
            )
        values = [epoch, self.optimizer.param_groups[0]["lr"], train.loss, train.top1, train.top5]
        values += [test.loss, test.top1, test.top5, train.images / seconds, seconds]
        self.log.epoch(dict(zip(COLUMNS, values, strict=True)) | terms)

    def save(self, epoch: int, test: Result) -> None:
        """Keep the student where it is the best so far, and always what the next epoch starts from."""
        student = self.distiller.student.state_dict()
        meta = self.meta | {"epoch": epoch, "top1": test.top1, "top5": test.top5, "loss": test.loss}
        if self.best is None or test.top1 > self.best.top1:
            self.best, self.best_epoch = test, epoch
            kept = save_best(self.files, {"model": student, "meta": meta})
            if kept:
                self.log.line(kept)
        save_checkpoint({"model": student, "meta": meta, "training": self.training_state()}, self.files.last)

    def training_state(self) -> dict:
        """What the next epoch depends on beside the student's weights."""
        # Only a user's own method may change its teacher.
        left_out = ("student.",) if is_file_reference(self.cfg.DISTILLER.TYPE) else ("student.", "teacher.")
        _, numpy_words, *numpy_rest = np.random.get_state()
        return {
            "distiller": {k: v for k, v in self.distiller.state_dict().items() if not k.startswith(left_out)},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "loader": self.data.train.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "numpy_rng": [torch.from_numpy(numpy_words.astype(np.int64)), *numpy_rest],
            "python_rng": random.getstate(),
            "best": {"epoch": self.best_epoch, **asdict(self.best)},
        }
