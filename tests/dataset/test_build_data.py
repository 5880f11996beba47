import numpy as np
import pytest
import torch
from PIL import Image
from yacs.config import CfgNode

import mdistiller.dataset
from mdistiller.dataset import DATASETS, available_memory, build_data, fill_defaults
from mdistiller.dataset.augment import Draws, rotate_and_mirror, weak
from mdistiller.dataset.loaders import VIEWS
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.errors import UserError

MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)


def config(batch_size=64, **dataset):
    """A filled config that cannot be changed any more."""
    synthetic = {"TRAIN_IMAGES": 90, "TEST_IMAGES": 50, "SEED": 0}
    defaults = {
        "TYPE": "synthetic",
        "NUM_CLASSES": 0,
        "NUM_WORKERS": 0,
        "VAL_FRACTION": 0.0,
        "LABEL_NOISE": 0.0,
        "ROOT": "",
        "IMAGE_SIZE": 0,
        "AUGMENT": "weak+strong",
        "RANDAUGMENT": 0,
        **dict.fromkeys(("ERASING", "MIXUP", "CUTMIX"), 0.0),
        "MEAN": (),
        "STD": (),
        "TEST": {"BATCH_SIZE": 20},
        "SYNTHETIC": synthetic,
    }
    cfg = CfgNode({"DATASET": {**defaults, **dataset}, "SOLVER": {"BATCH_SIZE": batch_size}})
    fill_defaults(cfg.DATASET)
    cfg.freeze()
    return cfg


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


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize(("kind", "view"), [("tiny_imagenet", rotate_and_mirror), ("folder", weak)])
def test_weak_augmentation_is_that_of_the_type(kind, view, fits, samples, monkeypatch):
    if not fits:
        monkeypatch.setattr(mdistiller.dataset, "available_memory", lambda device: 2**20)
    sample = {"TYPE": kind, "ROOT": str(samples / "cifar100_sample"), "MEAN": (0.0,) * 3, "STD": (1.0,) * 3}
    plain, weakly = (build_data(config(2000, AUGMENT=augment, **sample), "cpu", seed=0) for augment in ("none", "weak"))
    expected, got = next(iter(plain.train)), next(iter(weakly.train))
    assert torch.equal(expected["index"], got["index"])
    same = Draws(torch.Generator().manual_seed(*weakly.train._seeds(0, VIEWS, 1)))
    assert torch.equal(view(expected["image"].mul(255).round().byte(), same), got["image"].mul(255).round().byte())


@pytest.mark.parametrize("split", ["train", "test"])
def test_only_the_splits_asked_for_are_built(split):
    data = build_data(config(), "cpu", seed=0, splits=(split,))
    assert (data.train is not None, data.test is not None) == (split == "train", split == "test")
    assert data.num_classes == 36


@pytest.mark.parametrize("kind", DATASETS)
def test_empty_keys_get_the_values_of_the_type_and_others_stay(kind):
    source, other = DATASETS[kind], {"ROOT": "here", "IMAGE_SIZE": 48, "MEAN": (0.1, 0.2, 0.3), "STD": (0.4, 0.5, 0.6)}
    filled = config(TYPE=kind).DATASET
    assert (filled.ROOT, filled.IMAGE_SIZE, filled.MEAN, filled.STD) == (
        source.root,
        source.image_size or 224,
        source.mean,
        source.std,
    )
    assert other.items() <= config(TYPE=kind, **other).DATASET.items()


def test_a_folder_is_read_at_the_size_asked_for(samples):
    data = build_data(config(TYPE="folder", ROOT=str(samples / "cifar100_sample"), IMAGE_SIZE=16), "cpu", seed=0)
    assert data.image_size == 16 and data.classes == sorted(p.name for p in samples.glob("cifar100_sample/train/*"))
    assert next(iter(data.test))["image"].shape == (20, 3, 16, 16)


