"""Batches decoded from files: equal to PIL and torchvision, and the same whatever the number of workers."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from mdistiller.dataset import AUGMENTATIONS
from mdistiller.dataset.decoding import decode
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.loaders import CROPS, ORDER, VIEWS
from mdistiller.dataset.streaming import (
    CROP_RATIO,
    DRAWS,
    FileLoader,
    centre_crop,
    random_crop_box,
    random_resized_crop,
)
from mdistiller.errors import UserError

SIZE = 48


def make_loader(root, augment="none", workers=0, seed=0, batch_size=4, split="train", **options):
    options |= {"augment": augment, "shuffle": augment != "none", "seed": seed}
    return FileLoader(find_images(root, split), batch_size, (0, 0, 0), (1, 1, 1), SIZE, workers, **options)


def draws(seed=0):
    return torch.rand(DRAWS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).tolist()


def epoch_of(loader):
    batches = list(loader)
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def as_jpeg(path, mode="RGB", size=(40, 30), file_format="JPEG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path, file_format)
    return path


def assert_equal_but_for_rounding(images, expected):
    """Older torch rounds differently in either memory format."""
    assert images.shape == expected.shape and (images.int() - expected.int()).abs().max() <= 1


@pytest.fixture(scope="module")
def photograph(samples):
    return min((samples / "imagenet_sample/val").rglob("*.JPEG"))


def test_photographs_decode_as_in_pil(photographs):
    for path in photographs.glob("val/*/*"):
        assert np.array_equal(decode(path, 224)[0].permute(1, 2, 0), Image.open(path).convert("RGB"))


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG"), ("RGB", "BMP"), ("RGB", "WEBP"), ("RGB", "GIF")],
)
def test_whatever_a_jpeg_file_holds_decodes_as_in_pil(tmp_path, mode, file_format):
    path = as_jpeg(tmp_path / "image.JPEG", mode, file_format=file_format)
    assert np.array_equal(decode(path, 224)[0].permute(1, 2, 0), Image.open(path).convert("RGB"))


def test_evaluation_crop_is_torchvisions(photograph):
    image = decode(photograph, 224)
    expected = tv.center_crop(tv.resize(image, [256], antialias=True), [224])
    assert_equal_but_for_rounding(centre_crop(image, 224), expected)


@pytest.mark.parametrize("size", [(500, 100), (100, 500), (256, 256), (257, 300), (40, 41), (7, 3)])
def test_evaluation_crop_is_torchvisions_for_any_shape(size):
    image = torch.randint(256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = tv.center_crop(tv.resize(image, [256], antialias=True), [224])
    assert_equal_but_for_rounding(centre_crop(image, 224), expected)


def test_random_crop_is_torchvisions_of_its_box(photograph):
    image = decode(photograph, 224)
    for seed in range(5):
        numbers = draws(seed)
        expected = tv.resized_crop(image, *random_crop_box(*image.shape[2:], numbers), [SIZE, SIZE], antialias=True)
        expected = expected.flip(3) if numbers[-1] < 0.5 else expected
        assert_equal_but_for_rounding(random_resized_crop(image, SIZE, numbers), expected)


def test_random_boxes_lie_in_the_image_with_area_and_ratio_in_range():
    height, width = 300, 400
    for seed in range(300):
        top, left, box_height, box_width = random_crop_box(height, width, draws(seed))
        assert 0 <= top <= height - box_height and 0 <= left <= width - box_width
        assert 0.079 < box_height * box_width / (height * width) <= 1
        assert CROP_RATIO[0] - 0.02 < box_width / box_height < CROP_RATIO[1] + 0.02


def test_random_boxes_reach_every_corner_and_both_extremes_of_area():
    boxes = torch.tensor([random_crop_box(100, 100, draws(seed)) for seed in range(2000)])
    assert boxes[:, :2].amin(0).tolist() == [0, 0]
    assert (boxes[:, :2] + boxes[:, 2:]).amax(0).tolist() == [100, 100]
    area = boxes[:, 2] * boxes[:, 3] / 1e4
    assert area.min() < 0.1 and area.max() > 0.95


@pytest.mark.parametrize(("height", "width"), [(20, 2000), (2000, 20)])
def test_an_image_that_no_box_fits_is_cropped_at_its_centre(height, width):
    top, left, box_height, box_width = random_crop_box(height, width, [0.999] * DRAWS)
    assert min(box_height, box_width) == 20 and max(box_height, box_width) == 27
    assert abs(2 * top + box_height - height) <= 1 and abs(2 * left + box_width - width) <= 1


def test_half_of_the_crops_are_mirrored():
    image = torch.arange(8, dtype=torch.uint8).expand(1, 3, 8, 8)
    mirrored = [random_resized_crop(image, 8, draws(seed))[0, 0, 0, 0] > 3 for seed in range(200)]
    assert 60 < sum(mirrored) < 140


@pytest.mark.parametrize("augment", ["weak", "strong", "weak+strong", "two-view"])
def test_batches_do_not_depend_on_the_number_of_workers(photographs, augment):
    alone, beside = make_loader(photographs, augment), make_loader(photographs, augment, workers=2)
    for _ in range(2):
        first, second = epoch_of(alone), epoch_of(beside)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)


def values_of(batches):
    return [{key: value.tolist() for key, value in batch.items()} for batch in batches]


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_a_state_goes_on_after_any_batch_with_any_number_of_workers(photographs, augment, small):
    whole = make_loader(photographs, augment, small=small)
    states, batches = [whole.state_dict()], []
    for batch in itertools.chain(whole, whole):
        states.append(whole.state_dict())
        batches += values_of([batch])
    for workers in (0, 2):
        resumed = make_loader(photographs, augment, workers, small=small)
        for count, state in enumerate(states[:-1]):
            resumed.load_state_dict(state)
            left = len(whole) - count % len(whole)
            assert values_of(resumed) == batches[count : count + left]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_state_counts_what_was_handed_out_not_what_workers_prepared(photographs, workers):
    loader = make_loader(photographs, "weak", workers, batch_size=2)
    states = [tuple(loader.state_dict().values()) for _ in loader]
    assert states == [(0, 1), (0, 2), (1, 0)]


def test_workers_end_with_their_loader(photographs):
    loader = make_loader(photographs, "weak", workers=2, batch_size=1)
    next(iter(loader))
    workers = loader._decoded._iterator._workers
    del loader
    assert [worker.exitcode for worker in workers] == [0, 0]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iteration_that_was_broken_off_starts_anew(photographs, workers):
    loader = make_loader(photographs, "strong", workers, batch_size=1)
    next(iter(loader))
    assert values_of(loader) == values_of(make_loader(photographs, "strong", batch_size=1))


def test_no_random_numbers_serve_twice(photographs):
    loader = make_loader(photographs)
    places = itertools.product(range(3), (ORDER, VIEWS, CROPS))
    seeds = [seed for epoch, purpose in places for seed in loader._seeds(epoch, purpose, 5)]
    assert len({*seeds}) == 3 * 3 * 5


def test_epochs_differ_and_a_saved_state_repeats_one(photographs):
    loader = make_loader(photographs, "weak+strong")
    first, state = epoch_of(loader), loader.state_dict()
    second = epoch_of(loader)
    loader.load_state_dict(state)
    again = epoch_of(loader)
    assert torch.equal(second["image"], again["image"]) and not torch.equal(first["image"], second["image"])


@pytest.mark.parametrize(
    ("augment", "times"), [("none", 1), ("weak", 1), ("strong", 1), ("weak+strong", 2), ("two-view", 1)]
)
def test_an_epoch_holds_each_image_as_often_as_its_augmentation_says(photographs, augment, times):
    loader = make_loader(photographs, augment)
    epoch = epoch_of(loader)
    assert epoch["index"].bincount().tolist() == [times] * 6
    assert torch.equal(epoch["target"], epoch["index"])  # one photograph a class
    assert loader.num_images_per_epoch == 6 * times and len(loader) == -(-6 * times // 4)


def test_the_test_split_comes_in_order_with_a_smaller_last_batch(photographs):
    batches = list(make_loader(photographs, split="test"))
    assert [len(batch["image"]) for batch in batches] == [4, 2]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(6))


def test_two_views_show_the_same_image_differently(photographs):
    batch = next(iter(make_loader(photographs, "two-view")))
    assert batch["image"] is batch["image_weak"]
    assert batch["image_strong"].shape == batch["image_weak"].shape == (4, 3, SIZE, SIZE)
    assert not torch.equal(batch["image_strong"], batch["image_weak"])


def test_pixels_are_normalised(photographs):
    files = find_images(photographs, "test")
    loader = FileLoader(files, 6, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), SIZE)
    mean, std = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    expected = torch.cat([centre_crop(decode(files.path(row), SIZE), SIZE) for row in range(6)]).float().div(255)
    torch.testing.assert_close(next(iter(loader))["image"], expected.sub(mean).div(std))


def test_batches_have_the_memory_format_asked_for(photographs):
    for memory_format in (torch.contiguous_format, torch.channels_last):
        (batch, *_) = make_loader(photographs, "weak", memory_format=memory_format)
        assert batch["image"].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("workers", [0, 2])
def test_torchs_own_generator_is_not_drawn_from(photographs, workers):
    state = torch.get_rng_state()
    epoch_of(make_loader(photographs, "weak+strong", workers))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("content", ["truncated", "text", "empty"])
def test_a_broken_jpeg_is_named(tmp_path, photograph, workers, content):
    as_jpeg(tmp_path / "train/cat/good.JPEG")
    broken = tmp_path / "train/cat/n01440764_broken.JPEG"
    data = {"truncated": photograph.read_bytes()[:2000], "text": b"<html>no image</html>", "empty": b""}[content]
    broken.write_bytes(data)
    with pytest.raises(UserError, match=str(broken)) as error:
        epoch_of(make_loader(tmp_path, "weak", workers))
    assert "\n" not in str(error.value)


def test_a_file_that_vanished_is_named(photographs, tmp_path):
    as_jpeg(tmp_path / "train/cat/1.JPEG")
    loader = make_loader(tmp_path, "weak")
    (tmp_path / "train/cat/1.JPEG").unlink()
    with pytest.raises(UserError, match=r"1\.JPEG"):
        epoch_of(loader)


def test_an_image_smaller_than_the_crop_is_enlarged(tmp_path):
    as_jpeg(tmp_path / "train/cat/1.JPEG", size=(5, 4))
    assert next(iter(make_loader(tmp_path)))["image"].shape == (1, 3, SIZE, SIZE)


def test_memory_of_a_million_names_is_one_array(photographs):
    names = find_images(photographs, "train").names
    assert isinstance(names, np.ndarray) and names.dtype.kind == "S"


def test_names_that_are_not_ascii_are_read(tmp_path):
    as_jpeg(tmp_path / "train/Катя/ñandú.JPEG")
    assert len(epoch_of(make_loader(tmp_path))["image"]) == 1
