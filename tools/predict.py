"""Show what a student takes images for: the classes with the highest probabilities, image by image."""

import sys
from pathlib import Path

if not __package__:  # run as a file, in whose folder Python would look for modules first
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from mdistiller.checks import whole
from mdistiller.dataset import IMAGENET_WNIDS
from mdistiller.dataset.images import open_image
from mdistiller.engine.cli import run_script
from mdistiller.engine.ending import tell
from mdistiller.engine.launch import select_device
from mdistiller.engine.runs import shown
from mdistiller.engine.tables import WIDTH, align
from mdistiller.errors import UserError, printable
from tools.checkpoints import CheckpointParser, image_files, read

BATCH = 64  # images
HEADER = "image", "class", "probability"


def parse(arguments=None):
    parser = CheckpointParser("predict", __doc__, "IMAGE")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes shown of each image (default 5)")
    parser.add_argument("--device", help="cpu, cuda … (default CUDA where there is a GPU, else the CPU)")
    flags = parser.parse(arguments)
    whole(1, 1000).require("--top", flags.top)
    if not flags.words:
        raise UserError("no images; name files or folders after the weights")
    return flags


def main(arguments=None):
    flags = parse(arguments)
    device = select_device(flags.device)
    paths, errors = image_files(flags.words)
    student, *_ = read(flags)
    network, names = student.network.to(device), with_words(student.class_names)
    rows, batch = [HEADER], []
    for number, path in enumerate(paths, 1):
        try:
            with open_image(path, student.transform.image_size) as image:
                batch.append((path, student.transform(image)))
        except UserError as error:
            errors.append(error)
        if batch and (len(batch) == BATCH or number == len(paths)):
            rows += rows_of(network, batch, names, flags.top, device)
            batch = []
    if len(rows) > 1:
        print(align(rows, HEADER[-1:], WIDTH), flush=True)
    if errors:
        *others, last = errors
        for other in others:
            tell(f"error: {other}")
        raise last


@torch.inference_mode()
def rows_of(network, batch, names, top, device):
    """Rows of the table: of each image its classes, the most probable first. batch: paths and images (3, H, W)."""
    paths, images = zip(*batch, strict=True)
    logits = network(torch.stack(images).to(device))[0].float()
    found = logits.softmax(1).topk(min(top, len(names)), dim=1)
    rows = []
    for path, values, places in zip(paths, found.values.tolist(), found.indices.tolist(), strict=True):
        first = [printable(shown(path))] + [""] * (len(places) - 1)
        rows += [
            (image, names[place], f"{value:.4f}") for image, value, place in zip(first, values, places, strict=True)
        ]
    return rows


def with_words(class_names):
    """Names as the table shows them: those of ImageNet, which are numbers, with torchvision's words."""
    if not {*class_names} <= {*IMAGENET_WNIDS}:
        return [*map(printable, class_names)]
    from torchvision.models import ResNet18_Weights

    words = dict(zip(IMAGENET_WNIDS, ResNet18_Weights.IMAGENET1K_V1.meta["categories"], strict=True))
    return [f"{name} {words[name]}" for name in class_names]


if __name__ == "__main__":
    sys.exit(run_script(main))
