"""The download, against a server on this machine that offers a tiny archive."""

import functools
import hashlib
import http.server
import io
import os
import pickle
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

from mdistiller.dataset.cifar100 import read_cifar100
from mdistiller.errors import UserError

COUNTS = {"train": 5, "test": 3}
NAMES = ["apple", "bear", "crab"]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    """Yields the folder that is served and the address that serves it."""
    served = tmp_path / "served"
    served.mkdir()
    handler = functools.partial(QuietHandler, directory=served)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
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
    data = read_cifar100(tmp_path / "data", split)
    count = COUNTS[split]
    assert data.images.shape == (count, 3, 32, 32) and data.images.dtype == torch.uint8
    assert data.images.is_contiguous(memory_format=torch.channels_last) and (data.images == count).all()
    assert data.targets.tolist() == [2] * count and data.targets.dtype == torch.int64
    assert data.classes == NAMES
    assert (tmp_path / "data" / archive.name).exists()


def test_a_second_read_needs_no_network(archive, tmp_path):
    read_cifar100(tmp_path / "data", "train")
    archive.unlink()
    assert len(read_cifar100(tmp_path / "data", "test")) == 3


def test_an_archive_put_there_by_hand_is_unpacked(archive, tmp_path):
    archive.rename(tmp_path / archive.name)
    assert len(read_cifar100(tmp_path, "train")) == 5


def test_a_damaged_archive_is_fetched_again(archive, tmp_path):
    (tmp_path / archive.name).write_bytes(b"damaged")
    assert len(read_cifar100(tmp_path, "train")) == 5


def test_without_a_network_the_error_says_what_to_fetch_and_where_to_put_it(archive, tmp_path):
    archive.unlink()
    with pytest.raises(UserError) as error:
        read_cifar100(tmp_path / "data", "train")
    message = str(error.value)
    assert "\n" not in message
    assert f"CIFAR-100 is not in {tmp_path}/data" in message
    assert CIFAR100.url in message and f"{tmp_path}/data/cifar-100-python.tar.gz" in message
    assert "DATASET.TYPE folder" in message


def test_a_damaged_download_is_named(archive, tmp_path):
    archive.write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"{tmp_path}/data/cifar-100-python.tar.gz is damaged"):
        read_cifar100(tmp_path / "data", "train")


def test_a_root_that_is_a_file_is_a_user_error(archive, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match="CIFAR-100 is not in"):
        read_cifar100(tmp_path / "data", "train")


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_code_in_a_pickle_is_not_run(archive, tmp_path, monkeypatch, name):
    read_cifar100(tmp_path, "train")
    (tmp_path / archive.name).unlink()
    archive.unlink()
    (tmp_path / "cifar-100-python" / name).write_bytes(pickle.dumps(Harmful()))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="CIFAR-100 is not in"):
        read_cifar100(tmp_path, "train")
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
        read_cifar100(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_an_archive_that_is_not_the_published_one_is_not_unpacked(archive, tmp_path):
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../outside"))
    with pytest.raises(UserError, match="is damaged or cannot be unpacked"):
        read_cifar100(tmp_path / "data", "train")
    assert not (tmp_path / "outside").exists()
