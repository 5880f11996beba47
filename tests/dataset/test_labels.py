"""Flat folders of validation images, as ImageNet and Tiny-ImageNet publish them."""

import hashlib
import os

import pytest
from PIL import Image

from mdistiller.dataset.folder import find_images
from mdistiller.dataset.labels import MAX_BYTES
from mdistiller.dataset.wnids import ILSVRC_WNIDS, IMAGENET_WNIDS
from mdistiller.errors import UserError

WNIDS = ["n01440764", "n01530575", "n02119789"]
LABELS = [WNIDS[2], WNIDS[0], WNIDS[1], WNIDS[0]]
IMAGES = [f"ILSVRC2012_val_0000000{number}.JPEG" for number in (1, 2, 3, 4)]


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


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


def write_ground_truth(root, *lines, place="."):
    (root / place).mkdir(parents=True, exist_ok=True)
    (root / place / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{line}\n" for line in lines))


def ilsvrc_number(wnid):
    return ILSVRC_WNIDS.index(wnid) + 1


def test_the_tables_of_classes_are_ilsvrcs():
    assert ILSVRC_WNIDS[:3] == ["n02119789", "n02100735", "n02110185"]  # kit fox, English setter, Siberian husky
    assert ILSVRC_WNIDS[-2:] == ["n07831146", "n03255030"]  # carbonara, dumbbell
    # The first validation images show a sea snake, an alp, a Shetland sheepdog and a soup bowl.
    shown = [ILSVRC_WNIDS[number - 1] for number in (490, 361, 171, 822)]
    assert shown == ["n01751748", "n09193705", "n02105855", "n04263257"]
    digests = [hashlib.sha256(" ".join(wnids).encode()).hexdigest()[:16] for wnids in (ILSVRC_WNIDS, IMAGENET_WNIDS)]
    assert digests == ["4ea5082abdf28e98", "791ce0333040dd24"]


@pytest.mark.parametrize("place", ["val", ".", "ILSVRC2012_devkit_t12/data", "data"])
def test_the_devkits_numbers_are_ilsvrcs_for_a_part_of_imagenet(root, place):
    write_ground_truth(root, *map(ilsvrc_number, LABELS), place=place)
    assert labels_of(root) == (IMAGES, LABELS)
    assert ilsvrc_number(WNIDS[2]) == 1


def test_numbers_are_ilsvrcs_for_the_whole_imagenet(root):
    for wnid in IMAGENET_WNIDS:
        (root / "train" / wnid).mkdir(exist_ok=True)
    write_ground_truth(root, 1, 2, 999, 1000)
    assert labels_of(root)[1] == ["n02119789", "n02100735", "n07831146", "n03255030"]


def test_without_training_images_numbers_are_ilsvrcs(root):
    (root / "train").rename(root / "elsewhere")
    write_ground_truth(root, *map(ilsvrc_number, LABELS))
    assert labels_of(root) == (IMAGES, LABELS)
    assert find_images(root, "test").classes == WNIDS


@pytest.mark.parametrize("name", ["n09999999", "cat"])
def test_with_other_training_classes_numbers_count_their_folders(root, name):
    (root / "train" / WNIDS[2]).rename(root / "train" / name)
    write_ground_truth(root, 1, 2, 3, 1)
    classes = sorted([*WNIDS[:2], name])
    assert labels_of(root) == (IMAGES, [classes[0], classes[1], classes[2], classes[0]])


def test_wordnet_ids_may_stand_in_for_numbers(root):
    write_ground_truth(root, *LABELS)
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
    write_ground_truth(root, 1, 2)
    assert "has 2 labels for 4 images" in message(root)


@pytest.mark.parametrize("number", [0, 1001])
def test_a_number_that_is_none_of_ilsvrcs_is_named(root, number):
    write_ground_truth(root, 1, 1, 1, number)
    assert f"has the class {number}, expected 1 to 1000, ILSVRC's numbers" in message(root)


@pytest.mark.parametrize("number", [0, 4])
def test_a_number_beyond_other_classes_is_named(root, number):
    (root / "train" / WNIDS[2]).rename(root / "train/cat")
    write_ground_truth(root, 1, 1, 1, number)
    assert f"has the class {number}, expected 1 to 3, the training classes" in message(root)


def test_a_number_whose_class_has_no_training_images_is_named(root):
    write_ground_truth(root, 1, 1, 1, 2)
    assert "has the class 2, by ILSVRC's numbers n02100735, which the training images lack" in message(root)


def test_a_second_class_of_an_image_is_numbered(root):
    (root / "val_annotations.txt").write_text("".join(f"{IMAGES[0]} {wnid}\n" for wnid in WNIDS))
    assert f"line 2 of {root}/val_annotations.txt has another class for {IMAGES[0]}" in message(root)


@pytest.mark.parametrize("number", ["9" * 5000, "9" * 12, "0" * 5000])
def test_a_number_of_any_length_is_out_of_range(root, number):
    write_ground_truth(root, 1, 1, 1, number)
    assert "expected 1 to 1000" in message(root) and len(message(root)) < 300


def test_leading_zeros_do_not_count(root):
    write_ground_truth(root, *(f"{ILSVRC_WNIDS.index(label) + 1:020}" for label in LABELS))
    assert labels_of(root) == (IMAGES, LABELS)


@pytest.mark.parametrize("text", [f"\x1b[2J.JPEG {WNIDS[0]}\n", f"{'x' * 10**6} {WNIDS[0]}\n"])
def test_a_name_from_a_file_is_shown_escaped_and_shortened(root, text):
    lines = [f"{name} {label}\n" for name, label in zip(IMAGES, LABELS, strict=True)]
    (root / "val_annotations.txt").write_text("".join([text, *lines]))
    assert message(root).isprintable() and len(message(root)) < 400


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b"])
def test_labels_that_are_no_text_are_refused(root, content):
    (root / "val_annotations.txt").write_bytes(content)
    assert f"{root}/val_annotations.txt" in message(root)


def test_a_file_of_labels_that_is_far_too_large_is_refused(root):
    (root / "val_annotations.txt").touch()
    os.truncate(root / "val_annotations.txt", MAX_BYTES + 1)
    assert f"more than {MAX_BYTES:,} bytes" in message(root)


def test_a_file_of_labels_that_is_a_pipe_does_not_count(root):
    os.mkfifo(root / "val_annotations.txt")
    assert "neither class folders nor labels" in message(root)
