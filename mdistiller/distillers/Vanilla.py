"""Plain training of one network, the baseline of every method."""

from typing import Any

import torch
from torch import nn

from ._base import Distiller, Output


class Vanilla(Distiller):
    """Cross-entropy on the labels, no teacher."""

    needs_teacher = False

    def __init__(self, student: nn.Module, teacher: None = None, cfg: Any = None):
        super().__init__(student, None, cfg)

    def losses(self, student: Output, teacher: Any, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        return {}
