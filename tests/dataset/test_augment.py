"""Augmentation against PIL, one image at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import RandomRotation
from torchvision.transforms import functional as tv

from mdistiller.dataset import augment
from mdistiller.dataset.operations import operation_table, posterize
from tests.dataset.pil_oracle import PIL_OPERATIONS
from tests.dataset.pil_oracle import cutout as pil_cutout

OPERATIONS = operation_table(posterize_bits=(1, 8))
AUGMENTATIONS = (augment.weak, augment.rotate_and_mirror, augment.random_operation, augment.cutout, augment.strong)


def with_pil(name, images, magnitudes):
    pictures = [Image.fromarray(image) for image in images.permute(0, 2, 3, 1).numpy()]
    results = [PIL_OPERATIONS[name](p, v) for p, v in zip(pictures, magnitudes.tolist(), strict=True)]
    return torch.from_numpy(np.stack([np.asarray(result) for result in results])).permute(0, 3, 1, 2)


def assert_same_as_pil(name, images, magnitudes):
    result = OPERATIONS[name][0](images, magnitudes)
    assert result.dtype == torch.uint8
    assert torch.equal(result, with_pil(name, images, magnitudes))


def magnitudes_of(name, count):
    """The whole range, its ends and its middle included."""
    _, low, high = OPERATIONS[name]
    return torch.cat([torch.tensor([low, high, (low + high) / 2]), torch.linspace(low, high, count - 3)])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def draws(seed=0):
    return augment.Draws(generator(seed))


@pytest.fixture(scope="module")
def photographs(samples):
    """uint8 (200, 3, 32, 32), of every class."""
    paths = sorted((samples / "cifar100_sample/train").glob("*/*.png"))
    paths = paths[:: len(paths) // 200][:200]
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def test_the_operations_and_their_ranges_are_the_published_ones():
    blend, shear = (0.05, 0.95), (-0.3, 0.3)
    published = {
        "AutoContrast": None,
        "Brightness": blend,
        "Color": blend,
        "Contrast": blend,
        "Equalize": None,
        "Identity": None,
        "Posterize": (1, 1),
        "Rotate": (-30, 30),
        "Sharpness": blend,
        "ShearX": shear,
        "ShearY": shear,
        "Solarize": (0, 256),
        "TranslateX": shear,
        "TranslateY": shear,
    }
    table = operation_table()
    assert list(table) == list(published)
    assert all(table[name][1:] == limits for name, limits in published.items() if limits)


@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_pil_on_photographs(name, photographs):
    assert_same_as_pil(name, photographs, magnitudes_of(name, len(photographs)))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("crop", [np.s_[..., :20, :], np.s_[..., 5:24]], ids=["wide", "tall"])
def test_equals_pil_on_images_that_are_not_square(name, crop, photographs):
    assert_same_as_pil(name, photographs[crop].contiguous(), magnitudes_of(name, len(photographs)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_equals_pil_on_constant_images(name):
    images = torch.tensor([0, 1, 127, 128, 254, 255] * 10, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 32, 32)
    assert_same_as_pil(name, images, magnitudes_of(name, len(images)))


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(3, 40), width=st.integers(3, 40), levels=st.integers(1, 256))
def test_equals_pil_on_any_size_and_histogram(name, seed, height, width, levels):
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, levels, dtype=np.uint8)
    images = torch.from_numpy(rng.choice(palette, (4, 3, height, width)))
    _, low, high = OPERATIONS[name]
    assert_same_as_pil(name, images, torch.from_numpy(rng.uniform(low, high, 4)).float())


def test_posterize_keeps_a_whole_number_of_bits(photographs):
    images = photographs[:2]
    assert torch.equal(posterize(images, torch.tensor([4.0, 4.99])), images & 0xF0)


def test_random_operation_gives_each_image_the_operation_and_magnitude_drawn_for_it(photographs):
    result = augment.random_operation(photographs, draws(3))
    same = generator(3)
    choices = torch.randint(len(OPERATIONS), (len(photographs),), generator=same).tolist()
    uniform = torch.rand(len(photographs), generator=same)
    for image, choice, u, got in zip(photographs, choices, uniform, result, strict=True):
        name, (_, low, high) = list(operation_table().items())[choice]
        assert torch.equal(got, with_pil(name, image[None], (low + (high - low) * u)[None])[0]), name


def test_random_operation_draws_all_operations_equally_often(monkeypatch):
    counts = {}

    def counted(name):
        def record(images, magnitude):
            counts[name] = len(images)
            return images

        return record

    table = {name: (counted(name), low, high) for name, (_, low, high) in operation_table().items()}
    monkeypatch.setattr(augment, "operation_table", lambda bits: table)
    augment.random_operation(torch.zeros(14_000, 3, 1, 1, dtype=torch.uint8), draws())
    assert set(counts) == set(table)
    assert all(880 < count < 1120 for count in counts.values())  # 1000 +- 4 standard deviations


def test_random_operation_draws_magnitudes_over_the_whole_range(monkeypatch):
    seen = []
    table = {"only": (lambda images, magnitude: seen.append(magnitude) or images, -30, 30)}
    monkeypatch.setattr(augment, "operation_table", lambda bits: table)
    augment.random_operation(torch.zeros(10_000, 3, 1, 1, dtype=torch.uint8), draws())
    magnitude = seen[0]
    assert -30 <= magnitude.min() < -29.9 and 29.9 < magnitude.max() <= 30
    assert magnitude.histc(10, -30, 30).sub(1000).abs().max() < 120


def test_weak_is_a_crop_of_the_padded_image_or_of_its_mirror(photographs):
    for image, result in zip(photographs[:40], augment.weak(photographs[:40], draws()), strict=True):
        padded = [F.pad(view, [4] * 4) for view in (image, image.flip(2))]
        crops = [view[:, y : y + 32, x : x + 32] for view in padded for y in range(9) for x in range(9)]
        assert any(torch.equal(result, crop) for crop in crops)


def test_weak_takes_every_place_and_both_directions_equally_often():
    ramp = torch.arange(1, 50, dtype=torch.uint8).view(1, 1, 7, 7).repeat(40_000, 3, 1, 1)
    centres = augment.weak(ramp, draws())[:, 0, 2:5, 2:5].flatten(1).unique(dim=0, return_counts=True)[1]
    assert len(centres) == 2 * 9 * 9
    assert (centres - 40_000 / 162).abs().max() < 80


def test_weak_keeps_images_that_are_not_square(photographs):
    assert augment.weak(photographs[:4, :, :20], draws()).shape == (4, 3, 20, 32)


def rotated_and_mirrored_by_torchvision(images, seed):
    """MDistiller's transform of Tiny-ImageNet on PIL images, with the numbers that `rotate_and_mirror` draws."""
    same = generator(seed)
    angles = torch.empty(len(images)).uniform_(-20, 20, generator=same).tolist()
    mirrored = torch.randint(2, (len(images),), generator=same).tolist()
    results = []
    for image, angle, is_mirrored in zip(images.permute(0, 2, 3, 1).numpy(), angles, mirrored, strict=True):
        result = tv.rotate(Image.fromarray(image), angle)
        results.append(np.asarray(tv.hflip(result) if is_mirrored else result))
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 70), width=st.integers(1, 70))
def test_rotate_and_mirror_equals_torchvision_on_pil_images(seed, height, width):
    images = torch.randint(256, (20, 3, height, width), dtype=torch.uint8, generator=generator(seed))
    expected = rotated_and_mirrored_by_torchvision(images, seed)
    for layout in (torch.contiguous_format, torch.channels_last):
        images = images.contiguous(memory_format=layout)
        assert torch.equal(augment.rotate_and_mirror(images, draws(seed)), expected)


