"""The sets of torchvision: small copies in their layouts, and downloads from a server on this machine."""

import functools
import hashlib
import http.server
import io
import os
import pickle
import socket
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

from mdistiller.dataset.images import ImageSet
from mdistiller.dataset.torchvision_files import read_torchvision
from mdistiller.dataset.torchvision_sets import TORCHVISION_SETS
from mdistiller.errors import UserError
from tests.dataset.layouts import LABELS, MAKERS, draw, make

COUNTS = {"train": 5, "test": 3}
NAMES = ["apple", "bear", "crab"]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    requests: list[str] = []

    def log_message(self, *args):
        self.requests.append(self.path)


@pytest.fixture
def server(tmp_path):
    """Yields the folder that is served and the address that serves it."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(QuietHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield served, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def archive(server, monkeypatch):
    """A CIFAR-100 archive of eight images, where torchvision will look for it. Returns its path on the server."""
    served, address = server
    files = {
        split: pickle.dumps({"data": np.full((count, 3072), count, np.uint8), "fine_labels": [2] * count})
        for split, count in COUNTS.items()
    }
    files["meta"] = pickle.dumps({"fine_label_names": NAMES})
    path = served / CIFAR100.filename
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))

    def md5(content):
        return hashlib.md5(content).hexdigest()

    monkeypatch.setattr(CIFAR100, "url", f"{address}/{path.name}")
    monkeypatch.setattr(CIFAR100, "tgz_md5", md5(path.read_bytes()))
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5(files["train"])]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5(files["test"])]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5(files["meta"])})
    return path


@pytest.mark.parametrize("split", COUNTS)
def test_downloads_into_the_root(archive, tmp_path, split):
    data = read_torchvision("cifar100", tmp_path / "data", split)
    count = COUNTS[split]
    assert data.images.shape == (count, 3, 32, 32) and data.images.dtype == torch.uint8
    assert data.images.is_contiguous(memory_format=torch.channels_last) and (data.images == count).all()
    assert data.targets.tolist() == [2] * count and data.targets.dtype == torch.int64
    assert data.classes == NAMES
    assert (tmp_path / "data" / archive.name).exists()


def test_a_second_read_needs_no_network(archive, tmp_path):
    read_torchvision("cifar100", tmp_path / "data", "train")
    archive.unlink()
    assert len(read_torchvision("cifar100", tmp_path / "data", "test")) == 3


def test_of_two_that_need_a_download_the_second_waits_for_the_first(archive, tmp_path, monkeypatch):
    def requests_of(root, readers):
        monkeypatch.setattr(QuietHandler, "requests", [])
        with ThreadPoolExecutor(readers) as pool:
            found = list(pool.map(lambda _: read_torchvision("cifar100", root, "train"), range(readers)))
        assert [len(data) for data in found] == [5] * readers
        return QuietHandler.requests

    assert requests_of(tmp_path / "shared", 4) == requests_of(tmp_path / "alone", 1)


def test_an_archive_put_there_by_hand_is_unpacked(archive, tmp_path):
    archive.rename(tmp_path / archive.name)
    assert len(read_torchvision("cifar100", tmp_path, "train")) == 5


def test_a_damaged_archive_is_fetched_again(archive, tmp_path):
    (tmp_path / archive.name).write_bytes(b"damaged")
    assert len(read_torchvision("cifar100", tmp_path, "train")) == 5


def test_without_a_network_the_error_says_what_to_fetch_and_where_to_put_it(archive, tmp_path):
    archive.unlink()
    with pytest.raises(UserError) as error:
        read_torchvision("cifar100", tmp_path / "data", "train")
    message = str(error.value)
    assert "\n" not in message
    assert f"CIFAR-100 is not in {tmp_path}/data" in message
    assert f"https://www.cs.toronto.edu/~kriz/{archive.name} as {tmp_path}/data/{archive.name}" in message
    assert "DATASET.TYPE folder" in message


def test_a_damaged_download_is_named(archive, tmp_path):
    archive.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"{tmp_path}/data/cifar-100-python.tar.gz is damaged"):
        read_torchvision("cifar100", tmp_path / "data", "train")


def test_a_server_that_says_nothing_is_not_waited_for(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("mdistiller.dataset.torchvision_files.PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(CIFAR100, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/{archive.name}")
        with pytest.raises(UserError, match="timed out"):
            read_torchvision("cifar100", tmp_path / "data", "train")


def test_a_root_that_is_a_file_is_a_user_error(archive, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="CIFAR-100 is not in"):
        read_torchvision("cifar100", tmp_path / "data", "train")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_code_in_a_pickle_is_not_run(archive, tmp_path, monkeypatch, name):
    read_torchvision("cifar100", tmp_path, "train")
    (tmp_path / archive.name).unlink()
    archive.unlink()
    (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps(Harmful()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"CIFAR-100 in .* is incomplete or damaged"):
        read_torchvision("cifar100", tmp_path, "train")
    assert not Path("harm").exists()


@pytest.mark.parametrize("name", ["cifar-100-python.tar.gz", "cifar-100-python/train", "cifar-100-python/meta"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge file"])
def test_what_is_no_file_of_cifar_100_is_named(archive, tmp_path, name, kind):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, 2**40)
    with pytest.raises(UserError, match=f"cannot read {path} ") as error:
        read_torchvision("cifar100", tmp_path, "train")
    assert "\n" not in str(error.value)


def test_an_archive_that_is_not_the_published_one_is_not_unpacked(archive, tmp_path):
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(UserError, match="is damaged or cannot be unpacked"):
        read_torchvision("cifar100", tmp_path / "data", "train")
    assert not (tmp_path / "outside").exists()


@pytest.fixture
def copy(tmp_path, monkeypatch, request):
    """Makes a small copy of a set of torchvision; skips where what reads it is missing."""

    def of(kind):
        if TORCHVISION_SETS[kind].package:
            pytest.importorskip(TORCHVISION_SETS[kind].package)
        return make(kind, tmp_path / "data", monkeypatch)

    return of


def message(kind, root, split="train"):
    with pytest.raises(UserError) as error:
        read_torchvision(kind, root, split)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_set_but_cifar_100_has_a_copy_here():
    assert {*MAKERS, "cifar100"} == {*TORCHVISION_SETS}


@pytest.mark.parametrize("split", LABELS)
@pytest.mark.parametrize("kind", MAKERS)
def test_each_set_is_read_from_its_layout(copy, kind, split):
    root, row = copy(kind), TORCHVISION_SETS[kind]
    data = read_torchvision(kind, root, split)
    if split not in row.splits:
        assert data is None
        return
    labels = sorted(LABELS[split]) if kind == "country211" or (kind, split) == ("gtsrb", "train") else LABELS[split]
    labels = sorted(labels, key=labels.index) if kind == "food101" else labels
    assert data.targets.tolist() == labels and data.targets.dtype == torch.int64
    assert len(data.classes) in (3, row.num_classes)
    if row.paths:
        assert data.root == str(root) and all(data.path(index).is_file() for index in range(len(data)))
    else:
        assert isinstance(data, ImageSet) and data.images.is_contiguous(memory_format=torch.channels_last)
        side = 28 if "mnist" in kind else row.image_size
        drawn = torch.from_numpy(draw(len(labels), side)).permute(0, 3, 1, 2)
        assert torch.equal(data.images, drawn[:, :1].expand_as(drawn) if "mnist" in kind else drawn)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_set_that_is_nowhere_is_one_line_and_leaves_nothing(kind, tmp_path, monkeypatch):
    if TORCHVISION_SETS[kind].package:
        pytest.importorskip(TORCHVISION_SETS[kind].package)

    def refuse(*_, **__):
        raise OSError("no network\nat all")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    text = message(kind, tmp_path / "data")
    assert f"{TORCHVISION_SETS[kind].title} is not in {tmp_path}/data" in text and "no network" in text
    assert all(f"as {tmp_path}/data/{path}" in text for path in TORCHVISION_SETS[kind].archives)
    assert not (tmp_path / "data").exists()


def test_a_package_that_is_missing_is_one_line_before_any_download(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    assert message("svhn", tmp_path).endswith("DATASET.TYPE svhn needs the package scipy; type pip install scipy")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("kind", "name", "content", "part"),
    [
        ("food101", "food-101/meta/train.json", b"{", "incomplete or damaged (Expecting"),
        ("food101", "food-101/meta/train.json", b"{}", "it has 0 images"),
        ("food101", "food-101/meta/train.json", None, "No such file"),
        ("food101", "food-101/images/Abyssinian/train1.jpg", None, "train1.jpg is missing"),
        ("oxford_pets", "oxford-iiit-pet/annotations/trainval.txt", b"Abyssinian_1 1\n", "not enough values"),
        ("oxford_pets", "oxford-iiit-pet/annotations/trainval.txt", b"Great_Pyrenees_2 4 1 1\n", "labels are 3 to 3"),
        ("stl10", "stl10_binary/train_y.bin", b"\1\2", "it has 8 images and 2 labels"),
        ("stl10", "stl10_binary/train_y.bin", b"\0" * 8, "labels are 255 to 255"),
        ("stl10", "stl10_binary/train_X.bin", b"\0" * 8, "cannot reshape"),
        ("svhn", "train_32x32.mat", b"no matrix", "train_32x32.mat is damaged"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte", b"", "incomplete or damaged"),
        ("mnist", "MNIST/raw/train-labels-idx1-ubyte", b"\0\0\x08\1\0\0\0\1\7", "8 images and 1 labels"),
        ("cifar10", "cifar-10-batches-py/batches.meta", b"\x80\4}.", "incomplete or damaged ('label_names')"),
        ("dtd", "dtd/dtd/labels/train1.txt", b"no class\n", "not enough values"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b/data/variants.txt", b"other\n", "incomplete or damaged ('York"),
        ("flowers102", "flowers-102/setid.mat", b"no matrix", "incomplete or damaged"),
        ("gtsrb", "gtsrb/GT-final_test.csv", b"Name;Class\n1;2\n", "incomplete or damaged ('Filename')"),
    ],
)
def test_a_wrong_layout_is_one_line(copy, kind, name, content, part):
    root = copy(kind)
    if content is None:
        (root / name).unlink()
    else:
        (root / name).write_bytes(content)
    assert part in message(kind, root, "test" if name.endswith("test.csv") else "train")


@pytest.mark.parametrize(
    ("kind", "name"),
    [("food101", "food-101/meta/train.json"), ("stl10", "stl10_binary/train_X.bin"), ("svhn", "test_32x32.mat")],
)
def test_a_pipe_in_place_of_a_file_is_one_line(copy, kind, name):
    root = copy(kind)
    (root / name).unlink()
    os.mkfifo(root / name)
    assert f"cannot read {root / name} (it is a pipe" in message(kind, root)


@pytest.mark.parametrize("kind", ["cifar10", "mnist", "food101"])
def test_the_set_s_own_folder_in_place_of_that_around_it_is_one_line_and_nothing_is_fetched(copy, kind, monkeypatch):
    root = copy(kind)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_: pytest.fail("a download"))
    own = root / TORCHVISION_SETS[kind].folder.split("/")[0]
    assert f"{own} is the folder of" in message(kind, own) and f"type DATASET.ROOT {root}," in message(kind, own)
