"""Loaders as MDistiller's loops take them: batches that are tuples."""

from collections.abc import Iterator
from typing import Any

import torch

from mdistiller.dataset.images import ImageFiles, ImageSet
from mdistiller.dataset.loaders import BatchSource


class Tuples:
    """The batches of `source` as tuples of their entries `names`."""

    def __init__(self, source: BatchSource, *names: str):
        self.source, self.names = source, names

    @property
    def dataset(self) -> ImageSet | ImageFiles:
        """The images, of which there are `len(dataset)`, with their `targets`."""
        return self.source.image_set

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        for batch in self.source:
            yield tuple(batch[name] for name in self.names)


def get_dataset(cfg: Any) -> tuple[Tuples, Tuples, int, int]:
    """MDistiller's loaders for the whole config `cfg`, on CUDA where there is a GPU; it is not changed.

    Returns the training loader, of (image, target, index); the one to judge on, of (image, target): the validation
    images where there are any, else the test images; the number of training images, and that of classes. Raises
    UserError as `build_data` does.
    """
    from mdistiller.dataset import build_data, fill_defaults  # which import this

    cfg = cfg.clone()
    cfg.defrost()
    fill_defaults(cfg.DATASET)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    data = build_data(cfg, device, cfg.EXPERIMENT.SEED, memory_format=torch.contiguous_format)
    train, judged = Tuples(data.train, "image", "target", "index"), Tuples(data.val or data.test, "image", "target")
    return train, judged, len(train.dataset), data.num_classes
