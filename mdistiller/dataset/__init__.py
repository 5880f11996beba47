"""Data: what a config names, as loaders of augmented and normalised batches on the training device."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from yacs.config import CfgNode

from mdistiller.dataset.augment import rotate_and_mirror, weak
from mdistiller.dataset.cifar100 import read_cifar100
from mdistiller.dataset.fingerprint import fingerprint
from mdistiller.dataset.folder import check_same_classes, find_images, find_validation, read_images
from mdistiller.dataset.images import ImageFiles, ImageSet, resize_images
from mdistiller.dataset.loaders import AUGMENTATIONS, BatchSource, Loader
from mdistiller.dataset.memory import available_memory
from mdistiller.dataset.streaming import FileLoader
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.dataset.tuples import get_dataset
from mdistiller.dataset.validation import hold_out
from mdistiller.dataset.wnids import IMAGENET_WNIDS
from mdistiller.errors import UserError, nearest

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "IMAGENET_WNIDS",
    "BatchSource",
    "Data",
    "ImageSet",
    "Loader",
    "Source",
    "build_data",
    "fill_defaults",
    "get_dataset",
]

CIFAR100_STATISTICS = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TINY_IMAGENET_STATISTICS = (0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)

SHARE_OF_MEMORY = 0.5  # that a data set may take
MISSING_BY_MISTAKE = 10  # classes: ImageNet with up to so many fewer is taken for incomplete


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
    weak_view: Callable[[torch.Tensor, torch.Generator], torch.Tensor] = weak
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


@dataclass(frozen=True)
class Data:
    """What a run trains and tests on; None stands for a split that was not asked for.

    classes: their names, in the order of the targets; image_size: of the batches' images, in pixels a side; mean, std:
    three numbers each, by which the batches are normalised; note: what a user should know of how the data is held.
    val: what the best network is chosen on, None where there is no such split; val_from: in words, where it comes from.
    fingerprints: the `fingerprint` of each split, by its name; that of "train" is of all training images, also of those
    that are held out for "val".
    """

    train: BatchSource
    test: BatchSource
    classes: list[str]
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str = ""
    val: BatchSource | None = None
    val_from: str = ""
    fingerprints: dict[str, str] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)


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


def build_data(
    cfg: CfgNode,
    device: torch.device | str,
    seed: int,
    splits: Iterable[str] = ("train", "test"),
    memory_format: torch.memory_format = torch.channels_last,
) -> Data:
    """Find the splits that `cfg.DATASET` names; small sets are read and put on `device`, ImageNet stays in its files.

    cfg: its DATASET as `fill_defaults` leaves it; it is not changed. splits: "train", "test" or both; only these are
    read, so that testing needs no training images. memory_format: of the batches' images.
    With "train" comes validation, where there is any: DATASET.VAL_FRACTION of the training images, held out by `seed`,
    or `val` of a folder that has `test` as well.
    The training loader shuffles, and augments as DATASET.AUGMENT says, by `seed`; the others do neither.
    Raises `UserError` for an unknown DATASET.AUGMENT, for a DATASET.IMAGE_SIZE at which the images would not fit into
    memory, for two validation sets, and for data that is missing or damaged.
    """
    dataset = cfg.DATASET
    found = _find(dataset, splits)
    fingerprints = {split: fingerprint(image_set) for split, image_set in found.items()}
    sets, note = _hold_all(found, dataset, device)
    val_from = "val/" if "val" in sets else ""
    if "train" in sets and dataset.VAL_FRACTION:
        sets["train"], sets["val"] = hold_out(sets["train"], dataset.VAL_FRACTION, seed)
        val_from = f"{dataset.VAL_FRACTION * 100:g} % of the training images"
    sets = {split: image_set.to(device) for split, image_set in sets.items()}
    statistics = tuple(dataset.MEAN), tuple(dataset.STD)
    train: Any = None
    test: Any = None
    val: Any = None
    if "train" in sets:
        options = {"augment": dataset.AUGMENT, "shuffle": True, "seed": seed}
        train = _loader(sets["train"], cfg.SOLVER.BATCH_SIZE, *statistics, dataset, memory_format, **options)
    if "test" in sets:
        test = _loader(sets["test"], dataset.TEST.BATCH_SIZE, *statistics, dataset, memory_format)
    if "val" in sets:
        val = _loader(sets["val"], dataset.TEST.BATCH_SIZE, *statistics, dataset, memory_format)
    classes = next(iter(sets.values())).classes
    return Data(train, test, classes, dataset.IMAGE_SIZE, *statistics, note, val, val_from, fingerprints)


def _find(dataset, splits):
    """The `ImageSet` or `ImageFiles` of each split. With "train" comes "val", where it has images of its own."""
    source = DATASETS[dataset.TYPE]
    splits = [*splits]
    splits += ["val"] if "train" in splits else []
    found = {split: image_set for split in splits if (image_set := source.find(dataset, split)) is not None}
    if "val" in found and dataset.VAL_FRACTION:
        raise UserError(
            f"DATASET.VAL_FRACTION {dataset.VAL_FRACTION:g} and {dataset.ROOT}/val, beside test, are two validation "
            "sets; type DATASET.VAL_FRACTION 0, or move that folder away"
        )
    if "train" in found:
        for split, image_set in found.items():
            check_same_classes(found["train"], image_set, dataset.ROOT, split)
    if source.classes:
        _check_complete(next(iter(found.values())).classes, dataset, source.classes)
    return found


def _hold_all(found, dataset, device):
    """`found` as sets in host memory, at DATASET.IMAGE_SIZE, where they fit, and else a note on them."""
    source = DATASETS[dataset.TYPE]
    if source.stays_in_files or all(_has_size(image_set, dataset.IMAGE_SIZE) for image_set in found.values()):
        return found, ""
    size, available = sum(map(len, found.values())) * 3 * dataset.IMAGE_SIZE**2, available_memory(device)
    if size <= SHARE_OF_MEMORY * available:
        return {split: _hold(image_set, dataset.IMAGE_SIZE) for split, image_set in found.items()}, ""
    needed, free = (f"{value / 2**30:.1f} GiB" for value in (size, available))
    if any(isinstance(image_set, ImageSet) for image_set in found.values()):
        raise UserError(
            f"DATASET.IMAGE_SIZE {dataset.IMAGE_SIZE}: the images would need {needed}, and a data set may take "
            f"{SHARE_OF_MEMORY:.0%} of the {free} that {device} has free; type a smaller size"
        )
    return found, (
        f"The images need {needed} and {device} has {free} free: read from their files by DATASET.NUM_WORKERS "
        f"{dataset.NUM_WORKERS} processes in every epoch"
    )


def _has_size(found, image_size):
    """Whether `found` holds its images, at `image_size`."""
    return isinstance(found, ImageSet) and found.images.shape[2:] == (image_size, image_size)


def _hold(found, image_size):
    """`found`, an `ImageSet` or `ImageFiles`, as an `ImageSet` at `image_size`."""
    return resize_images(found, image_size) if isinstance(found, ImageSet) else read_images(found, image_size)


def _check_complete(classes, dataset, complete):
    """Raise `UserError` unless `classes` are as many as NUM_CLASSES or `complete` say, or clearly a part of these."""
    expected = dataset.NUM_CLASSES or len(complete)
    missing = expected - len(classes)
    if missing == 0 or (not dataset.NUM_CLASSES and missing > MISSING_BY_MISTAKE):
        return
    absent = sorted({*complete} - {*classes}) if expected == len(complete) else []
    names = f" (missing: {', '.join(absent[:5])}{' …' if len(absent) > 5 else ''})" if absent else ""
    raise UserError(
        f"{dataset.ROOT} has {len(classes)} classes, expected {expected}{names}; "
        f"complete it, or type DATASET.NUM_CLASSES {len(classes)} where that is meant"
    )


def _loader(image_set, batch_size, mean, std, dataset, memory_format, **options):
    source = DATASETS[dataset.TYPE]
    options |= {"memory_format": memory_format, "weak_view": source.weak_view, "posterize_bits": source.posterize_bits}
    if isinstance(image_set, ImageSet):
        return Loader(image_set, batch_size, mean, std, **options)
    options["small"] = not source.stays_in_files
    return FileLoader(image_set, batch_size, mean, std, dataset.IMAGE_SIZE, dataset.NUM_WORKERS, **options)
