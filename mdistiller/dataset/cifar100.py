"""CIFAR-100 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009)."""

import os
from http.client import HTTPException
from pathlib import Path

import torch

from mdistiller.dataset.images import ImageSet
from mdistiller.errors import UserError
from mdistiller.files import open_regular

MAX_BYTES = 2**28  # of one of its files; the largest, the archive, has 169 million
# In the order of the labels.
CIFAR100_CLASSES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
).split()


def read_cifar100(root: str | os.PathLike[str], split: str) -> ImageSet:
    """Read the "train" (50,000 images) or "test" (10,000) split from `root`, downloading it there when it is missing.

    Returns an `ImageSet` of uint8 (N, 3, 32, 32) in channels-last, as loaders hold them. Raises `UserError` when the
    files are neither there nor to be had. Neither the archive nor the pickles in it are opened unless their MD5 is the
    published one.
    """
    from torchvision.datasets import CIFAR100  # torchvision takes seconds to import, and only this reader needs it

    _check_files(Path(root), CIFAR100)
    was_there = Path(root).exists()
    try:
        data = CIFAR100(root, train=split == "train", download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        if not was_there and Path(root).is_dir() and not any(Path(root).iterdir()):
            Path(root).rmdir()
        raise UserError(_explain(Path(root), CIFAR100, error)) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    return ImageSet(images, torch.tensor(data.targets), list(data.classes))


def _check_files(root, source):
    """Raise `UserError` where torchvision would wait for what it finds in place of a file, or read it for hours."""
    names = [name for name, _ in (*source.train_list, *source.test_list)] + [source.meta["filename"]]
    for path in (root / source.filename, *(root / source.base_folder / name for name in names)):
        try:
            with open_regular(path) as file:
                if os.fstat(file.fileno()).st_size <= MAX_BYTES:
                    continue
            reason: str | None = f"it has more than {MAX_BYTES:,} bytes"
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = error.strerror
        raise UserError(f"cannot read {path} ({reason}): expected a file of CIFAR-100; remove it")


def _explain(root, source, error):
    archive = root / source.filename
    found = f"{archive} is damaged or cannot be unpacked" if archive.exists() else f"CIFAR-100 is not in {root}"
    return (
        f"{found}, and downloading it failed ({error}): fetch {source.url} by hand and save it as {archive} "
        f"(MD5 {source.tgz_md5}), or use your own images with DATASET.TYPE folder DATASET.ROOT <folder>"
    )
