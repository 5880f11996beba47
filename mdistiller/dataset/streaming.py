"""Batches of image files that are too many or too large to hold, decoded by worker processes.

Workers only decode, crop and resize, on uint8; batches are distorted and normalised on the training device. A worker
draws nothing: it is sent the random numbers of its batch, so that their number changes nothing.
"""

import functools
import math
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset, get_worker_info

from mdistiller.dataset.decoding import decode
from mdistiller.dataset.images import ImageFiles, read_small
from mdistiller.dataset.loaders import CROPS, EXTRAS, VIEWS, BatchSource
from mdistiller.errors import UserError

CROP_AREA = (0.08, 1.0)  # of the image's
CROP_RATIO = (3 / 4, 4 / 3)  # of width to height
CROP_ATTEMPTS = 10
DRAWS = 2 * CROP_ATTEMPTS + 3  # area and ratio an attempt, top, left, mirrored
RESIZE_OVER_CROP = 256 / 224  # of the evaluation transform
BATCHES_AHEAD = 2  # that each worker prepares
Crop = Callable[[torch.Tensor, int], torch.Tensor]


class FileLoader(BatchSource):
    """Batches of `ImageFiles`, as `BatchSource` describes, of `image_size` pixels a side.

    As ImageNet's recipe has it, weak augmentation is a random crop of 8 to 100 % of the area and a mirror (Szegedy
    et al., Going Deeper with Convolutions, CVPR 2015); without augmentation the shorter side is scaled to 256/224 of
    `image_size`, and the centre is cut out. Both equal torchvision's transforms v2 on uint8, up to rounding. With
    `small`, images are prepared and augmented as those of a `Loader`: for sets of small images that do not fit into
    memory. crop: `centre_crop`, or `five_crops`, with which `image` has five crops of each image, in a row.
    workers: processes that decode, at most one a core, of all that share this machine; 0: this one does. Each holds at
    most three batches.
    """

    def __init__(
        self,
        image_set: ImageFiles,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        workers: int = 0,
        small: bool = False,
        crop: Crop | None = None,
        **options: Any,
    ) -> None:
        super().__init__(image_set, batch_size, mean, std, **options)
        self.image_size, self.small = image_size, small
        self._plan = _Plan(self)
        workers = -(-min(workers, available_cores()) // self.share.on_machine)
        self._decoded: DataLoader[Any] = DataLoader(
            _Decoder(image_set.to("cpu"), image_size, small, crop or centre_crop),
            batch_size=None,  # the plan's entries are whole batches
            sampler=self._plan,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=BATCHES_AHEAD if workers else None,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # keeps torch's own from being drawn from
            worker_init_fn=_say_nothing,
            collate_fn=_as_it_is,
        )

    def _batches(self, epoch, first):
        self._plan.begin_at = epoch, first
        seeds, extras = (self._seeds(epoch, purpose, len(self)) for purpose in (VIEWS, EXTRAS))
        batches = self._order(epoch).split(self.batch_size)
        for item in self._decoded:
            if isinstance(item, str):
                raise UserError(item)
            number, views = item
            views = [view.to(self.device, non_blocking=True) for view in views]
            entries, own = batches[number], self._own(number)
            views = self._views(seeds[number], entries, own if self.share.size > 1 else None, *views)
            yield number, self._batch(number, extras[number], self._rows(entries[own]), views)

    def _weak(self, images, draws):
        return super()._weak(images, draws) if self.small else images  # workers have cropped them


def available_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _say_nothing(worker: int) -> None:
    """Keep the threads of a worker that ends with the script from printing what they were doing."""
    sys.excepthook = lambda *_: None


def _as_it_is(item: Any) -> Any:
    return item


class _Plan:
    """An epoch's batches: of each its number, this process's entries, int64 (B,), and random numbers for their crops.

    These are float64 (views, B, DRAWS) in 0..1, or None where workers do not crop at random. All are NumPy arrays:
    tensors are sent through shared memory, by a thread whose errors nobody hears of.
    begin_at: the epoch, and its first batch that is still needed.
    """

    def __init__(self, loader):
        self.loader = weakref.proxy(loader)  # from a reference cycle, workers would end seconds after their loader
        self.begin_at = 0, 0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        epoch, first = self.begin_at
        batches = self.loader._order(epoch).split(self.loader.batch_size)
        seeds = self.loader._seeds(epoch, CROPS, len(batches))
        for number in range(first, len(batches)):
            own = self.loader._own(number)
            if len(own) > 0:
                draws = self._draws(len(batches[number]), seeds[number])
                yield number, batches[number][own].numpy(), None if draws is None else draws[:, own.numpy()]

    def _draws(self, count, seed):
        if self.loader.augment == "none" or self.loader.small:
            return None
        views, generator = 2 if self.loader.augment == "two-view" else 1, torch.Generator().manual_seed(seed)
        return torch.rand(views, count, DRAWS, dtype=torch.float64, generator=generator).numpy()


class _Decoder(Dataset):
    """Turns a planned batch into pixels, in a worker process or in this one."""

    def __init__(self, image_files, image_size, small, crop):
        self.image_files, self.image_size, self.small, self.crop = image_files, image_size, small, crop

    def __getitem__(self, batch):
        """The batch's number and a list of its views, uint8 (B, 3, image_size, image_size); or an error as text.

        Raises RuntimeError where a worker's views do not fit into shared memory.
        """
        number, entries, draws = batch
        try:
            views = self._views(entries, draws)
        except UserError as error:
            return str(error)
        if get_worker_info() is not None:
            for view in views:
                view.share_memory_()  # here, as the thread that sends them loses errors
        return number, views

    def _views(self, entries, draws):
        paths = [self.image_files.path(entry % len(self.image_files)) for entry in entries.tolist()]
        if self.small:
            return [torch.stack([read_small(path, self.image_size) for path in paths])]
        images = [decode(path, self.image_size) for path in paths]
        if draws is None:
            return [torch.cat([self.crop(image, self.image_size) for image in images])]
        crop = functools.partial(random_resized_crop, size=self.image_size)
        return [
            torch.cat([crop(image, draws=row) for image, row in zip(images, view, strict=True)])
            for view in draws.tolist()
        ]


def random_crop_box(height: int, width: int, draws: Sequence[float]) -> tuple[int, int, int, int]:
    """Top, left, height and width of a random crop, by the algorithm of torchvision's `RandomResizedCrop`.

    draws: DRAWS numbers in 0..1. Where no attempt fits, the largest centre crop whose ratio is in CROP_RATIO.
    """
    low, high = map(math.log, CROP_RATIO)
    for area_draw, ratio_draw in zip(draws[0 : 2 * CROP_ATTEMPTS : 2], draws[1 : 2 * CROP_ATTEMPTS : 2], strict=True):
        area = height * width * (CROP_AREA[0] + (CROP_AREA[1] - CROP_AREA[0]) * area_draw)
        ratio = math.exp(low + (high - low) * ratio_draw)
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top_draw, left_draw = draws[-3:-1]
            top, left = int((height - crop_height + 1) * top_draw), int((width - crop_width + 1) * left_draw)
            return top, left, crop_height, crop_width
    crop_height, crop_width = height, width
    if width / height < CROP_RATIO[0]:
        crop_height = round(width / CROP_RATIO[0])
    elif width / height > CROP_RATIO[1]:
        crop_width = round(height * CROP_RATIO[1])
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def random_resized_crop(image: torch.Tensor, size: int, draws: Sequence[float]) -> torch.Tensor:
    """A random crop of `image`, uint8 (1, 3, H, W), at `size` pixels a side, mirrored by chance; draws: DRAWS."""
    top, left, height, width = random_crop_box(image.shape[2], image.shape[3], draws)
    image = resize(image[:, :, top : top + height, left : left + width], (size, size))
    return image.flip(3) if draws[-1] < 0.5 else image


def centre_crop(image: torch.Tensor, size: int) -> torch.Tensor:
    """The centre of `image`, uint8 (1, 3, H, W), at `size` pixels a side, by torchvision's evaluation transform."""
    image = resize_for_crop(image, size)
    top, left = (round((side - size) / 2) for side in image.shape[2:])
    return image[:, :, top : top + size, left : left + size]


def resize_for_crop(image: torch.Tensor, size: int) -> torch.Tensor:
    """`image`, uint8 (1, 3, H, W), with its shorter side at 256/224 of `size`."""
    height, width = image.shape[2:]
    shorter = round(size * RESIZE_OVER_CROP)
    if height < width:
        return resize(image, (shorter, int(shorter * width / height)))
    return resize(image, (int(shorter * height / width), shorter))


def resize(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`image`, uint8 (1, 3, H, W), at `size` (height, width): bilinear, anti-aliased."""
    image = image.contiguous(memory_format=torch.channels_last)  # which torch resizes faster
    if image.shape[2:] == size:
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True, align_corners=False)
