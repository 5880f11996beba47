"""Accuracy and loss of a network on a set of images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Result:
    """Averages over `images` images: cross-entropy in nats, accuracies in percent."""

    loss: float
    top1: float
    top5: float
    images: int


def count_correct(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How many targets are the highest, and among the five highest, logits of their row.

    logits: (batch, classes); target: (batch,). Returns a tensor of two counts, on the logits' device.
    """
    hits = logits.topk(min(5, logits.shape[1]), dim=1).indices == target[:, None]
    return torch.stack([hits[:, 0].sum(), hits.sum()])


@torch.inference_mode()
def evaluate(network: nn.Module, batches, columns: torch.Tensor | None = None) -> Result:
    """Evaluate `network`, in eval mode, on `batches` of {"image", "target"}; its mode is restored.

    columns: int64 (classes of the data,), the logits' column of each class, where they are not the same.
    """
    was_training = network.training
    network.eval()
    images, loss, correct = 0, 0.0, 0
    for batch in batches:
        logits = network(batch["image"])[0].float()
        target = batch["target"] if columns is None else columns[batch["target"]]
        loss = loss + F.cross_entropy(logits, target, reduction="sum").double()
        correct = correct + count_correct(logits, target)
        images += len(logits)
    network.train(was_training)
    top1, top5 = (100 * correct / images).tolist()
    return Result(loss.item() / images, top1, top5, images)
