"""The five crops that an evaluation averages over."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from mdistiller.dataset import build_data, fill_defaults
from mdistiller.dataset.crops import corners_and_centre, five_crops, padded_crops
from mdistiller.engine.cfg import CFG


def noise(*size):
    return torch.randint(256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(300, 500), (257, 256), (40, 41), (500, 100)])
def test_crops_of_a_photograph_are_torchvisions(size):
    expected = tv.five_crop(tv.resize(noise(*size), [64], antialias=True), [56])
    found = five_crops(noise(*size), 56)
    assert found.shape == (5, 3, 56, 56)
    assert (found.int() - torch.cat(expected).int()).abs().max() <= 1


def test_small_images_are_padded_with_black_as_in_training():
    images = torch.arange(2 * 3 * 32 * 32).view(2, 3, 32, 32).float()
    black = torch.tensor([-1.0, -2.0, -3.0]).view(3, 1, 1)
    crops = padded_crops(images, black).unflatten(0, (2, 5))
    assert torch.equal(crops[:, 4], images)
    assert torch.equal(crops[:, 0, :, 4:, 4:], images[:, :, :-4, :-4])
    assert torch.equal(crops[:, 3, :, :-4, :-4], images[:, :, 4:, 4:])
    assert torch.equal(crops[1, 1, :, :4, 0], black.expand(3, 4, 1)[..., 0])


def test_the_crops_of_an_image_stand_in_a_row():
    images = torch.tensor([1, 2]).view(2, 1, 1, 1).expand(2, 3, 6, 6)
    assert corners_and_centre(images, 4)[:, 0, 0, 0].tolist() == 5 * [1] + 5 * [2]


def test_photographs_come_as_five_crops_each(photographs):
    cfg = CFG.clone()
    cfg.DATASET.update({"TYPE": "imagenet", "ROOT": str(photographs), "IMAGE_SIZE": 32, "NUM_CLASSES": 6})
    cfg.DATASET.NUM_WORKERS = 0
    fill_defaults(cfg.DATASET)
    one, five = (build_data(cfg, "cpu", 0, splits=("test",), crops=crops).test for crops in (False, True))
    (batch,), (crops,) = one, five
    assert crops["image"].shape == (30, 3, 32, 32) and torch.equal(crops["target"], batch["target"])
    assert torch.equal(crops["image"][4::5], batch["image"])
