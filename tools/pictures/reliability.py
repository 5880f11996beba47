"""Picture `reliability`: how often networks are right where they say that they are, and their calibration error."""

import numpy as np

from mdistiller.engine.measures import BINS, Calibration

from . import style
from .subjects import Subjects

FEW = 10  # images; the accuracy of fewer is left out, as it may be anything


def draw(flags, project):
    subjects = Subjects(flags, project)
    shown = subjects.read_all(flags.inputs)
    if flags.teacher_weights:
        shown.insert(0, subjects.teacher_of(shown[0], flags.teacher_weights))
    figure, (upper, lower) = style.sheet(2, 1, 108)
    upper.get_gridspec().set_height_ratios([3, 1])
    upper.plot([0, 100], [0, 100], color=style.INK, linewidth=0.8, linestyle=":", label="calibrated")
    for number, subject in enumerate(shown):
        calibration = calibration_of(subject)
        images, confidence, accuracy = points_of(calibration)
        look = {"color": style.COLOURS[number % len(style.COLOURS)], "linestyle": style.LINES[number // 6 % 4]}
        many = images >= FEW
        errors = standard_errors(images, accuracy)
        title = style.words(f"{subject.name}: calibration error {calibration.error:.1f} %")
        points = confidence[many], accuracy[many], errors[many]
        upper.errorbar(*points, **look, marker="o", markersize=2.5, elinewidth=0.5, label=title)
        lower.stairs(100 * images / images.sum(), np.linspace(0, 100, BINS + 1), **look)
    upper.set_title(f"{BINS} bins; points of those with {FEW} images or more", loc="left")
    upper.set(ylabel="accuracy, % (with standard error)", xlim=(0, 100), ylim=(0, 100))
    lower.set(xlabel="confidence, %", ylabel="images, %", xlim=(0, 100))
    for axes in (upper, lower):
        axes.grid(visible=True)
    style.legend_below(figure, upper)
    return figure


def calibration_of(subject):
    """The `Calibration` of a network on its test images."""
    calibration, found = Calibration(subject.data.test.device), subject.outputs()
    calibration(found.logits.to(subject.data.test.device), found.target.to(subject.data.test.device), None)
    return calibration


def points_of(calibration):
    """Of each bin its images, their mean confidence and their accuracy, in percent; 0 where it is empty."""
    images, confidence, hits = calibration.sums.cpu().numpy().T
    return images, 100 * confidence / np.maximum(images, 1), 100 * hits / np.maximum(images, 1)


def standard_errors(images, accuracy):
    """Of accuracies in percent; by Laplace's estimate of them, as all of a few images being right proves little."""
    share = (images * accuracy / 100 + 1) / (images + 2)
    return 100 * np.sqrt(share * (1 - share) / np.maximum(images, 1))
