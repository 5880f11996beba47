"""The plain loader's batches beside those of ours."""

import pytest
import torch
import torch.nn.functional as F

from mdistiller.dataset import Loader
from mdistiller.dataset.augment import CUTOUT_COLOUR, Draws, weak
from mdistiller.dataset.operations import operation_table
from tests.dataset.pil_oracle import PIL_OPERATIONS
from tools.benchmark.plain_images import PlainImages, plain_loader
from tools.benchmark.workload import STATISTICS, random_images


def images(count=8, seed=0):
    torch.manual_seed(seed)
    image_set = random_images(count)
    image_set.images[:, :, :16] //= 2
    return image_set


def plain_bytes(augment, image_set):
    """What the plain way makes of the images, before normalisation, as uint8 (n, 3, 32, 32)."""
    batches = plain_loader(image_set, 4, augment, workers=0, shuffle=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in STATISTICS)
    return torch.cat([(image * std + mean) * 255 for image, _, _ in batches]).round().to(torch.uint8)


def test_without_augmentation_both_loaders_give_the_same_batches():
    image_set = images()
    plain = list(plain_loader(image_set, 4, "none", workers=0, shuffle=False))
    ours = list(Loader(image_set, 4, *STATISTICS))
    for (image, target, index), batch in zip(plain, ours, strict=True):
        torch.testing.assert_close(image, batch["image"])
        assert torch.equal(target, batch["target"]) and torch.equal(index, batch["index"])


def test_both_weak_augmentations_are_crops_of_the_padded_image_or_its_mirror():
    image_set = images()
    for results in (plain_bytes("weak", image_set), weak(image_set.images, Draws(torch.Generator().manual_seed(0)))):
        for image, result in zip(image_set.images, results, strict=True):
            padded = [F.pad(view, [4] * 4) for view in (image, image.flip(2))]
            crops = [view[:, y : y + 32, x : x + 32] for view in padded for y in range(9) for x in range(9)]
            assert any(torch.equal(result, crop) for crop in crops)


@pytest.mark.parametrize("name", operation_table())
def test_the_plain_operations_are_those_of_the_batched_augmentation(name):
    image_set, (operation, low, high) = images(), operation_table()[name]
    magnitudes = torch.linspace(low, high, len(image_set))
    pictures = PlainImages(image_set, "none").pictures
    results = [PIL_OPERATIONS[name](*pair) for pair in zip(pictures, magnitudes.tolist(), strict=True)]
    plain = torch.stack([torch.frombuffer(bytearray(r.tobytes()), dtype=torch.uint8).view(32, 32, 3) for r in results])
    assert torch.equal(plain.permute(0, 3, 1, 2), operation(image_set.images, magnitudes))


def test_the_plain_strong_augmentation_distorts_and_cuts_out():
    image_set = images(64)
    result = plain_bytes("strong", image_set)
    colour = torch.tensor(CUTOUT_COLOUR, dtype=torch.uint8).view(3, 1, 1)
    painted = (result == colour).all(1).sum((1, 2))
    assert result.shape == image_set.images.shape
    assert painted.max() <= 17 * 17 and (painted > 0).float().mean() > 0.5  # PIL paints both ends of a side
