"""What TensorBoard shows of a run in pictures: augmented images, and what the student has not of its teacher."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .outputs import class_correlations
from .seeds import generators_state, set_generators_state

AUGMENTED, DIFFERENCE = "train/augmented", "test/class_correlation_teacher_minus_student"  # tags
COLUMNS = 8  # of the grid
LARGE = 64  # pixels a side; of larger images the grid has one row, of others four
MOST_CLASSES = 2000  # that a picture of every two can show
SIDE = 400  # pixels, at least, of a matrix
BLUE, WHITE, ORANGE = (0, 114, 178), (247, 247, 247), (213, 94, 0)  # told apart by all eyes


def show_augmented(trainer: Any, batch: Mapping[str, torch.Tensor]) -> None:
    """Show the first batch of a run."""
    if trainer.log.shows_pictures and trainer.finished == trainer.steps == 0:
        trainer.log.picture(AUGMENTED, grid_of(batch, trainer.data.mean, trainer.data.std), 0)


def show_difference(trainer: Any) -> None:
    """Show how classes correlate in the teacher and not in the student as it is, where there is a teacher."""
    distiller, data, processes = trainer.distiller, trainer.data, trainer.processes
    teacher = None if distiller.takes_new_sections else distiller.teacher  # a user's file may have it return anything
    is_asked = trainer.log.shows_pictures or processes.size > 1  # each of which has a part of the images
    if is_asked and teacher is not None and data.num_classes <= MOST_CLASSES:
        state = generators_state()  # from which a loader of someone else's draws
        theirs, ours = class_correlations((teacher, trainer.student), data.test, data.num_classes, processes)
        set_generators_state(state)
        trainer.log.picture(DIFFERENCE, coloured(theirs - ours), trainer.finished)


def grid_of(batch: Mapping[str, torch.Tensor], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """The first images of a training batch as they are augmented, the strong views below; uint8 (3, H, W).

    mean, std: of their normalisation; empty where it is not known, and the darkest is black, the lightest white.
    """
    views = [batch[name] for name in ("image", "image_strong") if name in batch]
    count = COLUMNS if views[0].shape[-1] > LARGE else 4 * COLUMNS
    rows = [row for view in views for row in view[:count].split(COLUMNS)]
    black = -torch.tensor(mean) / torch.tensor(std) if mean else torch.stack([row.min().cpu() for row in rows]).min()
    white = black + 1 / torch.tensor(std) if mean else torch.stack([row.max().cpu() for row in rows]).max()
    black, white = (values.to(views[0]).view(-1, 1, 1) for values in (black, white))
    blank = black.expand_as(views[0][:1])
    full = [torch.cat([row, *[blank] * (COLUMNS - len(row))]) for row in rows]
    grid = torch.cat([torch.cat(list(row), dim=2) for row in full], dim=1)
    return ((grid - black) / (white - black) * 255).round().clamp(0, 255).byte().cpu()


def coloured(matrix: torch.Tensor) -> torch.Tensor:
    """A square matrix as a picture, uint8 (3, H, W): blue for -1 and less, white for 0, orange for 1 and more."""
    white = torch.tensor(WHITE).view(3, 1, 1)
    end = torch.where(matrix < 0, torch.tensor(BLUE).view(3, 1, 1), torch.tensor(ORANGE).view(3, 1, 1))
    pixels = (white + (end - white) * matrix.abs().clamp(max=1)).round().byte()
    times = -(-SIDE // len(matrix))
    return pixels.repeat_interleave(times, 1).repeat_interleave(times, 2)
