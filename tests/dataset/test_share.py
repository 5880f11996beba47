"""Several processes see the pictures that one sees: the same batches, views and order, each a part."""

import pytest
import torch

from mdistiller.dataset import AUGMENTATIONS, Loader
from mdistiller.dataset.augment import rotate_and_mirror, weak
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.streaming import FileLoader
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.share import Share

STATISTICS = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def joined(loaders):
    """The batches of the loaders of all processes, put together; those of each process are of nearly one size."""
    for parts in zip(*loaders, strict=True):
        sizes = [len(part["target"]) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        is_divided = not all(torch.equal(part["index"], parts[0]["index"]) for part in parts)
        yield {key: torch.cat([part[key] for part in parts[: None if is_divided else 1]]) for key in parts[0]}


def assert_equal_epochs(make, size, augment):
    whole = make(augment=augment, shuffle=True, seed=3, share=Share())
    parts = [make(augment=augment, shuffle=True, seed=3, share=Share(rank, size)) for rank in range(size)]
    for _ in range(2):
        for expected, found in zip(whole, joined(parts), strict=True):
            assert expected.keys() == found.keys()
            assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize("weak_view", [weak, rotate_and_mirror])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
@pytest.mark.parametrize("size", [2, 3, 5])
def test_parts_of_held_images_are_those_of_one_process(size, augment, weak_view):
    images = draw_synthetic(1100 if augment == "weak" else 100, 0, "train")

    def make(**options):
        return Loader(images, 15, *STATISTICS, weak_view=weak_view, **options)

    assert_equal_epochs(make, size, augment)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_parts_of_image_files_are_those_of_one_process(photographs, augment, small):
    files = find_images(photographs, "train")

    def make(**options):
        return FileLoader(files, 5, *STATISTICS, image_size=32, small=small, **options)

    assert_equal_epochs(make, 2, augment)


def test_a_part_goes_on_from_the_middle_of_an_epoch():
    images = draw_synthetic(100, 0, "train")
    options = {"augment": "strong", "shuffle": True, "seed": 3, "share": Share(1, 2)}
    first, again = (Loader(images, 15, *STATISTICS, **options) for _ in range(2))
    expected = list(first)[3:]
    again.load_state_dict({"epoch": 0, "batch": 3})
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(expected, again, strict=True))


@pytest.mark.parametrize("size", [2, 3, 8])
def test_evaluation_gives_every_image_once_and_whole_batches(size):
    images = draw_synthetic(100, 0, "test")
    loaders = [Loader(images, 15, *STATISTICS, share=Share(rank, size)) for rank in range(size)]
    batches = [batch["index"] for loader in loaders for batch in loader]
    assert {tuple(batch.tolist()) for batch in batches} == {
        tuple(range(start, min(start + 15, 100))) for start in range(0, 100, 15)
    }
    assert sum(map(len, batches)) == 100


def test_a_batch_too_small_for_batch_norm_in_each_part_is_not_divided():
    assert [Share(rank, 3).part(5) for rank in range(3)] == 3 * [slice(0, 5)]
    assert [Share(rank, 3).part(6) for rank in range(3)] == [slice(0, 2), slice(2, 4), slice(4, 6)]


def test_processes_of_one_machine_divide_its_workers(photographs):
    files = find_images(photographs, "train")
    loader = FileLoader(files, 2, *STATISTICS, 32, workers=2, share=Share(0, 4, on_machine=4))
    assert loader._decoded.num_workers == 1
