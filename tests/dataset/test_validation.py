"""The part of the training images that is held out, and folders with a `val` of their own."""

import pytest
import torch

from mdistiller.dataset import build_data
from mdistiller.dataset.fingerprint import fingerprint
from mdistiller.dataset.folder import find_images
from mdistiller.dataset.images import ImageSet
from mdistiller.dataset.synthetic import draw_synthetic
from mdistiller.dataset.validation import hold_out
from mdistiller.errors import UserError
from tests.dataset.test_build_data import config
from tests.dataset.test_folder import save


def numbered(*counts):
    """As many images of each class as `counts` say, classes mixed; an image's pixels hold its row."""
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    targets = targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]
    images = torch.arange(len(targets), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    return ImageSet(images, targets, [f"class {number}" for number in range(len(counts))])


def rows(part):
    return part.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("fraction", "count", "held"), [(0.1, 50, 5), (0.1, 4, 0), (0.1, 5, 1), (0.25, 10, 3), (0.99, 10, 9), (0.5, 1, 0)]
)
def test_of_each_class_the_fraction_is_held_out_rounded_and_one_image_stays(fraction, count, held):
    train, val = hold_out(numbered(count, 60), fraction, seed=0)
    assert (train.targets == 0).sum() == count - held and (val.targets == 0).sum() == held
    assert train.classes == val.classes == ["class 0", "class 1"]


def test_each_image_is_in_one_part_in_its_order_with_its_target():
    data = numbered(30, 40, 50)
    parts = hold_out(data, 0.2, seed=0)
    assert sorted(rows(parts[0]) + rows(parts[1])) == list(range(120))
    for part in parts:
        assert rows(part) == sorted(rows(part)) and torch.equal(part.targets, data.targets[rows(part)])
        assert (part.images == part.images[:, :1, :1, :1]).all()


def test_the_seed_alone_decides_which_are_held_out():
    torch.manual_seed(0)
    first, other = (rows(hold_out(numbered(50, 50), 0.2, seed)[1]) for seed in (0, 1))
    torch.manual_seed(1)
    assert rows(hold_out(numbered(50, 50), 0.2, 0)[1]) == first != other


def test_it_never_changes():
    data = ImageSet(numbered(10, 10).images, torch.arange(20) % 2, ["cat", "dog"])
    assert rows(hold_out(data, 0.2, seed=2021)[1]) == [11, 12, 14, 19]


def test_a_larger_fraction_holds_out_the_same_and_more():
    small, large = (set(rows(hold_out(numbered(50, 50), fraction, 0)[1])) for fraction in (0.1, 0.3))
    assert small < large


def test_a_fraction_that_holds_out_nothing_is_refused():
    with pytest.raises(UserError, match=r"DATASET\.VAL_FRACTION 0\.1 holds out none of 7 .* of 2 classes") as error:
        hold_out(numbered(4, 3), 0.1, seed=0)
    assert "\n" not in str(error.value)


def test_files_are_held_out_as_images_are(samples):
    files = find_images(samples / "cifar100_sample", "train")
    train, val = hold_out(files, 0.2, seed=0)
    assert sorted([*train.names, *val.names]) == sorted(files.names)
    assert all(part.path(0).is_file() for part in (train, val))
    assert set(val.targets.tolist()) == set(train.targets.tolist()) == set(range(len(files.classes)))


def test_as_published_nothing_is_held_out():
    data = build_data(config(), "cpu", seed=0)
    assert data.val is None and data.val_from == "" and data.fingerprints.keys() == {"train", "test"}


def test_a_held_out_part_validates_and_the_rest_trains():
    data = build_data(config(VAL_FRACTION=0.4), "cpu", seed=0)
    assert data.val_from == "40 % of the training images"
    assert (len(data.train.image_set), len(data.val.image_set), len(data.test.image_set)) == (54, 36, 50)
    assert (data.val.batch_size, data.val.augment, data.val.shuffle) == (20, "none", False)


@pytest.mark.parametrize("fits", [True, False])
def test_the_index_is_the_row_of_the_images_that_train(fits, samples, monkeypatch):
    if not fits:
        monkeypatch.setattr("mdistiller.dataset.available_memory", lambda device: 2**20)
    sample = {"TYPE": "folder", "ROOT": str(samples / "cifar100_sample"), "AUGMENT": "weak"}
    train = build_data(config(VAL_FRACTION=0.3, **sample), "cpu", seed=0).train
    batches = list(train)
    index, target = (torch.cat([batch[key] for batch in batches]) for key in ("index", "target"))
    assert index.sort().values.tolist() == list(range(len(train.image_set)))
    assert torch.equal(target, train.image_set.targets[index])


