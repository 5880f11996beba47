"""Batches of an image set that lives on the training device.

Source of the idea: Keller Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mdistiller.dataset.augment import Draws, distort, weak
from mdistiller.dataset.images import ImageFiles, ImageSet
from mdistiller.errors import UserError
from mdistiller.share import ALL, Share

AUGMENTATIONS = ("none", "weak", "strong", "weak+strong", "two-view")
# Images augmented by one round of tensor calls: enough that launching them costs little, few enough for a CPU's cache.
CHUNK = 1024
ORDER, VIEWS, CROPS = range(3)  # what an epoch's random numbers are for; each has seeds of its own


class BatchSource:
    """What the loaders of an image set share, wherever its images are held; each iteration is one epoch of batches.

    augment: "none", "weak" or "strong"; "weak+strong", which has every image twice in an epoch, once in each way, all
    shuffled together; or "two-view", which has every image once, in both ways in the same batch.
    mean, std: three numbers each, for values in 0..1. seed: 0 or more, from which every random choice follows, on any
    device. weak_view: what weak augmentation does, a function like `weak`. posterize_bits: of `distort`.

    Each epoch's order has a random generator of its own, and so has each chunk of batches that are augmented together:
    a chunk is made without those before it. An epoch is finished when its last batch is handed out. An iteration begins
    at an epoch's first batch, again where the one before was broken off, but after `load_state_dict` in its middle.

    A batch is a dict of `image`, float32 (B, 3, H, W) in `memory_format`; `target`, int64 (B,); and `index`, int64
    (B,), the row in the image set. With "two-view" it has `image_weak`, which is `image`, and `image_strong` as well.
    The last batch may be smaller. Raises `UserError` for an unknown augmentation or a batch size below one.

    share: of several processes. A loader that shuffles gives this one's part of every batch, whose random numbers are
    those of the whole batch; another one gives every `share.size`-th batch, whole.
    """

    def __init__(
        self,
        image_set: ImageSet | ImageFiles,
        batch_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: str = "none",
        shuffle: bool = False,
        seed: int = 0,
        memory_format: torch.memory_format = torch.contiguous_format,
        weak_view: Callable[[torch.Tensor, Draws], torch.Tensor] = weak,
        posterize_bits: tuple[int, int] = (1, 1),
        share: Share = ALL,
    ) -> None:
        if augment not in AUGMENTATIONS:
            raise UserError(f"unknown augmentation {augment!r}: DATASET.AUGMENT takes {', '.join(AUGMENTATIONS)}")
        if batch_size < 1:
            raise UserError(f"batch size {batch_size}: expected 1 or more; set SOLVER.BATCH_SIZE")
        self.image_set = image_set
        self.batch_size = batch_size
        self.augment = augment
        self.mean, self.std = mean, std
        self.shuffle = shuffle
        self.seed = seed
        self.memory_format = memory_format
        self.weak_view = weak_view
        self.posterize_bits = posterize_bits
        self.share = share
        self._mean, self._std = (torch.tensor(values, device=self.device).view(3, 1, 1) for values in (mean, std))
        # Epochs finished, and batches handed out of the one that runs: now, and where the next iteration begins.
        self._position = self._start = 0, 0

    @property
    def device(self) -> torch.device:
        """Where the batches are."""
        return self.image_set.targets.device

    @property
    def num_images_per_epoch(self) -> int:
        """Images in one epoch: the size of the set, twice that for "weak+strong"."""
        return len(self.image_set) * (2 if self.augment == "weak+strong" else 1)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        epoch, first = self._start
        for number, batch in self._batches(epoch, first):
            self._position = (epoch, number + 1) if number + 1 < len(self) else (epoch + 1, 0)
            self._start = self._position[0], 0
            yield batch
            del batch  # whose memory the next one then takes

    def __len__(self) -> int:
        return -(-self.num_images_per_epoch // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """`epoch`: how many are finished; `batch`: how many batches of the running one have been handed out."""
        return dict(zip(("epoch", "batch"), self._position, strict=True))

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration give, bit for bit, the batches that followed in the loader that `state` is of.

        That loader had the same images, seed, batch size and augmentation.
        """
        self._position = self._start = state["epoch"], state["batch"]

    def images_in(self, number: int) -> int:
        """Images of batch `number`, from 0, in all processes."""
        return min(self.batch_size, self.num_images_per_epoch - number * self.batch_size)

    def _batches(self, epoch, first):
        """The numbers, from `first` on, and the batches of `epoch`, which counts from 0; empty ones are left out."""
        raise NotImplementedError

    def _own(self, number):
        """Which images of batch `number` this process makes."""
        count = self.images_in(number)
        if self.shuffle:
            return self.share.part(count)
        return slice(0, count if number % self.share.size == self.share.rank else 0)

    def _seeds(self, epoch, purpose, count):
        """The first `count` seeds, one a chunk, of generators for `purpose`: ORDER, which needs one, VIEWS or CROPS."""
        sequence = np.random.SeedSequence(self.seed, spawn_key=(epoch, purpose))
        return sequence.generate_state(count, np.uint64).tolist()

    def _order(self, epoch):
        """The rows of an epoch's images, int64; in "weak+strong" row + len(image_set) means the image's strong view."""
        count = self.num_images_per_epoch
        if not self.shuffle:
            return torch.arange(count)
        (seed,) = self._seeds(epoch, ORDER, 1)
        return torch.randperm(count, generator=torch.Generator().manual_seed(seed))

    def _views(self, seed, entries, rows, images, images_strong=None):
        """The augmented views of some of `entries`, a list of one or, in "two-view", of a weak and a strong one.

        rows: int64 (B,), the places in `entries` of those that `images` are of; None where they are all of them.
        images: uint8 (B, 3, H, W), as each view is; images_strong: what the strong view is made of, if not `images`.
        """
        draws = Draws(torch.Generator().manual_seed(seed), len(entries), rows)
        views = [self._augment(images, entries, draws)]
        if self.augment == "two-view":
            weak_view = self._weak(images if images_strong is None else images_strong, draws)
            views.append(distort(weak_view, draws, self.posterize_bits))
        return views

    def _batch(self, rows, views):
        """The batch of the image set's `rows`, int64 (B,), from their uint8 `views`."""
        images = [self._normalise(view) for view in views]
        batch = {"image": images[0]}
        if self.augment == "two-view":
            batch |= {"image_weak": images[0], "image_strong": images[1]}
        return batch | {"target": self.image_set.targets[rows], "index": rows}

    def _rows(self, entries):
        """The image set's rows, on the device, that `entries`, some of those that `_order` gives, stand for."""
        return (entries % len(self.image_set)).to(self.device, non_blocking=True)

    def _augment(self, images, entries, draws):
        if self.augment == "none":
            return images
        images = self._weak(images, draws)
        if self.augment == "strong":
            return distort(images, draws, self.posterize_bits)
        if self.augment == "weak+strong":
            are_strong = entries >= len(self.image_set)
            places = (are_strong if draws.rows is None else are_strong[draws.rows]).nonzero().flatten()
            places = places.to(images.device, non_blocking=True)
            distorted = distort(images.index_select(0, places), draws.among(are_strong), self.posterize_bits)
            return images.index_copy_(0, places, distorted)
        return images

    def _weak(self, images, draws):
        return self.weak_view(images, draws)

    def _normalise(self, images):
        # Bytes are the cheapest to lay out anew; statistics of an image's shape are faster on a CPU than a broadcast.
        images = images.contiguous(memory_format=self.memory_format).float().div_(255)
        if self._mean.shape != images.shape[1:]:
            self._mean, self._std = (
                values[:, :1, :1].expand(images.shape[1:])[None].contiguous(memory_format=self.memory_format)[0]
                for values in (self._mean, self._std)
            )
        return images.sub_(self._mean).div_(self._std)


