"""`mdistiller.load_student`: a network out of a weight file, its images as an evaluation has them, its classes."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import mdistiller
from mdistiller.dataset import CIFAR100_CLASSES, IMAGENET_WNIDS, Transform, build_data, fill_defaults
from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main, training_main
from mdistiller.errors import UserError
from mdistiller.models import build_model
from tests.engine.conftest import TINY
from tests.engine.test_networks import SOURCE, VIT, VIT_ARGUMENTS

CLASSES = ["cat", "dog", "fox"]


def save(path, name="resnet8", models="cifar100", arguments="{}", image_size=None, **meta):
    """Weights of a network as a run writes them, for CLASSES where `meta` says nothing else; returns the network."""
    torch.manual_seed(0)
    dataset = {"type": "folder", "classes": CLASSES} | meta.pop("dataset", {})
    network = build_model(models, name, len(dataset["classes"]), yaml.safe_load(arguments), image_size).eval()
    config = {"DATASET": {"TYPE": dataset["type"]} | ({"IMAGE_SIZE": image_size} if image_size else {})}
    meta = {"network": name, "arguments": arguments, "dataset": dataset, "config": yaml.safe_dump(config)} | meta
    meta["models"] = models
    torch.save({"model": network.state_dict(), "meta": meta}, path)
    return network


def picture(width=50, height=40):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def gives_the_logits_of(student, network):
    images = torch.stack([student.transform(picture())] * 2)
    with torch.no_grad():
        return torch.equal(student.network(images)[0], network(images)[0])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "student.pth"


@pytest.mark.parametrize(
    ("name", "models", "arguments", "image_size"),
    [
        ("resnet8", "cifar100", "{}", None),
        ("wrn_16_1", "tiny_imagenet", "{}", 64),
        ("MobileNetV1", "imagenet", "{}", 64),
        ("resnet8+resnet20", "cifar100", "{}", 32),
        ("torchvision:shufflenet_v2_x0_5", "cifar100", "{}", 48),
        (VIT, "cifar100", VIT_ARGUMENTS, 32),
    ],
)
def test_a_student_is_the_network_that_was_saved(path, name, models, arguments, image_size):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    network = save(path, name, models, arguments, image_size)
    student = mdistiller.load_student(path)
    assert gives_the_logits_of(student, network) and not student.network.training
    assert student.class_names == tuple(CLASSES) and student.meta["network"] == name


def test_a_student_of_a_users_file_needs_the_file_named(path, tmp_path):
    (tmp_path / "net.py").write_text(SOURCE)
    reference = f"{tmp_path}/net.py:make_net"
    network = save(path, reference)
    with pytest.raises(UserError, match="which is run where you name it"):
        mdistiller.load_student(path)
    assert gives_the_logits_of(mdistiller.load_student(path, network=reference), network)


def test_weights_that_a_run_averaged_are_loaded(script):
    assert script(training_main, "--selected_model", "resnet8", *TINY, "SOLVER.EMA", "0.9").status == 0, script.err
    (best,) = script.utils.glob("model_pth/*/best.pth")
    expected = torch.load(best, weights_only=True)["model"]
    found = mdistiller.load_student(best).network.state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_simkd_student_of_a_run_is_loaded(script):
    arguments = ["--selected_student", "resnet8", "--selected_teacher", "resnet14", *TINY]
    script(training_main, "--selected_model", "resnet14", *TINY)
    assert script(distillation_main, *arguments, "--distiller", "SimKD").status == 0, script.err
    (best,) = script.utils.glob("model_distillation_pth/*/best.pth")
    student = mdistiller.load_student(best)
    assert student.meta["network"] == "resnet8+resnet14" and len(student.class_names) == 36


@pytest.mark.parametrize(
    ("network", "count", "pairs", "names"),
    [
        ("resnet8", 100, [], CIFAR100_CLASSES),
        ("MobileNetV1", 1000, ["DATASET.TYPE", "imagenet"], IMAGENET_WNIDS),
        ("resnet8", 3, [], ["0", "1", "2"]),
    ],
)
def test_a_bare_file_needs_its_network_and_classes_named(path, network, count, pairs, names):
    model = build_model(pairs[-1] if pairs else "cifar100", network, count).eval()
    torch.save(model.state_dict(), path)
    with pytest.raises(UserError, match="does not tell its network"):
        mdistiller.load_student(path)
    with pytest.raises(UserError, match="num_classes=N"):
        mdistiller.load_student(path, network, pairs=pairs)
    student = mdistiller.load_student(path, network, count, pairs)
    assert gives_the_logits_of(student, model) and student.class_names == tuple(names)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"network": "resnet9"}, "unknown network 'resnet9'"),
        ({"network": "resnet20"}, "are not resnet20's"),
        ({"num_classes": 4}, "scores 3 classes, not 4"),
        ({"pairs": ["SOLVER.LR", "1"]}, "has no effect"),
    ],
)
def test_a_mistake_is_one_line(path, arguments, parts):
    save(path)
    with pytest.raises(UserError, match=parts):
        mdistiller.load_student(path, **arguments)


@pytest.mark.parametrize("count", [0, -1, 10**9])
def test_a_number_of_classes_that_cannot_be_is_one_line(path, count):
    torch.save({"model": build_model("cifar100", "resnet8", 3).state_dict(), "meta": {"num_classes": count}}, path)
    with pytest.raises(UserError, match="num_classes is"):
        mdistiller.load_student(path, "resnet8")


@pytest.mark.parametrize("kind", ["folder", "tiny_imagenet", "imagenet"])
def test_an_image_is_what_evaluation_makes_of_it(path, photographs, kind):
    cfg = CFG.clone()
    cfg.DATASET.TYPE, cfg.DATASET.ROOT, cfg.DATASET.IMAGE_SIZE = kind, str(photographs), 48
    cfg.DATASET.MEAN, cfg.DATASET.STD, cfg.DATASET.NUM_WORKERS = [0.4, 0.5, 0.6], [0.2, 0.21, 0.22], 0
    fill_defaults(cfg.DATASET)
    cfg.DATASET.NUM_CLASSES = 6
    (batch,) = build_data(cfg, "cpu", 0, splits=("test",)).test
    save(path, dataset={"type": kind}, config=yaml.safe_dump({"DATASET": {"IMAGE_SIZE": 48, "MEAN": [0.4, 0.5, 0.6]}}))
    transform = mdistiller.load_student(path, pairs=["DATASET.STD", "[0.2,0.21,0.22]"]).transform
    files = sorted(photographs.glob("val/*/*"))
    for file, expected in zip(files, batch["image"], strict=True):
        with Image.open(file) as image:
            assert torch.equal(transform(image), expected)
            pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(transform(pixels), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_an_image_in_any_mode_that_is_read_from_files_is_taken(mode):
    transform = Transform(32, (0.5,) * 3, (0.5,) * 3, crops=False)
    image = Image.new("I;16", (40, 50), 300) if mode == "I;16" else picture().convert(mode)
    assert transform(image).shape == (3, 32, 32)


@pytest.mark.parametrize(
    "image",
    [
        "cat.png",
        None,
        np.zeros((32, 32, 3), np.uint8),
        torch.zeros(3, 8, 8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(3, 0, 8, dtype=torch.uint8),
        Image.new("F", (8, 8)),
        Image.new("RGB", (1, 5000)),
    ],
    ids=lambda image: type(image).__name__,
)
def test_what_is_no_image_is_one_line(path, image):
    save(path)
    with pytest.raises(UserError, match="expected"):
        mdistiller.load_student(path).transform(image)


def test_the_names_of_cifar100_are_in_the_order_of_its_labels():
    assert len(CIFAR100_CLASSES) == 100 and sorted(CIFAR100_CLASSES) == list(CIFAR100_CLASSES)


def test_the_package_is_light_until_a_student_is_loaded():
    code = "import sys, mdistiller; assert 'torch' not in sys.modules; assert callable(mdistiller.load_student)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="'load_teacher'"):
        mdistiller.load_teacher  # noqa: B018
