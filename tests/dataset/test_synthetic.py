import time

import numpy as np
import pytest
import torch

from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.errors import UserError


def test_draws_small_pictures_of_many_classes():
    data = draw_synthetic(100, 0, "train")
    assert data.images.shape == (100, 3, 32, 32) and data.images.dtype == torch.uint8
    assert len(data.classes) == len(set(data.classes)) >= 20


def test_the_classes_are_balanced():
    data = draw_synthetic(720, 0, "train")
    assert data.targets.bincount().tolist() == [720 // len(data.classes)] * len(data.classes)


def test_a_seed_always_draws_the_same_pictures():
    assert torch.equal(draw_synthetic(600, 3, "test").images, draw_synthetic(600, 3, "test").images)


@pytest.mark.parametrize("other", [(1, "train"), (0, "test")], ids=["seed", "split"])
def test_another_seed_or_split_draws_other_pictures(other):
    first, second = draw_synthetic(72, 0, "train").images, draw_synthetic(72, *other).images
    assert not any(torch.equal(a, b) for a in first for b in second)


def test_the_global_random_state_neither_matters_nor_changes():
    np.random.seed(1)
    first = draw_synthetic(40, 0, "train").images
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    np.random.seed(2)
    torch.manual_seed(2)
    second = draw_synthetic(40, 0, "train").images
    np.random.seed(1)
    assert torch.equal(first, second)
    assert (np.random.get_state()[1] == before[0]).all()


def test_the_colour_of_the_object_follows_its_class():
    data = draw_synthetic(3600, 0, "train")
    centres = data.images[:, :, 14:18, 14:18].float().mean((2, 3))
    colours = ("red", "green", "blue")
    for channel, colour in enumerate(colours):
        rows = torch.tensor([colour in data.classes[target] for target in data.targets])
        assert centres[rows].mean(0).argmax() == channel


def test_thousands_of_pictures_take_seconds():
    start = time.process_time()
    draw_synthetic(2000, 0, "train")
    assert time.process_time() - start < 10


def test_no_pictures_is_refused():
    with pytest.raises(UserError, match=r"DATASET\.SYNTHETIC\.TRAIN_IMAGES"):
        draw_synthetic(0, 0, "train")
