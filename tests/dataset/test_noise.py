"""Labels that are wrong on purpose."""

import numpy as np
import pytest
import torch

from mdistiller.dataset import build_data
from mdistiller.dataset.images import ImageFiles, ImageSet
from mdistiller.dataset.noise import with_label_noise
from tests.dataset.test_build_data import config


def labelled(count, classes=5):
    targets = torch.arange(count) % classes
    return ImageSet(torch.zeros(count, 3, 1, 1, dtype=torch.uint8), targets, [f"class {row}" for row in range(classes)])


@pytest.mark.parametrize(("share", "changed"), [(0, 0), (0.1, 10), (0.255, 26), (1, 101)])
def test_exactly_the_share_gets_another_class(share, changed):
    data = labelled(101)
    noisy = with_label_noise(data, share, seed=0)
    assert (noisy.targets != data.targets).sum() == changed
    assert noisy.targets.min() >= 0 and noisy.targets.max() < 5
    assert torch.equal(data.targets, labelled(101).targets)


def test_the_other_classes_are_drawn_uniformly():
    data = labelled(20_000)
    shifts = (with_label_noise(data, 1, seed=0).targets - data.targets) % 5
    counts = np.bincount(shifts, minlength=5)
    assert counts[0] == 0 and (abs(counts[1:] - 5000) < 250).all()


def test_the_seed_alone_decides():
    data = labelled(100)
    torch.manual_seed(0)
    first, other = (with_label_noise(data, 0.5, seed).targets for seed in (0, 1))
    torch.manual_seed(1)
    assert torch.equal(with_label_noise(data, 0.5, 0).targets, first) and not torch.equal(first, other)


def test_a_larger_share_makes_the_same_labels_wrong_and_more():
    data = labelled(100)
    small, large = (with_label_noise(data, share, 0).targets for share in (0.2, 0.6))
    changed = small != data.targets
    assert torch.equal(small[changed], large[changed])


def test_labels_of_files_are_changed_as_those_of_images():
    data = labelled(20)
    files = ImageFiles("root", np.array([b"a"] * 20), data.targets, data.classes)
    assert torch.equal(with_label_noise(files, 0.4, 0).targets, with_label_noise(data, 0.4, 0).targets)


def test_of_a_single_class_nothing_changes():
    assert with_label_noise(labelled(3, classes=1), 1, seed=0).targets.tolist() == [0, 0, 0]


def test_validation_and_test_images_keep_their_labels_and_fingerprints_tell_of_the_images():
    clean, noisy = (build_data(config(VAL_FRACTION=0.4, LABEL_NOISE=share), "cpu", 0) for share in (0.0, 0.5))
    for split in ("val", "test"):
        targets = [getattr(data, split).image_set.targets for data in (clean, noisy)]
        assert torch.equal(*targets)
    assert (clean.train.image_set.targets != noisy.train.image_set.targets).sum() == 27
    assert clean.fingerprints == noisy.fingerprints
    batch = next(iter(noisy.train))
    assert torch.equal(batch["target"], noisy.train.image_set.targets[batch["index"]])
