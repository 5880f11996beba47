"""What every data set is once read: all its images in one tensor."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ImageSet:
    """Labelled images that fit in memory.

    images: uint8 (N, 3, H, W); targets: int64 (N,), indices into `classes`; classes: the class names in index order.
    """

    images: torch.Tensor
    targets: torch.Tensor
    classes: list[str]

    def __len__(self):
        return len(self.targets)

    def to(self, device):
        """The same set with its tensors on `device`."""
        return ImageSet(self.images.to(device), self.targets.to(device), self.classes)
