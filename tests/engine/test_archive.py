"""Files that are named as weights: nothing is waited for, nothing inflates, and each is named for what it is."""

import codecs
import io
import os
import pickle
import resource
import socket
import struct
import sys
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from mdistiller.engine.weights import load_weights, read_weights
from mdistiller.errors import UserError
from mdistiller.models import build_model


def refused(path, *parts):
    """Asserts that the file is refused at once, in one line that names it and holds `parts`."""
    start = time.process_time()
    with pytest.raises(UserError) as error:
        read_weights(path)
    message = str(error.value)
    assert time.process_time() - start < 10 and "\n" not in message
    assert str(path) in message and all(part in message for part in parts), message


def make_special(kind, path):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link to a pipe":
        os.mkfifo(path.with_name("pipe"))
        path.symlink_to(path.with_name("pipe"))
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        folder = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path.name)
        os.chdir(folder)
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nothing"))


SPECIAL_FILES = "pipe", "link to a pipe", "link to a device", "socket", "link to itself", "dangling link"


@pytest.mark.parametrize("kind", SPECIAL_FILES)
def test_special_file_is_one_line(kind, tmp_path):
    make_special(kind, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", "cannot read weights")


class Persistent(pickle.Pickler):
    """Writes a `Storage` as torch.save does."""

    def persistent_id(self, value):
        return ("storage", torch.FloatStorage, value.key, "cpu", value.items) if isinstance(value, Storage) else None


class Storage:
    def __init__(self, items, key="0"):
        self.items, self.key = items, key


class Call:
    """Pickled as the call of a function."""

    def __init__(self, function, *args, state=None):
        self.parts = function, args, *([] if state is None else [state])

    def __reduce__(self):
        return self.parts


def tensor(size, stride, items=4, offset=0):
    return Call(torch._utils._rebuild_tensor_v2, Storage(items), offset, size, stride, False, OrderedDict())


def pickled(content):
    file = io.BytesIO()
    Persistent(file, protocol=2).dump(content)
    return file.getvalue()


def write_zip(path, data, members=(("data/0", bytes(16)),), compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in (("data.pkl", data), *members, ("byteorder", b"little"), ("version", b"3\n")):
            archive.writestr(f"w/{name}", content)


def deep(depth, opening=b"", closing=b"\x85"):
    """A pickle of nested tuples, as a dict's key."""
    return b"\x80\x02}" + opening + b"N" + closing * depth + b"K\x01s."


def over_and_over(function, count=100_000):
    """A pickle that hands a long list to a function, again and again."""
    items = b"]q\x00(" + b"K\x01K\x01\x86" * 100_000 + b"e"
    module = f"c{function}\n".replace(".", "\n").encode()
    return b"\x80\x02" + items + (module + b"h\x00\x85R") * count + b"."


PICKLES = {
    "expanded tensor": lambda: pickled({"a": tensor((10**6, 10**6), (0, 0))}),
    "tensor beyond its storage": lambda: pickled({"a": tensor((4,), (10**6,))}),
    "tensor that begins beyond its storage": lambda: pickled({"a": tensor((2,), (1,), offset=3)}),
    "storage longer than its member": lambda: pickled({"a": tensor((10**12,), (1,), items=10**12)}),
    "negative size": lambda: pickled({"a": tensor((-1,), (1,))}),
    "tensor of 100 dimensions": lambda: pickled({"a": tensor((1,) * 100, (1,) * 100)}),
    "sizes that overflow": lambda: pickled({"a": tensor((2**40, 2**40), (0, 0))}),
    "buffer of a terabyte": lambda: pickled({"a": Call(bytearray, 10**12)}),
    "keys nested too deep to be hashed": lambda: deep(10**6),
    "list too large": lambda: b"\x80\x02](" + b"K\x01" * 3 * 2**20 + b"e.",
    "list handed over and over to a set": lambda: over_and_over("__builtin__.set"),
    "list handed over and over to an ordered dict": lambda: over_and_over("collections.OrderedDict"),
    "memo at a far place": lambda: b"\x80\x02Nr\xff\xff\xff\xff.",
    "methods of a dict replaced": lambda: pickled(Call(OrderedDict, state={"get": 1, "items": 2})),
    "text of 4 GB": lambda: b"\x80\x02X\xff\xff\xff\xffabc.",
    "bytearray of claimed length": lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"abc.",
    "numpy type of a claimed shape": lambda: pickled({"a": np.dtype(("f8", (10**4, 10**4)))}),
    "slow text": lambda: pickled({"a": Call(codecs.encode, "a" * 10**5, "idna")}),
    "nothing": lambda: b"",
    "noise": lambda: b"\x80\x02" + bytes(range(1, 200)),
}


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_pickle_that_claims_more_than_there_is_is_refused(name, form, tmp_path):
    path, data = tmp_path / "w.pth", PICKLES[name]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if form == "zip":
        write_zip(path, data)
    else:
        start = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        path.write_bytes(b"".join(start) + data + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16))
    refused(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024


def test_archive_that_inflates_is_refused(tmp_path):
    write_zip(tmp_path / "w.pth", pickled({}), [("data/0", bytes(10**8))], zipfile.ZIP_DEFLATED)
    refused(tmp_path / "w.pth", "claim more than they hold")


def test_members_that_overlap_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    write_zip(path, pickled({}), [("data/0", bytes(1000)), ("data/1", bytes(1000))])
    content = bytearray(path.read_bytes())
    first, second = (content.index(b"PK\x01\x02") + 0, content.rindex(b"w/data/1") - 46)
    content[second + 20 : second + 28] = struct.pack("<II", 10**8, 10**8)
    assert first < second
    path.write_bytes(content)
    refused(path, "claim more than they hold")


def test_directory_of_a_million_members_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    write_zip(path, pickled({}))
    entries = b"".join(b"PK\x01\x02" + bytes(24) + struct.pack("<H", 4) + bytes(16) + b"%04d" % n for n in range(9999))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 20 * len(entries), path.stat().st_size, 0)
    path.write_bytes(path.read_bytes() + 20 * entries + end)
    refused(path)


@pytest.mark.parametrize("change", ["comment", "prefix", "twice"])
def test_archive_that_two_readers_may_read_differently_is_refused(change, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": torch.ones(3)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        if change == "comment":
            archive.comment = b"a"
        elif change == "twice":
            archive.writestr("W/data.pkl", b"")
    if change == "prefix":
        path.write_bytes(path.read_bytes()[:4] + path.read_bytes())
    refused(path)


def test_one_flipped_byte_is_seen(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": {"a": torch.ones(100)}}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 1) * 100) + 50] ^= 1
    path.write_bytes(content)
    refused(path, "damaged", "checksum", "data/0")


def keras(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", "")


def plain_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights.pth", "")


class Whole(torch.nn.Module):
    pass


OTHER_FORMATS = {
    "TorchScript": (lambda p: torch.jit.script(torch.nn.Linear(2, 2)).save(p), "a TorchScript program"),
    "npz": (lambda p: np.savez(p.open("wb"), a=np.ones(2)), "arrays of NumPy (.npz)"),
    "npy": (lambda p: np.save(p.open("wb"), np.ones(2)), "an array of NumPy (.npy)"),
    "keras": (keras, "a Keras network"),
    "zip": (plain_zip, "a zip archive, not of torch.save"),
    "hdf5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file"),
    "onnx": (lambda p: p.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x05"), "an ONNX network"),
    "web page": (lambda p: p.write_text("\n<!DOCTYPE html><title>404</title>"), "a web page"),
    "json": (lambda p: p.write_text('{"message": "Not Found"}'), "text, as a failed download leaves"),
    "xz": (lambda p: p.write_bytes(b"\xfd7zXZ\x00abc"), "unpack it"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps({"a": 1})), "a pickle, not of torch.save"),
    "whole network": (lambda p: torch.save(Whole(), p), "Whole"),
    "quantised": (
        lambda p: torch.save({"a": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8)}, p),
        "quanti",
    ),
    "sparse": (lambda p: torch.save({"a": torch.eye(2).to_sparse()}, p), "sparse"),
    "meta device": (lambda p: torch.save({"a": torch.ones(2, device="meta")}, p), "without its numbers"),
    "nested": (lambda p: torch.save({"a": torch.nested.nested_tensor([torch.ones(2)])}, p), "nested"),
    "list": (lambda p: torch.save([torch.ones(2)], p), "hold a list"),
    "int keys": (lambda p: torch.save({0: torch.ones(2)}, p), "no state dict"),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_other_format_is_named(name, tmp_path):
    make, what = OTHER_FORMATS[name]
    make(tmp_path / "w.pth")
    refused(tmp_path / "w.pth", what)


def test_safetensors_are_read(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    network, other = build_model("cifar100", "resnet8", 10), build_model("cifar100", "resnet8", 10)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    load_weights(other, tmp_path / "w.safetensors", "resnet8")
    assert torch.equal(network.fc.weight, other.fc.weight)


def test_safetensors_that_are_damaged_are_one_line(tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    save_file({"a": torch.ones(100)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:-50])
    refused(tmp_path / "w.pth", "damaged or truncated")


def test_without_the_package_safetensors_say_what_to_install(tmp_path, monkeypatch):
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    (tmp_path / "w.pth").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    refused(tmp_path / "w.pth", "pip install safetensors")