def test_rotate_and_mirror_equals_torchvision_on_photographs_of_64_pixels(photographs):
    images = F.interpolate(photographs, (64, 64))
    expected = rotated_and_mirrored_by_torchvision(images, 0)
    assert torch.equal(augment.rotate_and_mirror(images, draws()), expected)


def test_rotate_and_mirror_turns_as_torchvisions_random_rotation(monkeypatch):
    """Over the whole range of MDistiller's `RandomRotation(20)`, evenly; half of the images are mirrored."""
    angles = []
    monkeypatch.setattr(augment, "rotate", lambda images, degrees: angles.append(degrees) or images.clone())
    left_to_right = torch.arange(2, dtype=torch.uint8).repeat(10_000, 3, 1, 1)
    results = augment.rotate_and_mirror(left_to_right, draws())
    low, high = RandomRotation(20).degrees
    assert low <= angles[0].min() < low + 0.1 and high - 0.1 < angles[0].max() <= high
    assert angles[0].histc(10, low, high).sub(1000).abs().max() < 120
    assert 4800 < results[:, 0, 0, 0].sum() < 5200


def cutout_draws(count, seed):
    """The numbers in 0..1 that `cutout` draws for `count` images, a list each: places y, places x, sides."""
    return torch.rand(3, count, generator=generator(seed)).tolist()


