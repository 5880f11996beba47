"""Plain training of one network, the baseline of every method."""

from typing import Any

from torch import nn

from ._base import Distiller


class Vanilla(Distiller):
    """Cross-entropy on the labels, no teacher."""

    def __init__(self, student: nn.Module):
        super().__init__(student, None)

    @classmethod
    def build(cls, student: nn.Module, teacher: nn.Module | None, cfg: Any, num_data: int | None = None) -> "Vanilla":
        return cls(student)

    def losses(self, student, teacher, target, **kwargs):
        return {}
