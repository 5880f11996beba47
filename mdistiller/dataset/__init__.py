"""Data: what a config names, as loaders of augmented and normalised batches on the training device."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from yacs.config import CfgNode

from mdistiller.dataset.cifar100 import CIFAR100_CLASSES
from mdistiller.dataset.crops import CROPS, five_crops, padded_crops
from mdistiller.dataset.fingerprint import fingerprint
from mdistiller.dataset.folder import check_same_classes, read_images
from mdistiller.dataset.images import ImageSet, resize_images
from mdistiller.dataset.loaders import AUGMENTATIONS, BatchSource, Loader
from mdistiller.dataset.memory import available_memory
from mdistiller.dataset.mixing import Extras
from mdistiller.dataset.sources import DATASETS, Source, fill_defaults
from mdistiller.dataset.streaming import FileLoader
from mdistiller.dataset.transform import Transform
from mdistiller.dataset.tuples import get_dataset
from mdistiller.dataset.validation import hold_out
from mdistiller.dataset.wnids import IMAGENET_WNIDS
from mdistiller.errors import UserError
from mdistiller.share import ALL, Share

__all__ = [
    "AUGMENTATIONS",
    "CIFAR100_CLASSES",
    "CROPS",
    "DATASETS",
    "IMAGENET_WNIDS",
    "BatchSource",
    "Data",
    "ImageSet",
    "Loader",
    "Source",
    "Transform",
    "build_data",
    "fill_defaults",
    "get_dataset",
    "padded_crops",
]

SHARE_OF_MEMORY = 0.5  # that a data set may take
MISSING_BY_MISTAKE = 10  # classes: ImageNet with up to so many fewer is taken for incomplete


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


def build_data(
    cfg: CfgNode,
    device: torch.device | str,
    seed: int,
    splits: Iterable[str] = ("train", "test"),
    memory_format: torch.memory_format = torch.channels_last,
    share: Share = ALL,
    hold: bool | None = None,
    crops: bool = False,
) -> Data:
    """Find the splits that `cfg.DATASET` names; small sets are read and put on `device`, ImageNet stays in its files.

    cfg: its DATASET as `fill_defaults` leaves it; it is not changed. splits: "train", "test" or both; only these are
    read, so that testing needs no training images. memory_format: of the batches' images.
    With "train" comes validation, where there is any: DATASET.VAL_FRACTION of the training images, held out by `seed`,
    or `val` of a folder that has `test` as well.
    The training loader shuffles, and augments as DATASET.AUGMENT says, by `seed`; the others do neither.
    share: of several processes, as `BatchSource` takes it. hold: whether sets that may be held in memory are; None:
    where they fit. crops: whether the test images of a set of photographs come as five crops each, as of `FileLoader`.
    Raises `UserError` for an unknown DATASET.AUGMENT, for a DATASET.IMAGE_SIZE at which the images would not fit into
    memory, for two validation sets, and for data that is missing or damaged.
    """
    dataset = cfg.DATASET
    found = _find(dataset, splits)
    fingerprints = {split: fingerprint(image_set) for split, image_set in found.items()}
    sets, note = _hold_all(found, dataset, device, share.on_machine, hold)
    val_from = "val/" if "val" in sets else ""
    if "train" in sets and dataset.VAL_FRACTION:
        sets["train"], sets["val"] = hold_out(sets["train"], dataset.VAL_FRACTION, seed)
        val_from = f"{dataset.VAL_FRACTION * 100:g} % of the training images"
    sets = {split: image_set.to(device) for split, image_set in sets.items()}
    options = {"memory_format": memory_format, "share": share}
    crop = five_crops if crops else None
    train, test, val = (_loader(sets, split, cfg, seed, crop, **options) for split in ("train", "test", "val"))
    classes = next(iter(sets.values())).classes
    return Data(
        train,
        test,
        classes,
        dataset.IMAGE_SIZE,
        tuple(dataset.MEAN),
        tuple(dataset.STD),
        note,
        val,
        val_from,
        fingerprints,
    )


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


def _hold_all(found, dataset, device, copies, hold):
    """`found` as sets in host memory, at DATASET.IMAGE_SIZE, where `hold` or they fit, and else a note on them.

    copies: of the sets in the memory of this machine, one a process.
    """
    source = DATASETS[dataset.TYPE]
    if source.stays_in_files or all(_has_size(image_set, dataset.IMAGE_SIZE) for image_set in found.values()):
        return found, ""
    size, available = sum(map(len, found.values())) * 3 * dataset.IMAGE_SIZE**2, available_memory(device)
    size *= copies if torch.device(device).type == "cpu" else 1
    if hold or (hold is None and size <= SHARE_OF_MEMORY * available):
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


def _loader(sets, split, cfg, seed, crop, **options):
    """That of `split`; None where it is not in `sets`."""
    if split not in sets:
        return None
    dataset, source, batch_size = cfg.DATASET, DATASETS[cfg.DATASET.TYPE], cfg.DATASET.TEST.BATCH_SIZE
    options |= {"weak_view": source.weak_view, "posterize_bits": source.posterize_bits}
    if split == "train":
        extras = Extras(dataset.RANDAUGMENT, dataset.ERASING, dataset.MIXUP, dataset.CUTMIX)
        options |= {"augment": dataset.AUGMENT, "shuffle": True, "seed": seed, "extras": extras}
        batch_size = cfg.SOLVER.BATCH_SIZE
    of_all = sets[split], batch_size, tuple(dataset.MEAN), tuple(dataset.STD)
    if isinstance(sets[split], ImageSet):
        return Loader(*of_all, **options)
    options |= {"small": not source.stays_in_files, "crop": crop}
    return FileLoader(*of_all, dataset.IMAGE_SIZE, dataset.NUM_WORKERS, **options)
