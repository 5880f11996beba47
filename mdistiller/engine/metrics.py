"""Accuracy and loss: of a network on a set of images, and of training while it goes on."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from .distributed import ONE, Processes

GRADIENT = "gradient"  # its norm, beside the losses
SECONDS_BETWEEN_READS = 0.5  # reading a value back makes the host wait for the device
Observer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


@dataclass(frozen=True)
class Result:
    """Averages over `images` images: cross-entropy in nats, accuracies in percent."""

    loss: float
    top1: float
    top5: float
    images: int

    def __str__(self) -> str:
        return f"Loss: {self.loss:.4f}, Top-1 Accuracy: {self.top1:.2f}, Top-5 Accuracy: {self.top5:.2f}"

    def row(self, split: str) -> dict[str, float]:
        """The averages by their columns in metrics.csv."""
        return {f"{split}_loss": self.loss, f"{split}_top1": self.top1, f"{split}_top5": self.top5}


def highest(logits: torch.Tensor) -> torch.Tensor:
    """The places of the five highest logits of each row, the highest first. logits: (batch, classes)."""
    return logits.topk(min(5, logits.shape[1]), dim=1).indices


def count_correct(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How many targets are the highest, and among the five highest, logits of their row.

    logits: (batch, classes); target: (batch,). Returns a tensor of two counts, on the logits' device.
    """
    hits = highest(logits) == target[:, None]
    return torch.stack([hits[:, 0].sum(), hits.sum()])


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    batches: Iterable[dict[str, torch.Tensor]],
    columns: torch.Tensor | None = None,
    observers: Sequence[Observer] = (),
    title: str = "Evaluating",
    processes: Processes = ONE,
) -> Result:
    """Evaluate `network`, in eval mode, on `batches` of {"image", "target"}; its mode is restored.

    columns: int64 (classes of the data,), the logits' column of each class, where they are not the same. observers:
    each is given every batch's logits, the targets among their columns, and the images. title: of the progress bar.
    processes: of which each has some of the batches; each gets the result.
    """
    was_training = network.training
    network.eval()
    images, loss, correct = 0, torch.zeros((), dtype=torch.float64), torch.zeros(2, dtype=torch.int64)
    expected = getattr(batches, "num_images_per_epoch", None)
    with progress_bar(title, expected and -(-expected // processes.size), processes.is_first) as bar:
        for batch in batches:
            logits = network(batch["image"])[0].float()
            target = batch["target"] if columns is None else columns[batch["target"]]
            loss = loss.to(logits.device) + F.cross_entropy(logits, target, reduction="sum").double()
            correct = correct.to(logits.device) + count_correct(logits, target)
            for observe in observers:
                observe(logits, target, batch["image"])
            images += len(logits)
            bar.update(len(logits))
    network.train(was_training)
    sums = torch.tensor([loss.item(), *correct.tolist(), images], dtype=torch.float64)
    loss_sum, *hits, images = processes.add(sums).tolist()
    top1, top5 = (100 * hit / images for hit in hits)
    return Result(loss_sum / images, top1, top5, int(images))


class NotFinite(ArithmeticError):
    """What training cannot go on from; the message names it, its step and the largest logit then."""


class Meter:
    """Sums of losses and hits over an epoch, kept on `device` until they are read.

    processes: whose sums they are. steps: those measured; skipped: those left out, as their gradient was not finite.
    """

    def __init__(self, device: torch.device | str = "cpu", processes: Processes = ONE):
        self.processes = processes
        self.images = self.steps = self.skipped = 0
        self.names = [GRADIENT]
        self.sums = torch.zeros(1, dtype=torch.float64, device=device)
        self.failed_at = self.sums + math.inf  # the first step at which each was not finite
        self.largest_logit = self.sums.new_zeros(())  # at the first of these steps
        self.correct = torch.zeros(2, dtype=torch.int64, device=device)

    def update(
        self,
        losses: dict[str, torch.Tensor],
        logits: torch.Tensor,
        target: torch.Tensor,
        gradient_norm: torch.Tensor | None = None,
    ) -> None:
        """losses: {name: scalar}, of which some may come later; logits: (batch, classes); target: (batch,).

        gradient_norm: of all parameters, a scalar.
        """
        new = [name for name in losses if name not in self.names]
        if new:
            self.names += new
            self.sums = torch.cat([self.sums, self.sums.new_zeros(len(new))])
            self.failed_at = torch.cat([self.failed_at, self.sums.new_full((len(new),), math.inf)])
        zero = self.sums.new_zeros(())
        found = losses if gradient_norm is None else {GRADIENT: gradient_norm, **losses}
        values = torch.stack([found[name].detach().double() if name in found else zero for name in self.names])
        images, own = self.processes.counts(len(target))
        logits, had_failed = logits.detach(), self.failed_at.isfinite().any()
        sums = self.processes.add(torch.cat([values * own, count_correct(logits, target) * (own / len(target))]))
        values, correct = sums[:-2], sums[-2:]
        self.sums = self.sums + values
        self.failed_at = self.failed_at.minimum(torch.where(values.isfinite(), math.inf, self.steps + self.skipped))
        self.largest_logit = torch.where(had_failed, self.largest_logit, logits.abs().max().double())
        self.correct = self.correct + correct.long()
        self.images += images
        self.steps += 1

    def skip(self) -> None:
        """Count a step that changed nothing."""
        self.skipped += 1

    def check(self) -> None:
        """Raise NotFinite, naming what was the first not to be, where a loss or gradient was not finite."""
        failed_at = dict(zip(self.names, self.failed_at.tolist(), strict=True))
        name = min(failed_at, key=lambda name: (failed_at[name], name == GRADIENT))  # a loss is the cause
        if failed_at[name] < math.inf:
            where = f"at step {failed_at[name] + 1:.0f} (largest logit {self.largest_logit.item():.3g})"
            raise NotFinite(f"{name} {where}")

    def read(self) -> tuple[Result, dict[str, float]]:
        """Averages so far, and those of each loss term. Raises NotFinite as `check` does."""
        self.check()
        losses = (self.sums[1:] / self.images).tolist()
        top1, top5 = (100 * self.correct / self.images).tolist()
        return Result(sum(losses), top1, top5, self.images), dict(zip(self.names[1:], losses, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on from here, where all has been finite."""
        counts = {"images": self.images, "steps": self.steps, "skipped": self.skipped}
        return {**counts, "names": list(self.names), "sums": self.sums.cpu(), "correct": self.correct.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.images, self.steps, self.skipped = state["images"], state["steps"], state["skipped"]
        self.names = list(state["names"])
        self.sums = state["sums"].to(self.sums.device)
        self.failed_at = torch.full_like(self.sums, math.inf)
        self.correct = state["correct"].to(self.sums.device)


def progress_bar(title: str, images: int | None, is_shown: bool = True) -> tqdm:
    """A bar that counts `images` on stderr, where it `is_shown` and that is a terminal, and leaves nothing behind."""
    return tqdm(
        desc=title,
        total=images,
        unit=" images",
        mininterval=SECONDS_BETWEEN_READS,
        leave=False,
        dynamic_ncols=True,
        disable=None if is_shown else True,  # None: where stderr is no terminal
    )


class Progress:
    """A bar that shows the averages of `meter`; reading them, at most every SECONDS_BETWEEN_READS, checks them."""

    def __init__(self, meter: Meter, title: str, images: int, is_shown: bool = True):
        self.meter, self.read_at = meter, time.monotonic()
        self.bar = progress_bar(title, images, is_shown)

    def show(self) -> None:
        """Advance to what the meter has seen."""
        now = time.monotonic()
        if now - self.read_at >= SECONDS_BETWEEN_READS:
            self.read_at = now
            train, _ = self.meter.read()
            self.bar.set_postfix(loss=f"{train.loss:.3f}", top1=f"{train.top1:.1f}", refresh=False)
        self.bar.update(self.meter.images - self.bar.n)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
