"""What every distiller is: a student, a frozen teacher and a rule that turns a batch into losses."""

import torch
from torch import nn


class Distiller(nn.Module):
    """Base class of the methods.

    A method overrides `forward_train`; one that adds modules also overrides `get_learnable_parameters`
    and `get_extra_parameters`. The teacher is frozen, and stays in eval mode when the distiller trains; a method
    without one passes None.

    needs_teacher_norms: whether the method reads the teacher's batch norms or has them normalise by the batch. Where
    not, the trainer may fold them into the convolutions before them.
    """

    needs_teacher_norms = False

    def __init__(self, student: nn.Module, teacher: nn.Module | None):
        super().__init__()
        self.student = student
        self.teacher = teacher
        if teacher is not None:
            teacher.requires_grad_(False)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """Parameters for the optimiser: the student's, and those of the method's own modules."""
        return list(self.student.parameters())

    def get_extra_parameters(self) -> int:
        """Number of parameters that the method adds to the student's for training."""
        return 0

    def forward_train(self, image: torch.Tensor, target: torch.Tensor, **kwargs):
        """One training forward.

        image: (batch, 3, height, width); target: (batch,) class indices; keywords: `epoch` (int, from 1)
        and `index` (batch,), the images' rows in the training set.
        Returns the student's logits (batch, classes) and a dict of scalar losses, whose sum is minimised.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward_train")

    def forward_test(self, image: torch.Tensor) -> torch.Tensor:
        """The student's logits, (batch, classes)."""
        return self.student(image)[0]

    def forward(self, **kwargs):
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])
