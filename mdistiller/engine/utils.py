"""What scripts written for MDistiller import from here: small tools around a loop of their own."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from .metrics import evaluate
from .solver import learning_rate
from .weights import read_checkpoint as load_checkpoint
from .weights import save_checkpoint

__all__ = [
    "AverageMeter",
    "accuracy",
    "adjust_learning_rate",
    "load_checkpoint",
    "log_msg",
    "save_checkpoint",
    "validate",
]

COLOURS = {"INFO": 36, "TRAIN": 32, "EVAL": 31}  # of a terminal


class AverageMeter:
    """The average of values, each of which counts `n` times."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self.val = self.avg = self.sum = 0.0
        self.count = 0

    def update(self, val: Any, n: int = 1) -> None:
        """Add a value."""
        self.val, self.sum, self.count = val, self.sum + val * n, self.count + n
        self.avg = self.sum / self.count


def log_msg(msg: str, mode: str = "INFO") -> str:
    """A line for a terminal, in the colour of its mode: "INFO", "TRAIN" or "EVAL"."""
    return f"\033[{COLOURS[mode]}m[{mode}] {msg}\033[0m"


def adjust_learning_rate(epoch: int, cfg: Any, optimizer: torch.optim.Optimizer) -> float:
    """Give `optimizer` the learning rate of `epoch` (from 1), and return it."""
    lr = learning_rate(cfg.SOLVER, epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


@torch.no_grad()
def accuracy(output: torch.Tensor, target: torch.Tensor, topk: Sequence[int] = (1,)) -> list[torch.Tensor]:
    """Percentages, each of shape (1,), of targets among the k highest logits.

    output: (batch, classes); target: (batch,).
    """
    hits = output.topk(max(topk), dim=1).indices == target[:, None]
    return [100 * hits[:, :k].sum().float().view(1) / len(target) for k in topk]


def validate(val_loader: Iterable[Sequence[torch.Tensor]], distiller: Any) -> tuple[float, float, float]:
    """Top-1 and top-5 in percent and loss of a distiller's student, on batches that begin with images and targets."""
    student = getattr(distiller, "module", distiller).student
    device = next(student.parameters()).device

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for image, target, *_ in val_loader:
            yield {"image": image.to(device).float(), "target": target.to(device)}

    result = evaluate(student, batches())
    return result.top1, result.top5, result.loss