def test_the_part_is_the_same_whether_held_or_read_from_files(samples, monkeypatch):
    sample = config(2000, TYPE="folder", ROOT=str(samples / "cifar100_sample"), VAL_FRACTION=0.3)
    held = build_data(sample, "cpu", seed=0)
    monkeypatch.setattr("mdistiller.dataset.available_memory", lambda device: 2**20)
    streamed = build_data(sample, "cpu", seed=0)
    images = [torch.cat([batch["image"] for batch in data.val]) for data in (held, streamed)]
    assert torch.equal(*images)


def test_fingerprints_are_of_all_training_images_whatever_is_held_out():
    whole, one = (build_data(config(VAL_FRACTION=fraction), "cpu", 0).fingerprints for fraction in (0.0, 0.4))
    drawn = {split: fingerprint(draw_synthetic(count, 0, split)) for split, count in (("train", 90), ("test", 50))}
    assert whole == one == drawn


def test_testing_reads_and_fingerprints_the_test_images_alone(monkeypatch):
    splits = []

    def drawn(count, seed, split):
        splits.append(split)
        return draw_synthetic(count, seed, split)

    monkeypatch.setattr("mdistiller.dataset.sources.draw_synthetic", drawn)
    data = build_data(config(VAL_FRACTION=0.4), "cpu", seed=0, splits=("test",))
    assert splits == ["test"] and data.val is None and data.val_from == ""
    assert data.fingerprints.keys() == {"test"}


@pytest.fixture
def root(tmp_path):
    """A folder with `train`, `test` and `val`: two classes, four training images and one of the others in each."""
    for name in ("cat", "dog"):
        for number in range(4):
            save(tmp_path / "train" / name / f"{number}.png")
        save(tmp_path / "test" / name / "tested.png", colour=(1, 1, 1))
        save(tmp_path / "val" / name / "chosen.png", colour=(2, 2, 2))
    return tmp_path


def built(root, kind="folder", splits=("train", "test"), **dataset):
    dataset |= {"NUM_CLASSES": 2} if kind == "imagenet" else {}
    return build_data(config(TYPE=kind, ROOT=str(root), **dataset), "cpu", seed=0, splits=splits)


@pytest.mark.parametrize("kind", ["folder", "tiny_imagenet", "imagenet"])
def test_val_beside_test_validates(root, kind):
    data = built(root, kind)
    assert data.val_from == "val/" and data.fingerprints.keys() == {"train", "test", "val"}
    values = [next(iter(loader))["image"] * torch.tensor(data.std).view(3, 1, 1) for loader in (data.test, data.val)]
    values = [(value + torch.tensor(data.mean).view(3, 1, 1)).mul(255).round().unique().tolist() for value in values]
    assert values == [[1], [2]]
    assert (data.val.augment, data.val.shuffle) == ("none", False)


def test_val_whose_labels_lie_in_a_file_validates(root):
    for name in ("cat", "dog"):
        (root / "val" / name / "chosen.png").rename(root / "val" / f"{name}.png")
        (root / "val" / name).rmdir()
    (root / "val/val_annotations.txt").write_text("dog.png dog\ncat.png cat\n")
    data = built(root)
    assert data.val_from == "val/" and data.val.image_set.targets.tolist() == [0, 1]


@pytest.mark.parametrize("place", ["test", "test/images"])
def test_val_is_the_test_split_beside_a_test_without_labels(root, place):
    (root / "test").rename(root / "elsewhere")
    save(root / place / "1.png")
    data = built(root)
    assert data.val is None and data.val_from == "" and len(data.test.image_set) == 2
    assert built(root, VAL_FRACTION=0.25).val_from == "25 % of the training images"


def test_val_without_labels_is_passed_over(root):
    (root / "val").rename(root / "elsewhere")
    save(root / "val/1.png")
    assert built(root).val is None


def test_val_that_is_a_link_to_test_is_no_other_set(root):
    (root / "val").rename(root / "elsewhere")
    (root / "val").symlink_to("test")
    assert built(root).val is None


def test_testing_reads_no_val(root):
    (root / "val/cat/chosen.png").write_text("not an image")
    assert built(root, splits=("test",)).fingerprints.keys() == {"test"}


def test_val_with_other_classes_is_refused(root):
    (root / "val/dog").rename(root / "val/wolf")
    with pytest.raises(UserError, match=r"2 in val \(missing from val: dog; missing from train: wolf\)"):
        built(root)


def test_two_validation_sets_are_refused(root):
    with pytest.raises(
        UserError, match=rf"DATASET\.VAL_FRACTION 0\.1 and the val/ of {root}, .*two validation sets"
    ) as error:
        built(root, VAL_FRACTION=0.1)
    assert "\n" not in str(error.value)
