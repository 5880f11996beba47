import pytest
import torch
from yacs.config import CfgNode

import mdistiller.dataset
from mdistiller.dataset import available_memory, build_data
from mdistiller.errors import UserError

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def config(**dataset):
    synthetic = {"TRAIN_IMAGES": 90, "TEST_IMAGES": 50, "SEED": 0}
    defaults = {
        "TYPE": "synthetic",
        "NUM_CLASSES": 0,
        "NUM_WORKERS": 0,
        "ROOT": "data",
        "IMAGE_SIZE": 32,
        "AUGMENT": "weak+strong",
        "MEAN": MEAN,
        "STD": STD,
        "TEST": {"BATCH_SIZE": 20},
        "SYNTHETIC": synthetic,
    }
    return CfgNode({"DATASET": {**defaults, **dataset}, "SOLVER": {"BATCH_SIZE": 64}})


def test_both_loaders_follow_the_config():
    data = build_data(config(), "cpu", seed=0)
    assert (data.train.batch_size, data.train.augment, data.train.shuffle) == (64, "weak+strong", True)
    assert data.train.num_images_per_epoch == 180
    assert (data.test.batch_size, data.test.augment, data.test.shuffle) == (20, "none", False)
    assert len(data.test) == 3


def test_it_says_what_the_networks_need_to_know():
    data = build_data(config(), "cpu", seed=0)
    assert data.num_classes == len(data.classes) == 36
    assert (data.image_size, data.mean, data.std) == (32, MEAN, STD)


def test_the_seed_decides_the_batches():
    first, same, other = (next(iter(build_data(config(), "cpu", seed).train))["image"] for seed in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)


@pytest.mark.parametrize("split", ["train", "test"])
def test_only_the_splits_asked_for_are_built(split):
    data = build_data(config(), "cpu", seed=0, splits=(split,))
    assert (data.train is not None, data.test is not None) == (split == "train", split == "test")
    assert data.num_classes == 36


def test_a_folder_is_read_at_the_size_asked_for(shared):
    data = build_data(config(TYPE="folder", ROOT=str(shared / "data/cifar100_sample"), IMAGE_SIZE=16), "cpu", seed=0)
    assert data.image_size == 16 and data.num_classes == 100
    assert next(iter(data.test))["image"].shape == (20, 3, 16, 16)


def test_a_folder_whose_splits_differ_is_refused(tmp_path, shared):
    sample = shared / "data/cifar100_sample"
    (tmp_path / "train").symlink_to(sample / "train")
    (tmp_path / "test").mkdir()
    (tmp_path / "test/apple").symlink_to(sample / "test/apple")
    with pytest.raises(UserError, match="100 classes in train and 1 in test"):
        build_data(config(TYPE="folder", ROOT=str(tmp_path)), "cpu", seed=0)


def test_an_unknown_type_is_refused():
    with pytest.raises(UserError, match=r"'mnist'.*cifar100, imagenet, tiny_imagenet, folder, synthetic"):
        build_data(config(TYPE="mnist"), "cpu", seed=0)


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(UserError, match=r"'heavy'.*none, weak, strong, weak\+strong"):
        build_data(config(AUGMENT="heavy"), "cpu", seed=0)


def test_a_set_that_does_not_fit_is_read_from_its_files_and_says_so(shared, monkeypatch):
    sample = config(TYPE="folder", ROOT=str(shared / "data/cifar100_sample"), AUGMENT="two-view")
    sample.SOLVER.BATCH_SIZE = 2000  # one batch: the loaders draw for a batch, or for a chunk of them, at a time
    held = build_data(sample, "cpu", seed=0)
    monkeypatch.setattr(mdistiller.dataset, "available_memory", lambda device: 2**20)
    streamed = build_data(sample, "cpu", seed=0)
    assert held.note == "" and "0.0 GiB free" in streamed.note and type(streamed.train).__name__ == "FileLoader"
    for split in ("train", "test"):
        expected, got = (next(iter(getattr(data, split))) for data in (held, streamed))
        assert expected.keys() == got.keys() and all(torch.equal(expected[key], got[key]) for key in got)


def test_memory_that_a_set_may_take_is_known():
    assert available_memory("cpu") > 2**20
