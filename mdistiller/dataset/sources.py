"""The types of data: how each is found, and what of it is fixed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from yacs.config import CfgNode

from mdistiller.dataset.augment import Draws, rotate_and_mirror, weak
from mdistiller.dataset.cifar100 import read_cifar100
from mdistiller.dataset.folder import find_images, find_validation
from mdistiller.dataset.images import ImageFiles, ImageSet
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.dataset.wnids import IMAGENET_WNIDS
from mdistiller.errors import UserError, nearest

CIFAR100_STATISTICS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TINY_IMAGENET_STATISTICS = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)


@dataclass(frozen=True)
class Source:
    """A type of data: how it is found, and its values of the keys of DATASET that a config leaves empty.

    find: takes the config's DATASET and a split, "train", "test" or "val", and returns that split's `ImageSet` in host
    memory or its `ImageFiles`; None where there are no images of their own for "val".
    root, image_size (a side, in pixels), mean and std (three numbers each, for values in 0..1): values of the keys.
    classes: those of a complete copy, where a copy can be incomplete by mistake.
    stays_in_files: the images are read from their files in every epoch, as photographs; other sets are held in memory.
    weak_view: weak augmentation of a set that is held in memory, a function like `weak`.
    posterize_bits: the fewest and the most bits that strong augmentation's Posterize keeps.
    """

    find: Callable[[CfgNode, str], ImageSet | ImageFiles | None]
    root: str
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: Sequence[str] = ()
    stays_in_files: bool = False
    weak_view: Callable[[torch.Tensor, Draws], torch.Tensor] = weak
    posterize_bits: tuple[int, int] = (1, 1)


def _find_cifar100(dataset, split):
    return None if split == "val" else read_cifar100(dataset.ROOT, split)


def _find_folder(dataset, split):
    return find_validation(dataset.ROOT) if split == "val" else find_images(dataset.ROOT, split)


def _find_synthetic(dataset, split):
    counts = {"train": dataset.SYNTHETIC.TRAIN_IMAGES, "test": dataset.SYNTHETIC.TEST_IMAGES}
    return draw_synthetic(counts[split], dataset.SYNTHETIC.SEED, split) if split in counts else None


# What DATASET.TYPE takes.
DATASETS = {
    "cifar100": Source(_find_cifar100, "data", 32, *CIFAR100_STATISTICS),
    "imagenet": Source(
        _find_folder,
        "data/imagenet",
        224,
        *IMAGENET_STATISTICS,
        classes=IMAGENET_WNIDS,
        stays_in_files=True,
        posterize_bits=(4, 8),
    ),
    "tiny_imagenet": Source(
        _find_folder, "data/tiny-imagenet-200", 64, *TINY_IMAGENET_STATISTICS, weak_view=rotate_and_mirror
    ),
    "folder": Source(_find_folder, "data", 32, *CIFAR100_STATISTICS),
    "synthetic": Source(_find_synthetic, "data", 32, *CIFAR100_STATISTICS),
}


def fill_defaults(dataset: CfgNode) -> None:
    """Give the keys of `dataset`, the config's DATASET, that are empty the values of its TYPE.

    Raises `UserError` for an unknown TYPE.
    """
    if dataset.TYPE not in DATASETS:
        raise UserError(
            f"unknown data set {dataset.TYPE!r}{nearest(dataset.TYPE, DATASETS)}: "
            f"DATASET.TYPE takes {', '.join(DATASETS)}"
        )
    source = DATASETS[dataset.TYPE]
    dataset.ROOT = dataset.ROOT or source.root
    dataset.IMAGE_SIZE = dataset.IMAGE_SIZE or source.image_size
    dataset.MEAN, dataset.STD = dataset.MEAN or source.mean, dataset.STD or source.std
