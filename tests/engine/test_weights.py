"""Weight files: every published form is read, bad ones are named, writing is atomic."""

import argparse
import os
import tarfile

import numpy as np
import pytest
import torch

from mdistiller.engine.weights import atomic_write, load_weights, read_weights, save_checkpoint
from mdistiller.errors import UserError
from mdistiller.models import build_model


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return build_model("cifar100", "resnet8", 10).state_dict()


def with_prefix(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


FORMS = {
    "bare": lambda w: w,
    "model": lambda w: {"model": w, "epoch": 240, "best_acc": np.float64(71.2), "opt": argparse.Namespace(lr=0.1)},
    "state_dict": lambda w: {"state_dict": w, "best_acc1": torch.tensor(71.2)},
    "model_state_dict": lambda w: {"model_state_dict": w},
    "data parallel": lambda w: with_prefix("module.", w),
    "compiled": lambda w: {"model": with_prefix("_orig_mod.", w)},
    "distiller": lambda w: with_prefix("student.", w) | with_prefix("teacher.", w),
    "parallel distiller": lambda w: {"model": with_prefix("module.student.", w) | with_prefix("module.teacher.", w)},
    "prefixed student": lambda w: {"model": with_prefix("module.student.", w)},
}


@pytest.mark.parametrize("form", FORMS)
def test_published_form_is_read(form, weights, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(FORMS[form](weights), path)
    network = build_model("cifar100", "resnet8", 10)
    load_weights(network, path, "resnet8")
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


def test_file_in_the_format_before_zip_is_read(weights, tmp_path):
    torch.save({"model": weights}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert read_weights(tmp_path / "old.pth")[0].keys() == weights.keys()


def test_meta_is_returned(weights, tmp_path):
    save_checkpoint({"model": weights, "meta": {"network": "resnet8"}}, tmp_path / "a.pth")
    assert read_weights(tmp_path / "a.pth")[1] == {"network": "resnet8"}


class Malicious:
    def __reduce__(self):
        return os.system, ("true",)


def make_bad(kind, path, weights):
    if kind == "git lfs pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    elif kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(__file__, "inside")
    elif kind == "gzip":
        with tarfile.open(path, "w:gz") as archive:
            archive.add(__file__, "inside")
    elif kind == "empty":
        path.touch()
    elif kind == "truncated":
        torch.save(weights, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "text":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "code":
        torch.save({"model": weights, "x": Malicious()}, path)
    elif kind == "whole network":
        torch.save(build_model("cifar100", "resnet8", 10), path)
    elif kind == "tensor":
        torch.save(torch.zeros(3), path)
    elif kind == "no tensors":
        torch.save({"model": {"a": 1}}, path)
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("git lfs pointer", "Git LFS pointer.*git lfs pull"),
        ("tar", "archive; unpack"),
        ("gzip", "archive; unpack"),
        ("empty", "empty"),
        ("truncated", "damaged or truncated"),
        ("text", "a web page, as a failed download leaves"),
        ("code", "hold code or objects"),
        ("whole network", "hold code or objects"),
        ("tensor", "hold a Tensor"),
        ("no tensors", "no state dict"),
        ("folder", "Is a directory"),
        ("missing", "No such file"),
    ],
)
def test_bad_file_gets_one_line_that_names_it(kind, message, weights, tmp_path):
    path = tmp_path / "bad.pth"
    make_bad(kind, path, weights)
    with pytest.raises(UserError, match=rf"bad\.pth.*{message}") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def test_weights_of_another_network_are_named(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth are not resnet14's: 36 entries missing"):
        load_weights(build_model("cifar100", "resnet14", 10), tmp_path / "a.pth", "resnet14")


def test_weights_of_a_wider_network_are_named(weights, tmp_path):
    torch.save(weights | {"layer1.0.conv1.weight": torch.zeros(32, 16, 3, 3)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth are not resnet8's: layer1.0.conv1.weight has shape \(32, 16, 3, 3\)"):
        load_weights(build_model("cifar100", "resnet8", 10), tmp_path / "a.pth", "resnet8")


def test_weights_for_other_classes_are_named(weights, tmp_path):
    torch.save(weights, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth are for 10 classes, the data has 100"):
        load_weights(build_model("cifar100", "resnet8", 100), tmp_path / "a.pth", "resnet8")


def test_refused_weights_leave_the_network_as_it_was(weights, tmp_path):
    torch.save(weights | {"fc.weight": torch.zeros(10, 3)}, tmp_path / "a.pth")
    network = build_model("cifar100", "resnet8", 10)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError):
        load_weights(network, tmp_path / "a.pth", "resnet8")
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_write_that_fails_keeps_the_old_file_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half of the n")
        raise RuntimeError
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.pth"]


def test_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        save_checkpoint({}, tmp_path / "file" / "a.pth")


def test_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("classes", [None, [1, 2], "cat"])
def test_classes_in_meta_that_are_no_names_are_left_out(tmp_path, classes):
    network = build_model("cifar100", "resnet8", 10)
    torch.save({"model": network.state_dict(), "meta": {"dataset": {"classes": classes}}}, tmp_path / "a.pth")
    assert "classes" not in read_weights(tmp_path / "a.pth")[1]["dataset"]
    load_weights(network, tmp_path / "a.pth", "resnet8", [str(number) for number in range(10)])


def test_the_rows_of_the_classes_asked_for_are_taken(tmp_path):
    whole, part = build_model("cifar100", "resnet8", 4), build_model("cifar100", "resnet8", 2)
    meta = {"dataset": {"classes": ["a", "b", "c", "d"]}}
    torch.save({"model": whole.state_dict(), "meta": meta}, tmp_path / "a.pth")
    load_weights(part, tmp_path / "a.pth", "resnet8", ["b", "d"])
    assert torch.equal(part.fc.weight, whole.fc.weight[[1, 3]]) and torch.equal(part.fc.bias, whole.fc.bias[[1, 3]])


def test_weights_of_other_classes_name_the_first_that_differs(tmp_path):
    network = build_model("cifar100", "resnet8", 3)
    torch.save({"model": network.state_dict(), "meta": {"dataset": {"classes": ["a", "b"]}}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"were trained on 2 classes, the data has 3"):
        load_weights(network, tmp_path / "a.pth", "resnet8", ["a", "b", "c"])
