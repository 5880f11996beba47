"""Data: what a config names, as loaders of augmented and normalised batches on the training device."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from mdistiller.dataset.cifar100 import read_cifar100
from mdistiller.dataset.folder import check_same_classes, find_images, read_images
from mdistiller.dataset.images import ImageFiles, ImageSet
from mdistiller.dataset.loaders import AUGMENTATIONS, BatchSource, Loader
from mdistiller.dataset.streaming import FileLoader, lost_worker
from mdistiller.dataset.synthetic import draw_synthetic
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
    "build_data",
    "fill_defaults",
    "lost_worker",
]

CIFAR100_STATISTICS = {"MEAN": (0.5071, 0.4867, 0.4408), "STD": (0.2675, 0.2565, 0.2761)}
IMAGENET_STATISTICS = {"MEAN": (0.485, 0.456, 0.406), "STD": (0.229, 0.224, 0.225)}
TINY_IMAGENET_STATISTICS = {"MEAN": (0.4802, 0.4481, 0.3975), "STD": (0.2302, 0.2265, 0.2262)}

# What DATASET.TYPE takes, and each one's values of the keys of DATASET that the config leaves empty.
DATASETS = {
    "cifar100": {"ROOT": "data", "IMAGE_SIZE": 32, **CIFAR100_STATISTICS},
    "imagenet": {"ROOT": "data/imagenet", "IMAGE_SIZE": 224, **IMAGENET_STATISTICS},
    "tiny_imagenet": {"ROOT": "data/tiny-imagenet-200", "IMAGE_SIZE": 64, **TINY_IMAGENET_STATISTICS},
    "folder": {"ROOT": "data", "IMAGE_SIZE": 32, **CIFAR100_STATISTICS},
    "synthetic": {"ROOT": "data", "IMAGE_SIZE": 32, **CIFAR100_STATISTICS},
}

IMAGENET_POSTERIZE_BITS = (4, 8)  # of the strong views; CIFAR's recipe keeps one bit
SHARE_OF_MEMORY = 0.5  # that a data set may take
MISSING_BY_MISTAKE = 10  # classes: ImageNet with up to so many fewer is taken for incomplete


@dataclass(frozen=True)
class Data:
    """What a run trains and tests on; a split that was not asked for is None."""

    train: BatchSource | None
    test: BatchSource | None
    classes: list[str]
    image_size: int
    mean: tuple
    std: tuple
    note: str = ""  # what a user should know of how the data is held

    @property
    def num_classes(self):
        return len(self.classes)


def fill_defaults(dataset):
    """Give the keys of `dataset`, the config's DATASET, that are empty the values of its TYPE.

    Raises `UserError` for an unknown TYPE.
    """
    if dataset.TYPE not in DATASETS:
        raise UserError(
            f"unknown data set {dataset.TYPE!r}{nearest(dataset.TYPE, DATASETS)}: "
            f"DATASET.TYPE takes {', '.join(DATASETS)}"
        )
    for key, value in DATASETS[dataset.TYPE].items():
        dataset[key] = dataset[key] or value


def build_data(cfg, device, seed, splits=("train", "test"), memory_format=torch.channels_last):
    """Find the splits that `cfg.DATASET` names; small sets are read and put on `device`, ImageNet stays in its files.

    The training loader shuffles, and augments as DATASET.AUGMENT says, from a generator seeded with `seed`; the test
    loader does neither. Only the splits asked for are read, so that testing needs no training images.
    Raises `UserError` for an unknown DATASET.TYPE or DATASET.AUGMENT, and for data that is missing or damaged.
    """
    dataset = cfg.DATASET.clone()
    fill_defaults(dataset)
    sets, note = _find(dataset, splits, device)
    sets = {split: image_set.to(device) for split, image_set in sets.items()}
    statistics = tuple(dataset.MEAN), tuple(dataset.STD)
    train = test = None
    if "train" in sets:
        options = {"augment": dataset.AUGMENT, "shuffle": True, "generator": torch.Generator().manual_seed(seed)}
        train = _loader(sets["train"], cfg.SOLVER.BATCH_SIZE, *statistics, dataset, memory_format, **options)
    if "test" in sets:
        test = _loader(sets["test"], dataset.TEST.BATCH_SIZE, *statistics, dataset, memory_format)
    return Data(train, test, next(iter(sets.values())).classes, dataset.IMAGE_SIZE, *statistics, note)


def _find(dataset, splits, device):
    """The `ImageSet` (in host memory) or `ImageFiles` of each split, and a note on them."""
    if dataset.TYPE == "cifar100":
        return {split: read_cifar100(dataset.ROOT, split) for split in splits}, ""
    if dataset.TYPE == "synthetic":
        synthetic = dataset.SYNTHETIC
        counts = {"train": synthetic.TRAIN_IMAGES, "test": synthetic.TEST_IMAGES}
        return {split: draw_synthetic(counts[split], synthetic.SEED, split) for split in splits}, ""
    files = {split: find_images(dataset.ROOT, split) for split in splits}
    if len(files) == 2:
        check_same_classes(files["train"], files["test"], dataset.ROOT)
    if dataset.TYPE == "imagenet":
        _check_complete(next(iter(files.values())).classes, dataset)
        return files, ""
    size, available = sum(map(len, files.values())) * 3 * dataset.IMAGE_SIZE**2, available_memory(device)
    if size > SHARE_OF_MEMORY * available:
        needed, free = (f"{value / 2**30:.1f} GiB" for value in (size, available))
        return files, (
            f"The images need {needed} and {device} has {free} free: read from their files by DATASET.NUM_WORKERS "
            f"{dataset.NUM_WORKERS} processes in every epoch"
        )
    return {split: read_images(found, dataset.IMAGE_SIZE) for split, found in files.items()}, ""


def available_memory(device):
    """Bytes that a data set may take on `device`."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # a system that does not tell
        return math.inf


def _check_complete(classes, dataset):
    """Raise `UserError` where `classes` are nearly, but not all, of ImageNet's, unless NUM_CLASSES says so."""
    expected = dataset.NUM_CLASSES or len(IMAGENET_WNIDS)
    missing = expected - len(classes)
    if missing == 0 or (not dataset.NUM_CLASSES and missing > MISSING_BY_MISTAKE):
        return
    absent = sorted({*IMAGENET_WNIDS} - {*classes}) if expected == len(IMAGENET_WNIDS) else []
    names = f" (missing: {', '.join(absent[:5])}{' …' if len(absent) > 5 else ''})" if absent else ""
    raise UserError(
        f"{dataset.ROOT} has {len(classes)} classes, expected {expected}{names}; "
        f"complete it, or type DATASET.NUM_CLASSES {len(classes)} where that is meant"
    )


def _loader(image_set, batch_size, mean, std, dataset, memory_format, **options):
    if not isinstance(image_set, ImageFiles):
        return Loader(image_set, batch_size, mean, std, memory_format=memory_format, **options)
    options["memory_format"] = memory_format
    if dataset.TYPE == "imagenet":
        options["posterize_bits"] = IMAGENET_POSTERIZE_BITS
    else:
        options["small"] = True
    return FileLoader(image_set, batch_size, mean, std, dataset.IMAGE_SIZE, dataset.NUM_WORKERS, **options)
