"""Flat folders of validation images, as ImageNet and Tiny-ImageNet publish them."""

import numpy as np
import pytest
import scipy.io
from PIL import Image

from mdistiller.dataset.folder import find_images
from mdistiller.dataset.labels import read_synsets
from mdistiller.errors import UserError

WNIDS = ["n01440764", "n01530575", "n02119789"]
LABELS = [WNIDS[2], WNIDS[0], WNIDS[1], WNIDS[0]]
IMAGES = [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2, 3, 4)]


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


def write_meta(path, numbers):
    """A devkit's meta.mat: WordNet ids by ILSVRC number, with the fields of the real one."""
    fields = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    synsets = np.empty((len(numbers), 1), [(field, object) for field in fields])
    for row, (number, wnid) in enumerate(numbers.items()):
        children = np.arange(row, dtype=np.uint16).reshape(1, -1)
        synsets[row, 0] = (number, wnid, "tench, Tinca tinca", "freshwater fish", 0, children, 0, 1300)
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"synsets": synsets}, do_compression=True)


@pytest.fixture
def root(tmp_path):
    """Class folders in train, a flat val."""
    for wnid in WNIDS:
        save(tmp_path / "train" / wnid / "1.JPEG")
    for name in IMAGES:
        save(tmp_path / "val" / name)
    return tmp_path


def labels_of(root):
    files = find_images(root, "test")
    return [files.path(row).name for row in range(len(files))], [files.classes[target] for target in files.targets]


def message(root):
    with pytest.raises(UserError) as error:
        find_images(root, "test")
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("place", ["val", "."])
def test_annotations_label_the_images_in_any_order(root, place):
    lines = [f"{name}\t{label}\t0\t32\t44\t62\n" for name, label in zip(IMAGES, LABELS, strict=True)]
    (root / place / "val_annotations.txt").write_text("".join(reversed(lines)))
    assert labels_of(root) == (IMAGES, LABELS)


def test_images_may_lie_in_a_subfolder_as_in_tiny_imagenet(root):
    for name in IMAGES:
        save(root / "val/images" / name)
        (root / "val" / name).unlink()
    (root / "val/val_annotations.txt").write_text("".join(f"{n} {c}\n" for n, c in zip(IMAGES, LABELS, strict=True)))
    assert labels_of(root) == (IMAGES, LABELS)


@pytest.mark.parametrize("place", ["val", ".", "ILSVRC2012_devkit_t12/data", "data"])
def test_the_devkits_numbers_are_read_by_its_own_table(root, place):
    numbers = {1: WNIDS[2], 2: "n09999999", 3: WNIDS[1], 500: WNIDS[0]}
    write_meta(root / place / "meta.mat", numbers)
    (root / place / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n500\n3\n500\n")
    assert labels_of(root) == (IMAGES, LABELS)


def test_without_the_table_numbers_count_the_class_folders(root):
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n2\n1\n")
    assert labels_of(root) == (IMAGES, LABELS)


def test_wordnet_ids_may_stand_in_for_numbers(root):
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(LABELS))
    assert labels_of(root) == (IMAGES, LABELS)


def test_the_classes_are_those_of_the_training_images(root):
    (root / "val_annotations.txt").write_text("".join(f"{name} {WNIDS[1]}\n" for name in IMAGES))
    assert find_images(root, "test").classes == WNIDS


def test_without_training_images_the_classes_are_the_labels(root):
    (root / "train").rename(root / "elsewhere")
    (root / "val_annotations.txt").write_text("".join(f"{name} {WNIDS[1]}\n" for name in IMAGES))
    assert find_images(root, "test").classes == [WNIDS[1]]


def test_nothing_is_moved_or_written(root):
    (root / "val_annotations.txt").write_text("".join(f"{n} {c}\n" for n, c in zip(IMAGES, LABELS, strict=True)))
    before = sorted(root.rglob("*"))
    find_images(root, "test")
    assert sorted(root.rglob("*")) == before


def test_a_flat_folder_without_labels_says_what_to_add(root):
    text = message(root)
    assert "neither class folders nor labels" in text
    assert "val_annotations.txt" in text and "ILSVRC2012_validation_ground_truth.txt" in text


def test_a_missing_label_is_named(root):
    (root / "val_annotations.txt").write_text(f"{IMAGES[0]} {WNIDS[0]}\n")
    assert f"has no class for {IMAGES[1]} (3 images lack one)" in message(root)


def test_a_missing_image_is_named(root):
    lines = [f"{name} {WNIDS[0]}\n" for name in [*IMAGES, "ILSVRC2012_val_00000005.JPEG"]]
    (root / "val_annotations.txt").write_text("".join(lines))
    assert "ILSVRC2012_val_00000005.JPEG" in message(root)


def test_a_class_without_training_images_is_named(root):
    (root / "val_annotations.txt").write_text("".join(f"{name} n07777777\n" for name in IMAGES))
    assert "'n07777777'" in message(root)


def test_a_line_without_a_class_is_numbered(root):
    (root / "val_annotations.txt").write_text(f"{IMAGES[0]} {WNIDS[0]}\n{IMAGES[1]}\n")
    assert "line 2 of" in message(root)


@pytest.mark.parametrize("ending", ["\n\n", "\r\n", "\n \n"])
def test_blank_lines_line_endings_and_byte_order_marks_do_not_count(root, ending):
    text = ending.join(f"{name}\t{label}" for name, label in zip(IMAGES, LABELS, strict=True)) + ending
    (root / "val_annotations.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert labels_of(root) == (IMAGES, LABELS)


@pytest.mark.parametrize("place", ["test", "test/images"])
def test_a_test_folder_without_labels_gives_way_to_val(root, place):
    save(root / place / "test_0.JPEG")
    (root / "val_annotations.txt").write_text("".join(f"{n} {c}\n" for n, c in zip(IMAGES, LABELS, strict=True)))
    assert labels_of(root) == (IMAGES, LABELS)


def test_too_few_ground_truths_are_counted(root):
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n")
    assert "has 2 labels for 4 images" in message(root)


def test_a_number_beyond_the_classes_asks_for_the_table(root):
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n490\n")
    text = message(root)
    assert "490" in text and "meta.mat" in text


def test_numbers_of_the_whole_imagenet_are_never_guessed(root):
    for number in range(1000):
        (root / f"train/n{number:08d}").mkdir(exist_ok=True)
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("1\n2\n3\n4\n")
    assert "meta.mat" in message(root)


@pytest.mark.parametrize("content", [b"", b"no table", bytes(300)])
def test_a_damaged_table_is_named(tmp_path, content):
    (tmp_path / "meta.mat").write_bytes(content)
    with pytest.raises(UserError, match=r"meta\.mat"):
        read_synsets(tmp_path / "meta.mat")


def test_a_cut_table_is_named(tmp_path):
    write_meta(tmp_path / "meta.mat", dict(enumerate(WNIDS, 1)))
    (tmp_path / "cut.mat").write_bytes((tmp_path / "meta.mat").read_bytes()[:300])
    with pytest.raises(UserError, match=r"cut\.mat"):
        read_synsets(tmp_path / "cut.mat")
