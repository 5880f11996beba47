"""What a distiller file is given and gives back, as MDistiller's trainer has it."""

import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import nn

from ._sampler import Sampler

KEYWORDS, VIEWS, CONTRAST = {"image", "target", "index", "epoch"}, {"image_weak", "image_strong"}, "contrastive_index"


class Contrast(nn.Module):
    """What MDistiller's loaders add to a batch for CRD: the rows of the image and of CRD.NCE.K others.

    With CRD.MODE relax the first is another image of its class.
    """

    def __init__(self, cfg: Any):
        super().__init__()
        self.sampler, self.k, self.is_exact = Sampler(cfg.EXPERIMENT.SEED), cfg.CRD.NCE.K, cfg.CRD.MODE == "exact"

    def draw(self, index: torch.Tensor) -> torch.Tensor:
        """index: (batch,). Returns (batch, 1 + K)."""
        return self.sampler.draw(index, self.k, self.is_exact)


def arguments(function: Any, given: tuple[Any, ...], num_data: int | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Of student, teacher and config, `given`, and `num_data` those that the method `function` takes."""
    _, *parameters = inspect.signature(function).parameters.values()
    named = {"num_data": num_data} if any(p.name == "num_data" for p in parameters) else {}
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return given, named
    by_place = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "num_data"]
    by_name = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "num_data" and p.default is p.empty]
    return (), named | dict(zip([*by_place, *by_name], given, strict=False))


def as_scalar(loss: Any, logits: torch.Tensor) -> torch.Tensor:
    """A loss as a scalar tensor: the mean of a tensor, as MDistiller takes it, or a number."""
    if isinstance(loss, torch.Tensor) and loss.is_floating_point():
        return loss.mean()
    return logits.new_tensor(float(loss), dtype=torch.float32)


def check_returned(returned: Any, target: torch.Tensor) -> None:
    """Raise ValueError where no trainer can take what `forward_train` returns for the classes `target`."""
    if not (isinstance(returned, (tuple, list)) and len(returned) == 2 and isinstance(returned[1], Mapping)):
        raise ValueError(f"it is {kind_of(returned)}")
    logits, losses = returned
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != len(target):
        raise ValueError(f"the logits are {kind_of(logits)} for a batch of {len(target)}")
    for name, loss in losses.items():
        if not isinstance(name, str):
            raise ValueError(f"{name!r} is no name")
        is_number = isinstance(loss, Real)
        if not is_number and not (isinstance(loss, torch.Tensor) and loss.numel() and not loss.is_complex()):
            raise ValueError(f"{name!r} is {kind_of(loss)}")
    if torch.is_grad_enabled() and not any(getattr(loss, "requires_grad", False) for loss in losses.values()):
        raise ValueError("no loss has a gradient")


def kind_of(value: Any) -> str:
    """What `value` is, in few words."""
    if isinstance(value, torch.Tensor):
        return f"a{' complex' if value.is_complex() else ''} tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)) and 0 < len(value) <= 3:
        return f"{type(value).__name__} ({', '.join(map(kind_of, value))})"
    return type(value).__name__
