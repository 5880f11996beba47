"""A network as it is tested: by the mean of its logits over several views of an image, in a precision."""

from typing import Any

import torch
from torch import nn

from mdistiller.dataset import CROPS, DATASETS, Data, padded_crops
from mdistiller.errors import UserError

from .precision import Precision

ONE_VIEW, FLIP, TEN_CROP = "centre", "flip", "ten_crop"
DESCRIPTIONS = {FLIP: "mean logits of image and mirror image", TEN_CROP: "mean logits of 10 crops"}


def views_of(flip: bool, ten_crop: bool) -> str:
    """What both flags mean. Raises UserError where one has no effect."""
    if flip and ten_crop:
        raise UserError("--flip has no effect with --ten_crop, which has mirror images too; leave it out")
    return TEN_CROP if ten_crop else FLIP if flip else ONE_VIEW


class Viewing(nn.Module):
    """The logits of `network`, float32, as the mean over `views` of each image: ONE_VIEW, FLIP or TEN_CROP.

    forward: images (batch, 3, height, width), or with `crops_come` the five crops of each in a row, to (logits (batch,
    classes), no features). black: (3, 1, 1), the value 0 of a pixel, with which an image is padded before it is cropped
    here.
    """

    black: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        views: str,
        precision: Precision,
        black: torch.Tensor,
        crops_come: bool,
    ):
        super().__init__()
        self.network, self.views, self.precision, self.crops_come = network, views, precision, crops_come
        self.register_buffer("black", black, persistent=False)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, Any]:
        if self.views == TEN_CROP and not self.crops_come:
            image = padded_crops(image, self.black)
        logits = self.logits(image)
        if self.views != ONE_VIEW:
            logits = (logits + self.logits(image.flip(3))) / 2
        if self.views == TEN_CROP:
            logits = logits.unflatten(0, (-1, CROPS)).mean(dim=1)
        return logits, {}

    def logits(self, image: torch.Tensor) -> torch.Tensor:
        with self.precision:
            return self.network(image)[0].float()


def viewed(network: nn.Module, views: str, cfg: Any, data: Data) -> nn.Module:
    """`network` on the device of `data`, in eval mode, tested by `views` in SOLVER.AMP of `cfg`."""
    device = data.test.device
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    crops_come = DATASETS[cfg.DATASET.TYPE].stays_in_files
    viewing = Viewing(network, views, Precision(cfg.SOLVER, device), -mean / std, crops_come)
    return viewing.to(device).to(memory_format=torch.channels_last).eval()
