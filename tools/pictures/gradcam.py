"""Picture `gradcam`: where on a photograph networks find what speaks for a class (Grad-CAM)."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F

from mdistiller.dataset import Transform, is_of_photographs
from mdistiller.dataset.folder import EXTENSIONS
from mdistiller.dataset.images import open_image
from mdistiller.errors import UserError

from . import style
from .embedding import spread
from .subjects import Subjects

IMAGES = 4  # of the test images, each of another class, where none are named
LARGEST = 28  # mm, a side of an image
LETTERS = 88  # that are as wide as the picture


def draw(flags, project):
    photographs = [text for text in flags.inputs if Path(text).suffix.lower() in EXTENSIONS]
    files = [text for text in flags.inputs if text not in photographs]
    if not files:
        raise UserError("gradcam needs a network's file beside the images; name weights, or a run")
    subjects = Subjects(flags, project)
    shown = subjects.read_all(files)
    if flags.teacher_weights:
        shown.insert(0, subjects.teacher_of(shown[0], flags.teacher_weights))
    pictures = [read_photograph(path, shown) for path in photographs] or chosen(shown, flags.images or IMAGES)
    columns = 1 + len(shown)
    figure, sheets = style.sheet(len(pictures), columns, len(pictures) * (min(LARGEST, 100 / columns) + 12))
    most = max(8, LETTERS // columns)
    for row, (images, target) in enumerate(pictures):
        first, *others = sheets[row * columns : (row + 1) * columns]
        target = answer(shown[0], images[0]) if target is None else target
        first.imshow(pixels_of(images[0], shown[0]), interpolation="none")
        first.set_title(style.words(shown[0].data.classes[target], most))
        for axes, subject, image in zip(others, shown, images, strict=True):
            column = target if subject.columns is None else int(subject.columns[target])
            heat, probability, predicted = class_map(subject.network, image, column)
            if not math.isfinite(probability):
                raise UserError(f"what {subject.file.path} returns is not finite; name a network that was trained well")
            axes.imshow(pixels_of(image, subject).mean(2), cmap="gray", vmin=0, vmax=1, interpolation="none")
            axes.imshow(heat, cmap=heat_colours(), vmin=0, vmax=1, interpolation="none")
            says = "" if predicted == column else f", top is\n{style.words(name_of(subject, predicted), most)}"
            axes.set_xlabel(f"p = {100 * probability:.0f} %{says}", labelpad=2, fontsize=6)
            if row == 0:
                axes.set_title(style.words(subject.name, most))
    for axes in sheets:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    return figure


def class_map(network, image, target):
    """Grad-CAM of a class: where the last map speaks for it; its probability, and the class that the network chooses.

    image: (1, 3, height, width), normalised. The map is (height, width), 0 to 1, or 0 where nothing speaks for the
    class. Source: Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2, on `final_map`.
    """
    with torch.enable_grad():
        logits, features = network(image.requires_grad_())  # so that frozen networks have gradients too
        last = features["final_map"]
        (gradient,) = torch.autograd.grad(logits[0, target], last, allow_unused=True)
    if gradient is None:
        raise UserError(
            f"the logits of {type(network).__name__} do not depend on its last map; Grad-CAM needs one that do"
        )
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    heat = F.relu((weights * last).sum(dim=1, keepdim=True)).detach().float()
    heat = F.interpolate(heat, image.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    probability = logits.detach().float().softmax(dim=1)[0, target].item()
    return (heat / heat.max() if heat.max() > 0 else heat).cpu().numpy(), probability, int(logits[0].argmax())


def heat_colours():
    """From nothing, which shows the image below, to orange."""
    name = style.COLOURS[1]
    return style.matplotlib().colors.LinearSegmentedColormap.from_list("heat", [f"{name}00", f"{name}D0"])


def answer(subject, image):
    """The class of the data that a network chooses for an image."""
    with torch.inference_mode():
        logits = subject.network(image)[0]
    return int((logits if subject.columns is None else logits[:, subject.columns])[0].argmax())


def name_of(subject, column):
    """The data's class that a column of the logits scores, where it is one of them."""
    if subject.columns is None:
        return subject.data.classes[column]
    place = (subject.columns == column).nonzero()
    return subject.data.classes[int(place)] if len(place) else f"class {column} of its own"


def chosen(subjects, count):
    """The first test image of classes spread over all: for each a batch of one a subject, and its class."""
    targets = subjects[0].data.test.image_set.targets.cpu()
    classes = spread(len(subjects[0].data.classes), count)
    rows = [int(found[0]) for kind in classes if len(found := (targets == kind).nonzero())]
    found = {(row, place): None for row in rows for place, _ in enumerate(subjects)}
    for place, subject in enumerate(subjects):
        first = 0
        for batch in subject.data.test:
            for row in set(rows) & set(range(first, first + len(batch["target"]))):
                found[row, place] = batch["image"][row - first : row - first + 1].clone()
            first += len(batch["target"])
    return [([found[row, place] for place, _ in enumerate(subjects)], int(targets[row])) for row in rows]


def read_photograph(path, subjects):
    """A photograph as each of `subjects` sees it, and no class, as it is not known."""
    images = []
    for subject in subjects:
        dataset = subject.cfg.DATASET
        transform = Transform(dataset.IMAGE_SIZE, dataset.MEAN, dataset.STD, is_of_photographs(dataset))
        with open_image(path, dataset.IMAGE_SIZE) as image:
            images.append(transform(image)[None].to(subject.data.test.device))
    return images, None


def pixels_of(image, subject):
    """What matplotlib draws of a normalised image (1, 3, H, W): (H, W, 3), 0 to 1."""
    mean, std = (image.new_tensor(each).view(3, 1, 1) for each in (subject.data.mean, subject.data.std))
    return (image[0].detach() * std + mean).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
