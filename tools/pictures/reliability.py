"""Picture `reliability`: how often networks are right where they say that they are, and their calibration error."""

from typing import NamedTuple

import numpy as np
import torch

from . import style
from .subjects import Subjects

BINS = 15
FEW = 10  # images; the accuracy of fewer is left out, as it may be anything


class Bins(NamedTuple):
    """Of each bin of confidence: images, their mean confidence and their accuracy, 0 to 1; nan where it is empty."""

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self):
        """The expected calibration error, in percent."""
        filled = self.images > 0
        gaps = np.abs(self.accuracy - self.confidence)[filled]
        return 100 * float((self.images[filled] * gaps).sum() / self.images.sum())


def draw(flags, project):
    subjects = Subjects(flags, project)
    shown = subjects.read_all(flags.inputs)
    if flags.teacher_weights:
        shown.insert(0, subjects.teacher_of(shown[0], flags.teacher_weights))
    count = flags.bins or BINS
    figure, (upper, lower) = style.sheet(2, 1, 108)
    upper.get_gridspec().set_height_ratios([3, 1])
    upper.plot([0, 100], [0, 100], color=style.INK, linewidth=0.8, linestyle=":", label="calibrated")
    edges = np.linspace(0, 100, count + 1)
    for number, subject in enumerate(shown):
        found = subject.outputs()
        bins = bins_of(found.logits, found.target, count)
        look = {"color": style.COLOURS[number % len(style.COLOURS)], "linestyle": style.LINES[number // 6 % 4]}
        many = bins.images >= FEW
        errors = 100 * np.sqrt(bins.accuracy * (1 - bins.accuracy) / np.maximum(bins.images, 1))[many]
        points = 100 * bins.confidence[many], 100 * bins.accuracy[many]
        title = f"{subject.name}: calibration error {bins.error:.1f} %"
        upper.errorbar(*points, errors, **look, marker="o", markersize=2.5, elinewidth=0.5, label=style.words(title))
        lower.stairs(100 * bins.images / bins.images.sum(), edges, color=look["color"], linestyle=look["linestyle"])
    upper.set_title(f"{count} bins; points of those with {FEW} images or more", loc="left")
    upper.set(ylabel="accuracy, % (with standard error)", xlim=(0, 100), ylim=(0, 100))
    lower.set(xlabel="confidence, %", ylabel="images, %", xlim=(0, 100))
    for axes in (upper, lower):
        axes.grid(visible=True)
    style.legend_below(figure, upper)
    return figure


def bins_of(logits, target, count=BINS):
    """The bins, of equal width and each with its upper edge, of a network's confidence: its highest probability.

    logits: (images, classes); target: (images,). Source: Guo et al., On Calibration of Modern Neural Networks, ICML
    2017, section 2.
    """
    confidence, predicted = logits.double().softmax(dim=1).max(dim=1)
    places = (confidence * count).ceil().long().clamp(1, count) - 1
    hits = (predicted == target).double()
    images, confidences, right = (
        torch.zeros(count, dtype=torch.float64).index_add(0, places, values)
        for values in (torch.ones_like(confidence), confidence, hits)
    )
    return Bins(images.numpy(), (confidences / images).numpy(), (right / images).numpy())
