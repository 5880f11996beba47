"""RandAugment, erasing, mixup and CutMix against torchvision's transforms v2, given the same random numbers."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mdistiller.dataset import Loader
from mdistiller.dataset.augment import Draws
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.mixing import Extras, Mixture, draw_mixture, erase, rand_augment
from mdistiller.dataset.operations import MAGNITUDES, rand_augment_table
from mdistiller.dataset.streaming import FileLoader
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.share import Share
from tests.dataset.test_share import assert_equal_epochs

STATISTICS = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
BOTH = Extras(mixup=0.4, cutmix=1.0)
ALL_EXTRAS = Extras(randaugment=9, erasing=0.5, mixup=0.4, cutmix=1.0)


def pictures(height=32, width=32, count=4):
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    return (torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") * 255).to(torch.uint8)


def by_torchvision(image, name, magnitude, sign):
    """RandAugment's operation `name` on a PIL image, whose tensor (3, H, W) is given and returned."""
    transform = v2.RandAugment(2, magnitude)
    magnitudes, signed = transform._AUGMENTATION_SPACE[name]
    magnitudes = magnitudes(MAGNITUDES, *image.shape[1:])
    value = 0.0 if magnitudes is None else float(magnitudes[magnitude]) * (sign if signed else 1)
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    options = {"interpolation": transform.interpolation, "fill": transform._fill}
    changed = transform._apply_image_or_video_transform(pil, name, value, **options)
    return torch.from_numpy(np.array(changed)).permute(2, 0, 1)


def test_rand_augment_has_the_operations_of_torchvision():
    assert list(rand_augment_table(9, 32, 32)) == list(v2.RandAugment._AUGMENTATION_SPACE)


@pytest.mark.parametrize("name", v2.RandAugment._AUGMENTATION_SPACE)
@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_an_operation_of_rand_augment_is_torchvision_s(name, size):
    images = pictures(*size)
    for magnitude in (0, 5, 9, 10, 17, 30):
        operation, low, high = rand_augment_table(magnitude, *size)[name]
        for sign in (-1, 1):
            ours = operation(images, low + (high - low) * torch.full((len(images),), (1 + sign) / 2).double())
            theirs = [by_torchvision(image, name, magnitude, sign) for image in images]
            assert torch.equal(ours, torch.stack(theirs)), (magnitude, sign)


def test_rand_augment_gives_each_image_the_two_operations_drawn_for_it():
    images = pictures(count=40)
    ours = rand_augment(images, Draws(torch.Generator().manual_seed(3)), 9)
    generator, names = torch.Generator().manual_seed(3), list(rand_augment_table(9, 32, 32))
    drawn = [torch.randint(high, (40,), generator=generator).tolist() for high in (len(names), 2) * 2]
    for image, got, *(first, first_end, second, second_end) in zip(images, ours, *drawn, strict=True):
        expected = by_torchvision(image, names[first], 9, 2 * first_end - 1)
        assert torch.equal(got, by_torchvision(expected, names[second], 9, 2 * second_end - 1))


@pytest.mark.parametrize("size", [(32, 32), (64, 20), (8, 8)])
def test_erasing_is_torchvision_s(size):
    count, (height, width) = 200, size
    images = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))
    ours = images.clone()
    erase(ours, Draws(torch.Generator().manual_seed(5)), 0.6)
    generator = torch.Generator().manual_seed(5)

    def uniform(low, high, *shape):
        return torch.empty(*shape, count).uniform_(low, high, generator=generator).double()

    chance, areas = uniform(0, 1), uniform(0.02, 0.33, 10)
    ratios, corners = uniform(math.log(0.3), math.log(3.3), 10).exp(), uniform(0, 1, 2)
    for number, image in enumerate(images):
        expected = image
        for area, ratio in zip(areas[:, number] * height * width, ratios[:, number], strict=True):
            h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if h < height and w < width:
                top, left = (
                    int(u * (side + 1)) for u, side in zip(corners[:, number], (height - h, width - w), strict=True)
                )
                if chance[number] < 0.6:
                    expected = v2.functional.erase(image, top, left, h, w, torch.zeros(1))
                break
        assert torch.equal(ours[number], expected)


def test_erasing_takes_as_much_as_torchvision_s():
    images = torch.ones(4000, 1, 32, 32)
    erase(images, Draws(torch.Generator().manual_seed(0)), 1.0)
    torch.manual_seed(0)
    theirs = torch.stack([v2.RandomErasing(1.0)(torch.ones(1, 32, 32)) for _ in range(2000)])
    assert images.mean().item() == pytest.approx(theirs.mean().item(), abs=0.01)
    assert (images.mean(dim=0) - theirs.mean(dim=0)).abs().max() < 0.06


def mixed_by_torchvision(images, mixture):
    labels = torch.arange(len(images))
    if mixture.box is None:
        transform, params = v2.MixUp(num_classes=len(images)), {"lam": mixture.weight}
    else:
        top, bottom, left, right = mixture.box
        transform = v2.CutMix(num_classes=len(images))
        params = {"box": (left, top, right, bottom), "lam_adjusted": mixture.weight}
    params |= {"labels": labels, "batch_size": len(images)}
    return transform.transform(images, params), transform.transform(labels, params)


