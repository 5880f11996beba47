"""Picture `correlation`: how classes go together in a teacher, in its students, and in the one but not the others."""

import torch

from mdistiller.engine.outputs import correlation_of, moments_of
from mdistiller.errors import UserError

from . import style
from .subjects import Subjects


def draw(flags, project):
    subjects = Subjects(flags, project)
    students = subjects.read_all(flags.inputs)
    teachers = [subjects.teacher_of(student, flags.teacher_weights) for student in students]
    if len({teacher.file.path.resolve() for teacher in teachers}) > 1:
        raise UserError("the students have different teachers; name students of one, or it with --teacher_weights")
    theirs = class_correlation(teachers[0])
    ours = [class_correlation(student) for student in students]
    figure, sheets = style.sheet(len(students), 3, 16 + 38 * len(students))
    for row, (student, own) in enumerate(zip(students, ours, strict=True)):
        axes = sheets[3 * row : 3 * row + 3]
        difference = theirs - own
        size = difference.square().mean().sqrt()
        titles = teachers[0].name, student.name, f"difference (RMS {size:.3f})"
        for panel, matrix, title in zip(axes, (theirs, own, difference), titles, strict=True):
            image = panel.imshow(matrix.numpy(), cmap=style.diverging(), vmin=-1, vmax=1, interpolation="none")
            panel.set_title(style.words(title))
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(True)
        axes[0].set_ylabel("class")
    for panel in sheets[-3:]:
        panel.set_xlabel("class")
    bar = figure.colorbar(image, ax=sheets, orientation="horizontal", shrink=0.5, aspect=40)
    bar.set_label("correlation of two classes' logits over the test images")
    bar.outline.set_visible(False)
    return figure


def class_correlation(subject):
    """Pearson's correlation of each two of the data's classes, by their logits on the test images."""
    logits = subject.outputs().logits
    columns = torch.arange(logits.shape[1]) if subject.columns is None else subject.columns
    return correlation_of(moments_of(logits[:, columns]))
