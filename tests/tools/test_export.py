"""Exported students give the logits of the network, wherever they are run; mistakes are one line."""

import itertools
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

import mdistiller
from mdistiller.dataset.images import open_image
from mdistiller.engine.cli import evaluation_main
from mdistiller.models import build_model
from mdistiller.models.folding import fold_batch_norms
from tests.engine.conftest import Script
from tests.engine.test_networks import VIT
from tests.tools.conftest import Tool, save_trained
from tools import export

EXTENSIONS = {"onnx": "onnx", "torch_export": "pt2", "safetensors": "safetensors"}
NETWORKS = {
    "ours": ("resnet8", "{}"),
    "torchvision": ("torchvision:resnet18", "{}"),
    "timm": (VIT, "{depth: 1, embed_dim: 64, num_heads: 4, patch_size: 8}"),
    "file": ("", "{width: 4}"),
}
# What a program does with the files below a folder; it prints how far their logits are off.
READER = """
import pathlib, sys, torch
for folder in pathlib.Path(sys.argv[1]).iterdir():
    images, logits, network = torch.load(folder / "expected.pt")
    for path in folder.glob("exported.*"):
        if path.suffix == ".onnx":
            import onnxruntime
            session = onnxruntime.InferenceSession(path)
            run = lambda batch: torch.from_numpy(session.run(None, {"image": batch.numpy()})[0])
        elif path.suffix == ".pt2":
            run = torch.export.load(path).module()
        else:
            import mdistiller
            student = mdistiller.load_student(path, network)
            run = lambda batch: student.network(batch)[0]
        with torch.no_grad():
            for size in (1, 7):
                difference = (torch.cat([run(batch) for batch in images.split(size)]) - logits).abs().max().item()
                print(folder.name, path.suffix[1:], size, difference)
"""
pytest.importorskip("safetensors")

MEAN = "DATASET.MEAN", "[0.1,0.2,0.3]"
EXPORT = Tool(export.main)


@pytest.fixture
def real_images(samples):
    """Seven files of small real images, of as many classes."""
    return [min(folder.iterdir()) for folder in sorted((samples / "cifar100_sample/test").iterdir())[:7]]


def test_exported_students_give_the_networks_logits_in_a_fresh_process(network_file, real_images, tmp_path):
    for package in ("onnxruntime", "onnxscript", "timm"):
        pytest.importorskip(package)
    root = tmp_path / "exports"
    for kind, (name, arguments) in NETWORKS.items():
        folder = root / kind
        folder.mkdir(parents=True)
        flags = save_trained(folder / "student.pth", name or network_file, arguments)
        student = mdistiller.load_student(folder / "student.pth", *flags[1:])
        images = []
        for path in real_images:
            with open_image(path, 32) as image:
                images.append(student.transform(image))
        images = torch.stack(images)
        with torch.no_grad():
            torch.save((images, student.network(images)[0], flags[1] if flags else None), folder / "expected.pt")
        for form, extension in EXTENSIONS.items():
            words = "--format", form, "--output", folder / f"exported.{extension}", "--images", *real_images
            assert EXPORT(folder / "student.pth", *words, *flags).status == 0, EXPORT.err
            assert "on 7 images given, at batch 1 and 7" in EXPORT.out and EXPORT.err == ""
    done = subprocess.run([sys.executable, "-c", READER, root], capture_output=True, text=True, check=True)
    rows = [line.split() for line in done.stdout.splitlines()]
    found = {(kind, extension, int(size)): float(difference) for kind, extension, size, difference in rows}
    assert found.keys() == {*itertools.product(NETWORKS, EXTENSIONS.values(), (1, 7))}
    assert max(found.values()) < 1e-4, found


def run_program(path, images):
    with torch.no_grad():
        return torch.export.load(path).module()(images)


def write(checkpoint, *arguments, form="safetensors"):
    """Export beside the checkpoint, and return where to."""
    output = checkpoint.with_suffix(f".{EXTENSIONS[form]}")
    EXPORT(checkpoint, "--format", form, "--output", output, *arguments)
    return output


def test_a_file_that_normalises_takes_numbers_from_0_to_1(checkpoint):
    output = write(checkpoint, "--normalise", *MEAN, "DATASET.STD", "[0.5,0.6,0.7]", form="torch_export")
    assert EXPORT.status == 0 and "numbers in 0..1\n" in EXPORT.out
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    normalised = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    with torch.no_grad():
        expected = mdistiller.load_student(checkpoint).network(normalised)[0]
    assert torch.allclose(run_program(output, images), expected, atol=1e-5)


def test_the_test_images_of_the_data_set_are_used_where_they_are(checkpoint, samples):
    write(checkpoint, "DATASET.ROOT", samples / "cifar100_sample")
    assert f"on 7 test images of {samples / 'cifar100_sample'}" in EXPORT.out


def test_without_images_synthetic_ones_are_used_and_said(checkpoint):
    write(checkpoint)
    assert "on 7 synthetic images" in EXPORT.out


def test_a_program_keeps_the_class_names_beside_it(checkpoint):
    kept = {"class_names": ""}
    torch.export.load(write(checkpoint, form="torch_export"), extra_files=kept)
    assert json.loads(kept["class_names"]) == ["cat", "dog", "fox"]