@pytest.mark.parametrize("mixture", [Mixture(0.3), Mixture(1 - 6 * 20 / 1024, (4, 10, 12, 32))])
def test_mixtures_are_torchvision_s(mixture):
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected, labels = mixed_by_torchvision(images, mixture)
    torch.testing.assert_close(mixture.of(images, images.roll(1, 0)), expected)
    own = torch.eye(5)
    torch.testing.assert_close(labels, mixture.weight * own + (1 - mixture.weight) * own.roll(1, 0))


@pytest.mark.parametrize("size", [(32, 32), (16, 40)])
def test_the_box_of_cutmix_is_drawn_as_torchvision_s(size):
    for seed in range(200):
        mixture = draw_mixture(seed, Extras(cutmix=1.0), *size)
        generator = np.random.default_rng(seed)
        weight = generator.beta(1.0, 1.0)
        spans = []
        for side in size:
            centre, half = generator.integers(side), int(0.5 * math.sqrt(1 - weight) * side)
            spans += [max(0, centre - half), min(side, centre + half)]
        top, bottom, left, right = spans
        assert mixture.box == (top, bottom, left, right)
        assert mixture.weight == pytest.approx(1 - (bottom - top) * (right - left) / math.prod(size), abs=1e-12)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 100.0])
def test_the_weight_of_mixup_has_a_beta_distribution(alpha):
    weights = torch.tensor([draw_mixture(seed, Extras(mixup=alpha), 8, 8).weight for seed in range(2000)])
    assert weights.isfinite().all() and 0 <= weights.min() and weights.max() <= 1
    assert weights.mean().item() == pytest.approx(0.5, abs=0.04)
    assert weights.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.12)


def test_of_mixup_and_cutmix_each_batch_has_one():
    boxes = [draw_mixture(seed, BOTH, 8, 8).box is not None for seed in range(400)]
    assert 150 < sum(boxes) < 250


def make(extras, augment="weak", **options):
    return Loader(draw_synthetic(50, 0, "train"), 16, *STATISTICS, augment, True, 7, extras=extras, **options)


@pytest.mark.parametrize("augment", ["weak", "weak+strong", "two-view"])
def test_a_batch_is_mixed_with_itself_rolled_by_one(monkeypatch, augment):
    monkeypatch.setattr("mdistiller.dataset.loaders.draw_mixture", lambda *_: Mixture(0.25))
    for plain, mixed in zip(make(Extras(), augment), make(BOTH, augment), strict=True):
        for name in ("image", "image_strong") if augment == "two-view" else ("image",):
            torch.testing.assert_close(mixed[name], 0.25 * plain[name] + 0.75 * plain[name].roll(1, 0))
        assert torch.equal(mixed["target"], plain["target"]) and torch.equal(mixed["index"], plain["index"])
        assert torch.equal(mixed["target_mixed"], plain["target"].roll(1, 0)) and mixed["mix"] == 0.25


def test_without_extras_a_batch_is_what_it_was():
    assert next(iter(make(Extras()))).keys() == {"image", "target", "index"}


@pytest.mark.parametrize("extras", [Extras(randaugment=9), Extras(erasing=1.0), Extras(mixup=1.0), Extras(cutmix=1.0)])
def test_each_extra_changes_the_images(extras):
    plain, changed = next(iter(make(Extras()))), next(iter(make(extras)))
    assert not torch.equal(plain["image"], changed["image"]) and torch.equal(plain["target"], changed["target"])


def test_an_epoch_goes_on_from_its_middle_with_the_same_draws():
    first, again = make(ALL_EXTRAS), make(ALL_EXTRAS)
    batches = [*first, *first]
    again.load_state_dict({"epoch": 1, "batch": 2})
    for expected, found in zip(batches[6:], again, strict=True):
        assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_two_epochs_and_two_batches_are_mixed_otherwise():
    batches = make(Extras(mixup=1.0))
    weights = [float(batch["mix"]) for _ in range(2) for batch in batches]
    assert len(set(weights)) == len(weights) == 8


@pytest.mark.parametrize("size", [2, 3, 5])
def test_several_processes_mix_as_one(size):
    images = draw_synthetic(100, 0, "train")

    def of(**options):
        return Loader(images, 15, *STATISTICS, extras=ALL_EXTRAS, **options)

    assert_equal_epochs(of, size, "weak")


def test_several_processes_mix_files_as_one(photographs):
    files = find_images(photographs, "train")

    def of(**options):
        return FileLoader(files, 5, *STATISTICS, image_size=32, extras=ALL_EXTRAS, **options)

    assert_equal_epochs(of, 2, "weak")


def test_the_draws_do_not_depend_on_the_workers(photographs):
    files = find_images(photographs, "train")
    options = {"image_size": 32, "augment": "weak", "shuffle": True, "extras": ALL_EXTRAS, "share": Share()}
    none, two = (list(FileLoader(files, 4, *STATISTICS, workers=workers, **options)) for workers in (0, 2))
    for expected, found in zip(none, two, strict=True):
        assert all(torch.equal(expected[key], found[key]) for key in expected)
