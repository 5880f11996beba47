"""Picture `embedding`: the pooled features of test images in a plane, by t-SNE or PCA; a sheet a network."""

import numpy as np
import torch

from mdistiller.errors import UserError

from . import style
from .subjects import Subjects

METHODS = "tsne", "pca"
CLASSES = 8  # shown, where nothing else is asked for
PERPLEXITY = 30  # of t-SNE, less for few images
FEWEST = 5  # images


def draw(flags, project):
    subjects = Subjects(flags, project).read_all(flags.inputs)
    classes = subjects[0].data.classes
    shown = spread(len(classes), flags.classes or CLASSES)
    targets = subjects[0].data.test.image_set.targets.cpu()
    is_shown = torch.isin(targets, torch.tensor(shown))
    if is_shown.sum() < FEWEST:
        count = int(is_shown.sum())
        raise UserError(f"the {len(shown)} classes shown have {count} test images; expected {FEWEST}: raise --classes")
    place = pca if flags.method == "pca" else tsne
    rows, columns = style.grid_shape(len(subjects))
    figure, sheets = style.sheet(rows, columns, 16 + rows * (min(70, 100 / columns) + 6))
    for axes, subject in zip(sheets, subjects, strict=False):
        points, labels = place(subject.outputs().pooled_feat[is_shown].double().numpy())
        for number, kind in enumerate(shown):
            of_class = points[(targets[is_shown] == kind).numpy()]
            look = {"color": style.COLOURS[number % len(style.COLOURS)], "marker": style.MARKERS[number % 10]}
            axes.scatter(*of_class.T, s=9, linewidths=0, alpha=0.8, label=style.words(classes[kind]), **look)
        axes.set_title(style.words(subject.name))
        axes.set(xticks=[], yticks=[], xlabel=labels[0], ylabel=labels[1])
        axes.set_box_aspect(1)
    for axes in sheets[len(subjects) :]:
        axes.set_visible(False)
    style.legend_below(figure, sheets[0])
    return figure


def spread(count, wanted):
    """`wanted` of the numbers below `count`, evenly spread."""
    wanted = min(count, wanted)
    return [number * count // wanted for number in range(wanted)]


def pca(features):
    """features: (images, channels). Returns (images, 2), along the directions of most variance, and their names."""
    centred = features - features.mean(axis=0)
    left, scales, _ = np.linalg.svd(centred, full_matrices=False)
    shares = 100 * scales**2 / max((scales**2).sum(), 1e-300)
    return (left * scales)[:, :2], [f"component {n + 1}, {shares[n]:.0f} % of variance" for n in range(2)]


def tsne(features):
    """features: (images, channels). Returns (images, 2) whose neighbours are those in `features`; axes mean nothing.

    Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008. The start is that of PCA, and no random
    number is drawn.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError(
            f"t-SNE needs scikit-learn ({error}); type: pip install scikit-learn, or --method pca"
        ) from error
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features.astype(np.float32))
    return points, ("t-SNE, without unit", "")
