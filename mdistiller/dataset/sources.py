"""The types of data: how each is found, and what of it is fixed."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from yacs.config import CfgNode

from mdistiller.dataset.augment import Draws, rotate_and_mirror, weak
from mdistiller.dataset.folder import find_images, find_validation
from mdistiller.dataset.images import ImageFiles, ImageSet
from mdistiller.dataset.listed import find_listed
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.dataset.torchvision_files import read_torchvision
from mdistiller.dataset.torchvision_sets import CIFAR100_STATISTICS, IMAGENET_STATISTICS, TORCHVISION_SETS
from mdistiller.dataset.wnids import IMAGENET_WNIDS
from mdistiller.errors import UserError, nearest

TINY_IMAGENET_STATISTICS = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)
PHOTOGRAPH = 128  # pixels a side, of the smallest images that are taken for photographs
IMAGENET_SIDE = 224


@dataclass(frozen=True)
class Source:
    """A type of data: how it is found, and its values of the keys of DATASET that a config leaves empty.

    find: takes the config's DATASET and a split, "train", "test" or "val", and returns that split's `ImageSet` in host
    memory or its `ImageFiles`; None where there are no images of their own for "val".
    root, image_size (a side, in pixels; 0: that which the networks are made for), mean and std (three numbers each, for
    values in 0..1): values of the keys.
    classes: those of a complete copy, where a copy can be incomplete by mistake.
    photographs_from: the smallest side, in pixels, at which the images are read from their files in every epoch, as
    photographs; smaller ones are held in memory.
    weak_view: weak augmentation of a set that is held in memory, a function like `weak`.
    own_val: what the images that `find` returns for "val" are called.
    """

    find: Callable[[CfgNode, str], ImageSet | ImageFiles | None]
    root: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: Sequence[str] = ()
    photographs_from: float = math.inf
    weak_view: Callable[[torch.Tensor, Draws], torch.Tensor] = weak
    own_val: str = "val/"


def _find_torchvision(dataset, split):
    return read_torchvision(dataset.TYPE, dataset.ROOT, split)


def _find_listed(dataset, split):
    return find_listed(dataset.ROOT, split)


def _source(row):
    """The `Source` of a set of torchvision."""
    photographs_from = math.inf if row.image_size else PHOTOGRAPH
    fixed = row.image_size, row.mean, row.std
    return Source(_find_torchvision, "data", *fixed, photographs_from=photographs_from, own_val="val")


def _find_folder(dataset, split):
    return find_validation(dataset.ROOT) if split == "val" else find_images(dataset.ROOT, split)


def _find_synthetic(dataset, split):
    counts = {"train": dataset.SYNTHETIC.TRAIN_IMAGES, "test": dataset.SYNTHETIC.TEST_IMAGES}
    return draw_synthetic(counts[split], dataset.SYNTHETIC.SEED, split) if split in counts else None


# What DATASET.TYPE takes.
DATASETS = {
    "cifar100": _source(TORCHVISION_SETS["cifar100"]),
    "imagenet": Source(
        *(_find_folder, "data/imagenet", IMAGENET_SIDE, *IMAGENET_STATISTICS),
        classes=IMAGENET_WNIDS,
        photographs_from=0,
    ),
    "tiny_imagenet": Source(
        _find_folder, "data/tiny-imagenet-200", 64, *TINY_IMAGENET_STATISTICS, weak_view=rotate_and_mirror
    ),
    "folder": Source(_find_folder, "data", 32, *CIFAR100_STATISTICS),
    "synthetic": Source(_find_synthetic, "data", 32, *CIFAR100_STATISTICS),
    "csv": Source(
        *(_find_listed, "data/labels.csv", 0, *CIFAR100_STATISTICS), photographs_from=PHOTOGRAPH, own_val="val"
    ),
    **{name: _source(row) for name, row in TORCHVISION_SETS.items() if name != "cifar100"},
}


def fill_defaults(dataset: CfgNode, side: int = IMAGENET_SIDE) -> None:
    """Give the keys of `dataset`, the config's DATASET, that are empty the values of its TYPE.

    side: of images, in pixels, that the networks are made for. Raises `UserError` for an unknown TYPE.
    """
    if dataset.TYPE not in DATASETS:
        raise UserError(
            f"unknown data set {dataset.TYPE!r}{nearest(dataset.TYPE, DATASETS)}: "
            f"DATASET.TYPE takes {', '.join(DATASETS)}"
        )
    source = DATASETS[dataset.TYPE]
    dataset.ROOT = dataset.ROOT or source.root
    dataset.IMAGE_SIZE = dataset.IMAGE_SIZE or source.image_size or side
    dataset.MEAN, dataset.STD = dataset.MEAN or source.mean, dataset.STD or source.std


def is_of_photographs(dataset: CfgNode) -> bool:
    """Whether the images of `dataset`, as `fill_defaults` leaves it, are read from their files, as photographs are."""
    return dataset.IMAGE_SIZE >= DATASETS[dataset.TYPE].photographs_from
