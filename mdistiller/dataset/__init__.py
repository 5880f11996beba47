"""Data: what a config names, as loaders of augmented and normalised batches on the training device."""

from dataclasses import dataclass

import torch

from mdistiller.dataset.cifar100 import read_cifar100
from mdistiller.dataset.folder import check_same_classes, read_folder
from mdistiller.dataset.images import ImageSet
from mdistiller.dataset.loaders import AUGMENTATIONS, Loader
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.errors import UserError

__all__ = ["AUGMENTATIONS", "DATASET_TYPES", "Data", "ImageSet", "Loader", "build_data"]

DATASET_TYPES = ("cifar100", "folder", "synthetic")


@dataclass(frozen=True)
class Data:
    """What a run trains and tests on; a split that was not asked for is None."""

    train: Loader | None
    test: Loader | None
    classes: list[str]
    image_size: int
    mean: tuple
    std: tuple

    @property
    def num_classes(self):
        return len(self.classes)


def build_data(cfg, device, seed, splits=("train", "test"), memory_format=torch.channels_last):
    """Read the splits that `cfg.DATASET` names and put them on `device`.

    The training loader shuffles, and augments as DATASET.AUGMENT says, from a generator seeded with `seed`; the test
    loader does neither. Only the splits asked for are read, so that testing needs no training images.
    Raises `UserError` for an unknown DATASET.TYPE or DATASET.AUGMENT, and for data that is missing or damaged.
    """
    sets = {split: _read(cfg.DATASET, split).to(device) for split in splits}
    if cfg.DATASET.TYPE == "folder" and len(sets) == 2:
        check_same_classes(sets["train"], sets["test"], cfg.DATASET.ROOT)
    mean, std = tuple(cfg.DATASET.MEAN), tuple(cfg.DATASET.STD)
    train = test = None
    if "train" in sets:
        train = Loader(
            sets["train"],
            cfg.SOLVER.BATCH_SIZE,
            mean,
            std,
            augment=cfg.DATASET.AUGMENT,
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
            memory_format=memory_format,
        )
    if "test" in sets:
        test = Loader(sets["test"], cfg.DATASET.TEST.BATCH_SIZE, mean, std, memory_format=memory_format)
    some_set = next(iter(sets.values()))
    return Data(train, test, some_set.classes, some_set.images.shape[-1], mean, std)


def _read(dataset, split):
    """The `ImageSet` of one split, in host memory."""
    if dataset.TYPE == "cifar100":
        return read_cifar100(dataset.ROOT, split)
    if dataset.TYPE == "folder":
        return read_folder(dataset.ROOT, split, dataset.IMAGE_SIZE)
    if dataset.TYPE == "synthetic":
        count = dataset.SYNTHETIC.TRAIN_IMAGES if split == "train" else dataset.SYNTHETIC.TEST_IMAGES
        return draw_synthetic(count, dataset.SYNTHETIC.SEED, split)
    raise UserError(f"unknown data set {dataset.TYPE!r}: DATASET.TYPE takes {', '.join(DATASET_TYPES)}")