def cutout_by_pil(images, seed):
    """What the release's Cutout makes of `images` with the numbers that `cutout` draws."""
    height, width = images.shape[2:]
    results = []
    for image, y, x, side in zip(images.permute(0, 2, 3, 1).numpy(), *cutout_draws(len(images), seed), strict=True):
        point = 1 + (width - 1) * x, 1 + (height - 1) * y
        results.append(np.asarray(pil_cutout(Image.fromarray(image), side * 0.5 * width, *point)))
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2)


def painted_by_cutout(count, seed=0):
    """Which pixels of `count` black images Cutout paints, bool (count, 32, 32)."""
    return augment.cutout(torch.zeros(count, 3, 32, 32, dtype=torch.uint8), draws(seed))[:, 0] > 0


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), height=st.integers(1, 40), width=st.integers(1, 40))
def test_cutout_equals_pil_on_any_size(seed, height, width):
    images = torch.randint(256, (40, 3, height, width), dtype=torch.uint8, generator=generator(seed))
    assert torch.equal(augment.cutout(images, draws(seed)), cutout_by_pil(images, seed))


def test_cutout_equals_pil_in_the_published_colour_on_photographs(photographs):
    results = augment.cutout(photographs, draws(1))
    assert torch.equal(results, cutout_by_pil(photographs, 1))
    painted = results.permute(0, 2, 3, 1)[(results != photographs).any(1)]
    assert painted.unique(dim=0).tolist() == [[125, 123, 114]]


def test_cutout_paints_the_published_share_of_all_pixels():
    shares = painted_by_cutout(40_000).float().mean((1, 2))
    sampling_error = shares.std().item() / len(shares) ** 0.5
    assert sampling_error < 0.0004
    assert abs(shares.mean().item() - 0.083) < 4 * sampling_error


def test_cutout_keeps_the_whole_side_at_the_left_and_top_edge_and_cuts_it_at_the_others():
    painted = painted_by_cutout(5_000)
    *_, sides = (torch.tensor(draws) * 16 for draws in cutout_draws(len(painted), 0))
    for lines in (painted.any(2), painted.any(1)):  # rows, columns
        at_start, at_end, whole = lines[:, 0], lines[:, -1], sides.int() + 1
        assert at_start.sum() > 500 and at_end.sum() > 500
        assert torch.equal(lines.sum(1)[~at_end], whole[~at_end])
        assert (lines.sum(1)[at_end] < whole[at_end]).float().mean() > 0.7


def test_strong_is_weak_then_two_operations_then_cutout(photographs):
    images = augment.weak(photographs, same := draws(5))
    images = augment.random_operation(augment.random_operation(images, same), same)
    assert torch.equal(augment.strong(photographs, draws(5)), augment.cutout(images, same))


@pytest.mark.parametrize("function", AUGMENTATIONS)
def test_the_input_is_left_alone(function, photographs):
    before = photographs.clone()
    function(photographs, draws())
    assert torch.equal(photographs, before)


@pytest.mark.parametrize("function", AUGMENTATIONS)
def test_an_empty_batch_stays_empty(function):
    assert function(torch.zeros(0, 3, 32, 32, dtype=torch.uint8), draws()).shape == (0, 3, 32, 32)


def test_the_global_random_state_is_not_touched(photographs):
    before = torch.get_rng_state()
    augment.strong(photographs, draws())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_gives_the_same_pictures_as_the_cpu(photographs):
    for seed in range(5):
        for view in (augment.strong, augment.rotate_and_mirror):
            on_gpu = view(photographs.cuda(), draws(seed))
            assert torch.equal(on_gpu.cpu(), view(photographs, draws(seed)))