class Loader(BatchSource):
    """Batches of an `ImageSet`, gathered, augmented and normalised where its tensors are."""

    image_set: ImageSet

    def __init__(self, image_set: ImageSet, *args: Any, **options: Any) -> None:
        # In channels-last an image's rows are contiguous, as `weak` copies them.
        images = image_set.images.contiguous(memory_format=torch.channels_last)
        super().__init__(replace(image_set, images=images), *args, **options)

    def _batches(self, epoch, first):
        batches_per_chunk = max(1, CHUNK // self.batch_size)
        chunks = self._order(epoch).split(batches_per_chunk * self.batch_size)
        seeds = self._seeds(epoch, VIEWS, len(chunks))
        for chunk in range(first // batches_per_chunk, len(chunks)):
            numbers = range(chunk * batches_per_chunk, min((chunk + 1) * batches_per_chunk, len(self)))
            batches = zip(numbers, self._chunk(chunks[chunk], seeds[chunk], numbers), strict=True)
            yield from (
                (number, self._batch(rows, views))
                for number, (rows, *views) in batches
                if len(rows) > 0 and number >= first
            )

    def _chunk(self, entries, seed, numbers):
        """The rows and the views of each batch of `entries`, which are those of the batches `numbers`."""
        own, places = [self._own(number) for number in numbers], None
        if self.share.size > 1:
            every = torch.arange(len(entries)).split(self.batch_size)
            places = torch.cat([batch[part] for batch, part in zip(every, own, strict=True)])
        rows = self._rows(entries if places is None else entries[places])
        images = self.image_set.images.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)
        parts = rows, *self._views(seed, entries, places, images)
        sizes = [part.stop - part.start for part in own]
        return zip(*(part.split(sizes) for part in parts), strict=True)
