import os

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mdistiller.dataset.folder import check_same_classes, read_folder
from mdistiller.errors import UserError


def save(path, size=(32, 32), colour=(200, 100, 50), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path)


@pytest.fixture
def root(tmp_path):
    """Two classes, two training images and one test image each."""
    for name in ("cat", "dog"):
        save(tmp_path / "train" / name / "1.png")
        save(tmp_path / "train" / name / "2.png")
        save(tmp_path / "test" / name / "1.png")
    return tmp_path


def message(root, split="train"):
    with pytest.raises(UserError) as error:
        read_folder(root, split)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("split", "count"), [("train", 1117), ("test", 916)])
def test_reads_the_cifar_sample(shared, split, count):
    data = read_folder(shared / "data/cifar100_sample", split)
    assert data.images.shape == (count, 3, 32, 32) and data.images.dtype == torch.uint8
    assert len(data.classes) == 100 and data.targets.unique().tolist() == list(range(100))


def test_an_image_of_the_right_size_is_read_unchanged(samples):
    sample = samples / "cifar100_sample"
    data = read_folder(sample, "test")
    path = sorted((sample / "test" / data.classes[0]).iterdir())[0]
    with Image.open(path) as image:
        pixel = image.convert("RGB").getpixel((3, 20))
    assert data.images[0, :, 20, 3].tolist() == list(pixel)


def test_photographs_of_any_size_mode_and_format_are_scaled_and_cropped_as_by_pil(photographs):
    data = read_folder(photographs, "train", image_size=48)
    for image, path in zip(data.images, sorted(photographs.glob("train/*/*")), strict=True):
        with Image.open(path) as file:
            expected = ImageOps.fit(file.convert("RGB"), (48, 48), Image.Resampling.BILINEAR)
        assert np.array_equal(image.permute(1, 2, 0), expected)


def test_classes_and_files_come_in_sorted_order(tmp_path):
    for value, name in enumerate(["b/2.png", "a/9.png", "b/10.png"]):
        save(tmp_path / "train" / name, colour=(value, value, value))
    data = read_folder(tmp_path, "train")
    assert data.classes == ["a", "b"]
    assert data.images[:, 0, 0, 0].tolist() == [1, 2, 0]
    assert data.targets.tolist() == [0, 1, 1]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    save(tmp_path / "train/white/image.tiff", colour=(255, 255, 255), mode=mode)
    assert (read_folder(tmp_path, "train").images == 255).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "JPEG", "bmp", "ppm", "webp", "PNG"])
def test_extensions_are_known_in_either_case(tmp_path, suffix):
    save(tmp_path / f"train/cat/image.{suffix}")
    assert len(read_folder(tmp_path, "train")) == 1


def test_hidden_and_other_files_are_passed_over(root):
    (root / "train/cat/.hidden.png").write_text("")
    (root / "train/cat/notes.txt").write_text("")
    (root / "train/.cache").mkdir()
    assert len(read_folder(root, "train")) == 4


def test_a_larger_image_is_scaled_to_its_shorter_side_and_cropped_at_the_centre(tmp_path):
    image = Image.new("RGB", (128, 64), (0, 0, 0))
    image.paste((255, 255, 255), (32, 0, 96, 64))
    (tmp_path / "train/cat").mkdir(parents=True)
    image.save(tmp_path / "train/cat/1.png")
    assert (read_folder(tmp_path, "train").images[..., 1:-1] == 255).all()


def test_a_smaller_image_is_enlarged(tmp_path):
    save(tmp_path / "train/cat/1.png", size=(8, 8))
    assert read_folder(tmp_path, "train", image_size=64).images.shape == (1, 3, 64, 64)


def test_val_stands_in_for_test(root):
    (root / "test").rename(root / "val")
    assert len(read_folder(root, "test")) == 2


def test_testing_needs_no_training_images(root):
    (root / "train").rename(root / "elsewhere")
    assert len(read_folder(root, "test")) == 2


def test_a_missing_root_is_named(tmp_path):
    assert f"no folder {tmp_path}/nowhere" in message(tmp_path / "nowhere")


def test_a_missing_train_folder_is_named(tmp_path):
    assert f"no folder train in {tmp_path}" in message(tmp_path)


def test_a_missing_test_folder_is_named(tmp_path):
    assert f"no folder test or val in {tmp_path}" in message(tmp_path, "test")


def test_a_split_without_class_folders_is_refused(tmp_path):
    save(tmp_path / "train/1.png")
    assert f"no class folders in {tmp_path}/train" in message(tmp_path)


def test_an_empty_class_folder_is_named(root):
    (root / "train/bird").mkdir()
    assert f"{root}/train/bird has no images" in message(root)


@pytest.mark.parametrize("content", [b"", b"not an image"], ids=["empty", "text"])
def test_a_file_that_is_not_an_image_is_named(root, content):
    (root / "train/dog/2.png").write_bytes(content)
    assert f"cannot read image {root}/train/dog/2.png" in message(root)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp"])
def test_a_truncated_image_is_named(root, suffix, samples):
    path = root / f"train/dog/3.{suffix}"
    with Image.open(next((samples / "cifar100_sample/test").glob("*/*.png"))) as image:
        image.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"cannot read image {path}" in message(root)


def test_equal_classes_pass(root):
    check_same_classes(read_folder(root, "train"), read_folder(root, "test"), root)


def test_a_class_missing_from_test_is_named(root):
    save(root / "train/bird/1.png")
    with pytest.raises(UserError, match=r"3 classes in train and 2 in test \(missing from test: bird\)"):
        check_same_classes(read_folder(root, "train"), read_folder(root, "test"), root)


def test_as_many_but_other_classes_are_named_on_both_sides(root):
    (root / "test/dog").rename(root / "test/wolf")
    with pytest.raises(UserError, match=r"missing from test: dog; missing from train: wolf"):
        check_same_classes(read_folder(root, "train"), read_folder(root, "test"), root)


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    (tmp_path / "train/grey").mkdir(parents=True)
    Image.fromarray(np.full((32, 32), 119 * 257, np.uint16)).save(tmp_path / "train/grey/grey.png")
    assert (read_folder(tmp_path, "train").images == 119).all()


def test_a_link_to_nowhere_is_named(root):
    (root / "train/cat/3.png").symlink_to(root / "nowhere.png")
    assert str(root / "train/cat/3.png") in message(root)


def test_a_class_folder_that_is_a_link_to_nowhere_is_named(root):
    (root / "train/bird").symlink_to(root / "nowhere")
    assert str(root / "train/bird") in message(root)


def test_a_folder_that_cannot_be_read_is_named(root, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"cannot read {root / 'train'}: Permission denied" in message(root)
