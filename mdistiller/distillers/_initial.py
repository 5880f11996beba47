"""The methods that train something before the student's own epochs: two stages, one contract."""

from typing import Any, ClassVar

import torch
from torch import nn

from mdistiller.checks import COUNT, list_of, number, whole
from mdistiller.errors import UserError

from ._base import Distiller, Output

INITIAL = {"EPOCHS": 30, "LR": 0.0, "LR_DECAY_STAGES": []}  # LR 0: that of SOLVER, constant but for these stages
INITIAL_CHECKS = {
    "INITIAL.EPOCHS": whole(0, 1_000_000),
    "INITIAL.LR": number(0, 100),
    "INITIAL.LR_DECAY_STAGES": list_of(COUNT, "[30,45]", range(101)),
}


class StagedDistiller(Distiller):
    """A method with an initial stage of INITIAL.EPOCHS epochs, which SOLVER.EPOCHS does not count.

    In it `forward_initial` takes the place of `forward_train`, and `get_initial_parameters` are trained: those of
    `initial_modules`, which the student's own epochs leave as they are, and the student's where `begins_with_student`.
    Its section has INITIAL, `checks` the INITIAL_CHECKS. The solver is that of SOLVER, with one gradient (no DOT), the
    learning rate INITIAL.LR without warm-up, no average of weights.
    """

    begins_with_student: ClassVar[bool] = False

    teacher: nn.Module

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.initial = cfg[self.section()].INITIAL
        self.is_initial = False

    def initial_modules(self) -> list[nn.Module]:
        """What the initial stage alone trains; made without gradients (`requires_grad_(False)`)."""
        return []

    def forward_initial(
        self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """One training forward of the initial stage, its losses named otherwise than those of `forward_train`.

        Arguments are those of `forward_train`, `epoch` counted from 1 in the stage. Returns logits (batch, classes) of
        whichever network it runs, for the progress shown, and a dict of scalar losses.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward_initial")

    def losses(self, student: Output, teacher: Output, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        """Those of the student's own epochs beside the cross-entropy: none, where the initial stage is all."""
        return {}

    def get_initial_parameters(self) -> list[nn.Parameter]:
        """Parameters for the optimiser of the initial stage."""
        networks = [self.student] if self.begins_with_student else []
        return [parameter for part in (*networks, *self.initial_modules()) for parameter in part.parameters()]

    def set_initial(self, is_initial: bool) -> None:
        """Enter the initial stage, or leave it: what it alone trains has gradients in it alone."""
        self.is_initial = is_initial
        for module in self.initial_modules():
            module.requires_grad_(is_initial)

    def train(self, mode: bool = True) -> "StagedDistiller":
        super().train(mode)
        for module in self.initial_modules():
            module.train(mode and self.is_initial)
        return self

    def forward(self, **kwargs: Any) -> Any:
        """`forward_initial` in the initial stage's train mode, else as of any method.

        Raises UserError where DISTILLER.FREEZE has left the stage nothing that its losses reach.
        """
        if not (self.is_initial and self.training):
            return super().forward(**kwargs)
        logits, losses = self.forward_initial(**kwargs)
        if torch.is_grad_enabled() and not any(loss.requires_grad for loss in losses.values()):
            raise UserError(
                f"DISTILLER.FREEZE leaves the initial stage of {type(self).__name__} nothing to train; leave a part "
                f"out, or type {self.section()}.INITIAL.EPOCHS 0"
            )
        return logits, losses