def test_a_folder_whose_splits_differ_is_refused(tmp_path, drawn_samples):
    sample = drawn_samples / "cifar100_sample"
    (tmp_path / "train").symlink_to(sample / "train")
    (tmp_path / "test").mkdir()
    (tmp_path / "test/apple").symlink_to(sample / "test/apple")
    with pytest.raises(UserError, match="5 classes in train and 1 in test"):
        build_data(config(TYPE="folder", ROOT=str(tmp_path)), "cpu", seed=0)


def test_an_unknown_type_is_refused():
    with pytest.raises(UserError, match=r"'imagenet21k'.*cifar100, imagenet, tiny_imagenet, folder, synthetic"):
        config(TYPE="imagenet21k")


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(UserError, match=r"'heavy'.*none, weak, strong, weak\+strong"):
        build_data(config(AUGMENT="heavy"), "cpu", seed=0)


def test_a_set_that_does_not_fit_is_read_from_its_files_and_says_so(samples, monkeypatch):
    # One batch: the loaders draw for a batch, or for a chunk of them, at a time.
    sample = config(2000, TYPE="folder", ROOT=str(samples / "cifar100_sample"), AUGMENT="two-view")
    held = build_data(sample, "cpu", seed=0)
    monkeypatch.setattr(mdistiller.dataset, "available_memory", lambda device: 2**20)
    streamed = build_data(sample, "cpu", seed=0)
    assert held.note == "" and "0.0 GiB free" in streamed.note and type(streamed.train).__name__ == "FileLoader"
    for split in ("train", "test"):
        expected, got = (next(iter(getattr(data, split))) for data in (held, streamed))
        assert expected.keys() == got.keys() and all(torch.equal(expected[key], got[key]) for key in got)


def cifar100_of(image_set, monkeypatch):
    monkeypatch.setattr("mdistiller.dataset.sources.read_torchvision", lambda *_: image_set)


@pytest.mark.parametrize("kind", ["synthetic", "cifar100"])
@pytest.mark.parametrize("size", [16, 64])
def test_a_set_in_memory_is_brought_to_the_size_asked_for_as_by_pil(kind, size, monkeypatch):
    drawn = draw_synthetic(50, 0, "test")
    cifar100_of(drawn, monkeypatch)
    data = build_data(config(TYPE=kind, IMAGE_SIZE=size, MEAN=(0.0,) * 3, STD=(1.0,) * 3), "cpu", seed=0)
    assert data.image_size == size
    pictures = [Image.fromarray(image) for image in drawn.images.permute(0, 2, 3, 1).numpy()]
    pictures = [picture.resize((size, size), Image.Resampling.BILINEAR) for picture in pictures]
    expected = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)
    images = torch.cat([batch["image"] for batch in data.test])
    assert torch.equal(images.mul(255).round().byte(), expected)
    assert next(iter(data.train))["image"].shape == (64, 3, size, size)


@pytest.mark.parametrize("kind", ["synthetic", "cifar100"])
def test_a_set_of_the_size_asked_for_is_left_as_it_is_and_always_fits(kind, monkeypatch):
    drawn = draw_synthetic(50, 0, "test")
    cifar100_of(drawn, monkeypatch)
    monkeypatch.setattr(mdistiller.dataset, "available_memory", lambda device: 0)
    data = build_data(config(TYPE=kind), "cpu", seed=0, splits=("test",))
    assert torch.equal(data.test.image_set.images, drawn.images)


@pytest.mark.parametrize("kind", ["synthetic", "cifar100"])
def test_a_size_at_which_a_set_does_not_fit_is_refused(kind, monkeypatch):
    cifar100_of(draw_synthetic(50, 0, "test"), monkeypatch)
    monkeypatch.setattr(mdistiller.dataset, "available_memory", lambda device: 2**30)
    with pytest.raises(UserError, match=r"DATASET\.IMAGE_SIZE 2048: .*0\.6 GiB.*50% of the 1\.0 GiB") as error:
        build_data(config(TYPE=kind, IMAGE_SIZE=2048), "cpu", seed=0, splits=("test",))
    assert "\n" not in str(error.value)


def test_memory_that_a_set_may_take_is_known():
    assert available_memory("cpu") > 2**20
