"""What is measured of a network beside loss and accuracy; each object observes an evaluation's batches."""

import torch
from torch import nn

from .metrics import highest

BINS = 15  # of confidence, of equal width


class Confusion:
    """counts: int64 (classes, classes), images of each class (row) that are taken for each (column)."""

    def __init__(self, classes: int, device: torch.device):
        self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=device)

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, image: torch.Tensor) -> None:
        cells = target * len(self.counts) + highest(logits)[:, 0]
        self.counts.view(-1).index_add_(0, cells, torch.ones_like(cells))


class Calibration:
    """The expected calibration error: how far confidence, the highest probability, is from accuracy.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3, of BINS bins.
    """

    def __init__(self, device: torch.device):
        self.sums = torch.zeros(BINS, 3, dtype=torch.float64, device=device)  # images, confidence, hits

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, image: torch.Tensor) -> None:
        confidence = logits.double().softmax(dim=1).amax(dim=1)
        hits = highest(logits)[:, 0] == target
        bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # ((m - 1) / BINS, m / BINS]
        self.sums.index_add_(0, bins, torch.stack([torch.ones_like(confidence), confidence, hits.double()], dim=1))

    @property
    def error(self) -> float:
        """In percent."""
        images, confidence, hits = self.sums.T
        return float(100 * (hits - confidence).abs().sum() / images.sum())


class Agreement:
    """How near a network is to its teacher, of the images' true classes nothing being asked.

    teacher: images to (logits (batch, classes of the data), features); columns: int64 (classes of the data,), where the
    network scores more classes, its logits of these.
    Source: Stanton et al., Does Knowledge Distillation Really Work?, NeurIPS 2021, section 3.1, which has KL the other
    way round; here it is that of the distillation loss, at a temperature of 1.
    """

    def __init__(self, teacher: nn.Module, columns: torch.Tensor | None = None):
        self.teacher, self.columns = teacher.eval(), columns
        self.images, self.sums = 0, torch.zeros(2, dtype=torch.float64)

    def __call__(self, logits: torch.Tensor, target: torch.Tensor, image: torch.Tensor) -> None:
        ours = logits if self.columns is None else logits[:, self.columns]
        theirs = self.teacher(image)[0].double()
        same = highest(ours)[:, 0] == highest(theirs)[:, 0]
        ours, theirs = ours.double().log_softmax(dim=1), theirs.log_softmax(dim=1)
        divergence = (theirs.exp() * (theirs - ours)).sum()
        self.sums = self.sums.to(logits.device) + torch.stack([same.sum().double(), divergence])
        self.images += len(logits)

    @property
    def top1(self) -> float:
        """Images of which both have the same class on top, in percent."""
        return float(100 * self.sums[0] / self.images)

    @property
    def divergence(self) -> float:
        """KL(teacher ‖ network), the mean over the images, in nats."""
        return float(self.sums[1] / self.images)
