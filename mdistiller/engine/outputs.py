"""What a network returns for a set of images, and how its classes go together in it."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn


class Outputs(NamedTuple):
    """What a network returns for N images, in float32 on the CPU, and their classes.

    logits: (N, classes); pooled_feat: (N, channels); target: int64 (N,).
    """

    logits: torch.Tensor
    pooled_feat: torch.Tensor
    target: torch.Tensor


@torch.inference_mode()
def outputs_of(network: nn.Module, batches: Iterable[dict[str, torch.Tensor]], most: int | None = None) -> Outputs:
    """What `network`, in eval mode, returns for the images of `batches`, of {"image", "target"}.

    most: images, after which the batches are left. The mode of each part of the network is restored.
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    images = 0
    for batch in batches:
        logits, features = network(batch["image"])
        found.append((logits.float().cpu(), features["pooled_feat"].float().cpu(), batch["target"].cpu()))
        images += len(logits)
        if most is not None and images >= most:
            break
    for module, mode in modes.items():
        module.training = mode
    return Outputs(*(torch.cat(parts)[:most] for parts in zip(*found, strict=True)))


def class_correlation(logits: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each two classes' logits over the images; 0 for one whose logit never changes.

    logits: (images, classes). Returns float64 (classes, classes).
    """
    centred = logits.double() - logits.double().mean(0)
    norms = centred.norm(dim=0)
    directions = torch.where(norms > 0, centred / norms, 0)
    return (directions.T @ directions).clamp(-1, 1)