def test_a_bare_files_export_tells_what_was_told(tmp_path):
    torch.save(build_model("cifar100", "resnet8", 100).state_dict(), tmp_path / "bare.pth")
    told = "--model", "resnet8", "--num_classes", "100", "DATASET.IMAGE_SIZE", "40", *MEAN
    output = write(tmp_path / "bare.pth", *told)
    assert EXPORT.status == 0, EXPORT.err
    student = mdistiller.load_student(output)
    assert (student.transform.image_size, student.transform.mean) == (40, (0.1, 0.2, 0.3))
    assert len(student.class_names) == 100 and student.meta["network"] == "resnet8"


def test_exported_weights_are_evaluated_without_flags(checkpoint, samples, tmp_path):
    output = write(checkpoint)
    for name in ("cat", "dog", "fox"):
        (tmp_path / "pets/test").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"pets/test/{name}").symlink_to(samples / "cifar100_sample/test/apple")
    script = Script(tmp_path / "project")
    assert script(evaluation_main, "--checkpoint", output, "DATASET.ROOT", tmp_path / "pets").status == 0, script.err
    assert "resnet8" in script.out


def test_what_is_not_the_network_is_not_kept(checkpoint, monkeypatch):
    monkeypatch.setattr(export, "fold_batch_norms", lambda network: Shifted(fold_batch_norms(network)))
    output = write(checkpoint, form="torch_export")
    EXPORT.fails_with("is not kept", "differ by 2.0e-04")
    assert not output.exists() and not list(checkpoint.parent.glob(".*"))


class Shifted(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        logits, features = self.network(image)
        return logits + 2e-4, features


def test_an_export_that_exists_is_kept_unless_told(checkpoint):
    output = write(checkpoint)
    before = output.read_bytes()
    write(checkpoint, *MEAN)
    EXPORT.fails_with("exists", "--overwrite")
    assert output.read_bytes() == before
    write(checkpoint, *MEAN, "--overwrite")
    assert EXPORT.status == 0 and output.read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--format onnx --output x.pt2", ["does not end in .onnx"]),
        ("--format torch_export --output x", ["does not end in .pt2"]),
        ("--format tflite --output x.tflite", ["invalid choice: 'tflite'"]),
        ("--output x.onnx", ["--format"]),
        ("--format torch_export --output nowhere/x.pt2", ["no folder nowhere"]),
        ("--format safetensors --output x.safetensors --normalise", ["no effect on safetensors"]),
        ("--format torch_export --output x.pt2 --model resnet9", ["unknown network 'resnet9'"]),
        ("--format torch_export --output x.pt2 --model resnet20", ["are not resnet20's"]),
        ("--format torch_export --output x.pt2 --num_classes 7", ["scores 3 classes, not 7"]),
        ("--format torch_export --output x.pt2 --num_classes x", ["invalid int value"]),
        ("--format torch_export --output x.pt2 other.pth", ["one checkpoint at a time"]),
        ("--format torch_export --output x.pt2 --images nowhere.png", ["cannot read image nowhere.png"]),
        ("--format torch_export --output x.pt2 --images .", ["no images in ."]),
        ("--format torch_export --output x.pt2 --images", ["expected at least one argument"]),
        ("--format torch_export --output x.pt2 DATASET.IMAGE_SIZE", ["DATASET.IMAGE_SIZE has no value"]),
        ("--format torch_export --output x.pt2 SOLVER.LR 1", ["SOLVER.LR has no effect"]),
        ("--format torch_export --output x.pt2 --overwrit", ["unknown flag '--overwrit' (nearest: '--overwrite')"]),
    ],
)
def test_a_bad_flag_is_one_line(checkpoint, tmp_path, monkeypatch, arguments, parts):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    EXPORT(checkpoint, *arguments.split()).fails_with(*parts)
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "part"), [(None, "cannot read weights"), (b"", "are empty"), (b"no weights", "damaged or no weight")]
)
def test_a_checkpoint_that_is_none_is_one_line(tmp_path, content, part):
    if content is not None:
        (tmp_path / "w.pth").write_bytes(content)
    assert not write(tmp_path / "w.pth").exists()
    EXPORT.fails_with(part)


def test_a_missing_package_is_one_line(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    write(checkpoint, form="onnx")
    EXPORT.fails_with("onnx needs the package onnxscript", "pip install onnx onnxscript onnxruntime")


def test_the_checkpoint_is_never_written_over(checkpoint):
    output = write(checkpoint)
    EXPORT(output, "--format", "safetensors", "--output", output, "--overwrite").fails_with("is the checkpoint itself")


def test_a_network_that_cannot_be_exported_is_one_line(tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass make_net(nn.Module):\n    def __init__(self, num_classes):\n"
        "        super().__init__()\n        self.body = nn.Conv2d(3, 4, 3, 2)\n"
        "        self.last = nn.Linear(4, num_classes)\n\n"
        "    def forward(self, x):\n        x = self.body(x).relu().mean((2, 3))\n"
        "        return self.last(x if float(x.sum()) > 0 else -x)\n"
    )
    flags = save_trained(tmp_path / "student.pth", f"{tmp_path}/net.py:make_net")
    assert not write(tmp_path / "student.pth", *flags, form="torch_export").exists()
    EXPORT.fails_with("cannot be written as torch_export")
