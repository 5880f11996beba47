"""What changes the fingerprint of a set, and what does not."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mdistiller.dataset.fingerprint import draw_keys, fingerprint, mix
from mdistiller.dataset.folder import find_images, read_folder
from mdistiller.dataset.images import ImageSet
from mdistiller.errors import UserError


def image_set(count=400, size=32):
    """More images than are mixed in one go, so that there are several blocks, the last of them smaller."""
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(9))
    return ImageSet(images, torch.arange(count) % 7, list("abcdefg"))


def pixel_changed(data):
    images = data.images.clone()
    images[-1, -1, -1, -1] ^= 1
    return ImageSet(images, data.targets, data.classes)


def image_exchanged(data):
    return ImageSet(data.images[[1, 0, *range(2, 400)]], data.targets, data.classes)


def relabelled(data):
    return ImageSet(data.images, data.targets.index_fill(0, torch.tensor([5]), 6), data.classes)


def parts(data):
    return data.targets, data.classes


CHANGES = {
    "a pixel": pixel_changed,
    "two images exchanged": image_exchanged,
    "blocks exchanged": lambda data: ImageSet(data.images.roll(170, 0), data.targets, data.classes),
    "an image mirrored": lambda data: ImageSet(torch.cat([data.images[:1].flip(3), data.images[1:]]), *parts(data)),
    "channels exchanged": lambda data: ImageSet(data.images.flip(1), *parts(data)),
    "other shape": lambda data: ImageSet(data.images.reshape(400, 3, 16, 64), *parts(data)),
    "an image removed": lambda data: data.select(torch.arange(399)),
    "an image added": lambda data: data.select(torch.cat([torch.arange(400), torch.tensor([0])])),
    "reordered": lambda data: data.select(torch.arange(399, -1, -1)),
    "relabelled": relabelled,
    "class renamed": lambda data: ImageSet(data.images, data.targets, list("abcdefz")),
    "classes reordered": lambda data: ImageSet(data.images, data.targets, list("bacdefg")),
    "class added": lambda data: ImageSet(data.images, data.targets, list("abcdefgh")),
    "names joined": lambda data: ImageSet(data.images, data.targets, ["a, b", *"cdefg"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change):
    data = image_set()
    assert fingerprint(CHANGES[change](data)) != fingerprint(data)


def test_it_never_changes():
    pixels = (torch.arange(576) * 37 % 256).to(torch.uint8).view(3, 3, 8, 8)
    assert fingerprint(ImageSet(pixels, torch.tensor([1, 0, 1]), ["cat", "Ñandú"])) == "8dc476eaecb28bd1"


@pytest.mark.parametrize("threads", [1, 3])
def test_another_process_with_any_number_of_threads_gets_the_same(threads):
    code = (
        "from tests.dataset.test_fingerprint import fingerprint, image_set; import torch; "
        f"torch.set_num_threads({threads}); print(fingerprint(image_set()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == fingerprint(image_set())


def test_the_layout_in_memory_does_not_count():
    data = image_set()
    padded = torch.zeros(400, 3, 32, 40, dtype=torch.uint8)
    padded[..., :32] = data.images
    layouts = [data.images.contiguous(memory_format=torch.channels_last), padded[..., :32]]
    assert {fingerprint(ImageSet(images, *parts(data))) for images in layouts} == {fingerprint(data)}


def test_images_whose_bytes_are_no_multiple_of_eight_count_whole():
    data = image_set(401, 5)
    assert fingerprint(pixel_changed(data)) != fingerprint(data)


def test_every_bit_of_every_byte_counts():
    pixels, keys = np.random.default_rng(0).integers(0, 256, 64, dtype=np.uint8), draw_keys(64)
    sums = {mix(pixels, keys)}
    for place in range(64):
        for bit in range(8):
            changed = pixels.copy()
            changed[place] ^= 1 << bit
            sums.add(mix(changed, keys))
    assert len(sums) == 1 + 64 * 8


@pytest.mark.parametrize("bit", [0, 7])
def test_two_changes_of_the_same_bit_do_not_cancel(bit):
    pixels, keys = np.zeros(800, np.uint8), draw_keys(800)
    for lane in range(8):
        sums = set()
        for first in range(100):
            for second in range(first):
                changed = pixels.copy()
                changed[[8 * first + lane, 8 * second + lane]] ^= 1 << bit
                sums.add(mix(changed, keys))
        assert mix(pixels, keys) not in sums and len(sums) == 100 * 99 // 2


@pytest.fixture
def root(tmp_path):
    """Two classes of two images each."""
    for value, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"]):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (value, 0, 0)).save(path)
    return tmp_path


def of_files(root):
    return fingerprint(find_images(root, "train"))


def overwritten(root):
    (root / "train/cat/1.png").write_bytes(b"larger than a small image of one colour" * 100)


FILE_CHANGES = {
    "size": overwritten,
    "removed": lambda root: (root / "train/cat/1.png").unlink(),
    "added": lambda root: shutil.copy(root / "train/cat/1.png", root / "train/cat/3.png"),
    "renamed": lambda root: (root / "train/cat/1.png").rename(root / "train/cat/0.png"),
    "relabelled": lambda root: (root / "train/cat/1.png").rename(root / "train/dog/3.png"),
    "class renamed": lambda root: (root / "train/cat").rename(root / "train/bat"),
}


@pytest.mark.parametrize("change", FILE_CHANGES)
def test_a_change_of_files_is_noticed(root, change):
    before = of_files(root)
    FILE_CHANGES[change](root)
    assert of_files(root) != before


def test_files_elsewhere_or_behind_links_are_the_same(root):
    before = of_files(root)
    shutil.copytree(root / "train", root / "copy/train")
    (root / "linked").mkdir()
    (root / "linked/train").symlink_to(root / "train")
    assert of_files(root / "copy") == of_files(root / "linked") == before


def test_a_part_of_a_folder_is_the_folder_of_that_part(root):
    part = find_images(root, "train").select(torch.tensor([0, 1, 3]))
    os.rename(root / "train/dog/1.png", root / "a name that is longer than the others.png")
    assert fingerprint(part) == of_files(root)


def test_images_read_into_memory_count_by_their_pixels_at_the_size_read(root):
    data, scaled = read_folder(root, "train", 40), read_folder(root, "train", 32)
    same_pixels = Image.open(root / "train/cat/1.png").copy()
    same_pixels.save(root / "train/cat/1.png", compress_level=0)
    assert fingerprint(read_folder(root, "train", 40)) == fingerprint(data) != fingerprint(scaled)


def test_a_file_that_vanished_is_named(root):
    files = find_images(root, "train")
    (root / "train/dog/1.png").unlink()
    with pytest.raises(UserError, match=rf"cannot read image {root}/train/dog/1\.png") as error:
        fingerprint(files)
    assert "\n" not in str(error.value)
