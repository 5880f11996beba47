"""What networks return for a set of images, and how their classes go together."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from .distributed import ONE, Processes
from .metrics import progress_bar

Batches = Iterable[dict[str, torch.Tensor]]


class Outputs(NamedTuple):
    """What a network returns for N images, in float32 on the CPU, and their classes.

    logits: (N, classes); pooled_feat: (N, channels); target: int64 (N,).
    """

    logits: torch.Tensor
    pooled_feat: torch.Tensor
    target: torch.Tensor


@contextlib.contextmanager
def testing(*networks: nn.Module) -> Iterator[None]:
    """Within it `networks` are in eval mode and take no gradient; the mode of each of their parts is restored."""
    modes = {module: module.training for network in networks for module in network.modules()}
    for network in networks:
        network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def outputs_of(network: nn.Module, batches: Batches, title: str = "Evaluating") -> Outputs:
    """What `network` returns for the images of `batches`, of {"image", "target"}; title: of the progress bar."""
    found = []
    with testing(network), progress_bar(title, getattr(batches, "num_images_per_epoch", None)) as bar:
        for batch in batches:
            logits, features = network(batch["image"])
            parts = logits.float(), features["pooled_feat"].float(), batch["target"]
            found.append([part.cpu() for part in parts])
            bar.update(len(logits))
    return Outputs(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def class_correlations(
    networks: Iterable[nn.Module], batches: Batches, classes: int, processes: Processes = ONE
) -> list[torch.Tensor]:
    """Of each of `networks`, which score `classes`, how these correlate over the images; see `correlation_of`.

    processes: of which each has some of the batches; each gets the result.
    """
    networks = list(networks)
    sums = [torch.zeros(2 * [classes + 1], dtype=torch.float64)] * len(networks)
    total = getattr(batches, "num_images_per_epoch", None)
    with testing(*networks), progress_bar("Correlating classes", total, processes.is_first) as bar:
        for batch in batches:
            moments = [moments_of(network(batch["image"])[0]) for network in networks]
            sums = [known.to(new.device) + new for known, new in zip(sums, moments, strict=True)]
            bar.update(len(batch["image"]))
    return [correlation_of(processes.add(each)).cpu() for each in sums]


def moments_of(logits: torch.Tensor) -> torch.Tensor:
    """Sums of products of each two classes' logits, and at the end of each class's logits and of ones.

    logits: (images, classes). Returns float64 (classes + 1, classes + 1).
    """
    values = torch.cat([logits.double(), logits.new_ones(len(logits), 1, dtype=torch.float64)], dim=1)
    return values.T @ values


def correlation_of(moments: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each two classes' logits; 0 for one whose logit never changes.

    moments: as of `moments_of`, or a sum of such. Returns float64 (classes, classes).
    """
    count, mean = moments[-1, -1], moments[-1, :-1] / moments[-1, -1]
    covariance = moments[:-1, :-1] / count - mean[:, None] * mean
    variance = covariance.diagonal()
    is_constant = variance <= 1e-12 * (variance + mean**2)
    scale = torch.where(is_constant, 0, variance.clamp(min=0).rsqrt())
    return (covariance * scale[:, None] * scale).clamp(-1, 1)
