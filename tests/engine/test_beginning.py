"""Students that begin with the weights that their library has for them."""

from types import SimpleNamespace

import pytest
import torch
import torchvision

from mdistiller.engine.beginning import begin
from mdistiller.engine.cli import training_main
from mdistiller.engine.distributed import ONE
from mdistiller.engine.index import CIFAR100, IMAGENET
from mdistiller.engine.networks import build_student
from mdistiller.engine.pretrained import fetch_of_library
from mdistiller.engine.resolve import Choices, baseline_config
from mdistiller.engine.weights import load_weights
from mdistiller.models import build_model
from tests.engine.conftest import TINY, Script
from tests.engine.test_networks import TEST_IMAGES, columns_of
from tests.engine.test_teaching import fetched as fetched
from tests.engine.test_teaching import told

SHUFFLENET, VIT = "torchvision:shufflenet_v2_x0_5", "timm:vit_tiny_patch16_224"
STILL = "SOLVER.LR 1e-30 SOLVER.WEIGHT_DECAY 0 SOLVER.FREEZE_BN True SOLVER.EPOCHS 1".split()
QUICK = {"init_weights": False}  # which takes torchvision seconds
BEGUN = "DISTILLER.STUDENT_WEIGHTS", "pretrained"


@pytest.fixture(autouse=True)
def downloads(tmp_path, monkeypatch):
    """An empty cache of downloads."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch"


def train(script, name, *arguments):
    return script(training_main, "--selected_model", name, *TINY, *TEST_IMAGES, *BEGUN, *arguments)


def model_of(script):
    (path,) = script.utils.glob("model_pth/*/last.pth")
    return torch.load(path, weights_only=True)["model"]


def test_a_student_begins_with_its_library_s_weights_and_a_new_classifier(script, fetched):
    assert train(script, SHUFFLENET, *STILL).status == 0, script.err
    torch.manual_seed(0)
    theirs, ours = torchvision.models.shufflenet_v2_x0_5().state_dict(), model_of(script)
    assert ours["fc.weight"].shape[0] == 36 and "The student's classifier is new" in told(script)
    body = [name for name in theirs if not name.startswith("fc.")]
    torch.testing.assert_close(
        {name: ours[name] for name in body}, {name: theirs[name] for name in body}, atol=1e-20, rtol=0
    )


def test_what_such_weights_saw_otherwise_is_told(script, fetched):
    train(script, SHUFFLENET, "SOLVER.EPOCHS", "1")
    assert "weights are for images of 224x224 pixels, mean [0.485, 0.456, 0.406]" in told(script)


def test_a_saved_config_repeats_such_a_run(script, fetched, tmp_path):
    train(script, SHUFFLENET, "SOLVER.EPOCHS", "1")
    (saved,) = script.utils.glob("model_train_log/*.yaml")
    again = Script(tmp_path / "again")
    assert again(training_main, "--cfg", saved).status == 0, again.err
    assert columns_of(script, "train_loss", "test_loss") == columns_of(again, "train_loss", "test_loss")
    assert len(fetched) == 1


def test_fetching_weights_draws_no_random_numbers(fetched):
    before = torch.get_rng_state()
    fetch_of_library(SHUFFLENET, "{}")
    assert len(fetched) == 1 and torch.equal(torch.get_rng_state(), before)


def test_weights_that_are_gone_are_not_fetched_to_go_on(script, fetched, downloads):
    train(script, SHUFFLENET, "SOLVER.EPOCHS", "1")
    for path in downloads.rglob("*.pth"):
        path.unlink()
    assert script(training_main, "--resume", "SOLVER.EPOCHS", "2").status == 0, script.err
    assert len(fetched) == 1


def test_a_transformer_s_positions_and_patches_are_fitted_to_smaller_images(monkeypatch):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("vit_tiny_patch16_224").state_dict()
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *_, **__: dict(theirs))
    pairs = "DATASET.TYPE", "synthetic", "DISTILLER.STUDENT_ARGS", "{patch_size: 8}", *BEGUN
    cfg = baseline_config(CIFAR100, Choices(selected_model=VIT, pairs=pairs), torch.device("cpu"))
    student = build_student(cfg, "cifar100", 36)
    begin(cfg, student, CIFAR100, SimpleNamespace(image_size=32, mean=(), std=()), ONE, False)
    ours = student.state_dict()
    assert ours["pos_embed"].shape == (1, 17, 192) and ours["patch_embed.proj.weight"].shape == (192, 3, 8, 8)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items() if name.startswith("blocks."))


def test_auxiliary_heads_are_new_as_the_classifier_is(tmp_path):
    networks = [build_model("imagenet", "torchvision:googlenet", count, QUICK, 64) for count in (10, 4)]
    torch.save(networks[0].state_dict(), tmp_path / "w.pth")
    assert load_weights(networks[1], tmp_path / "w.pth", "googlenet", keeps_classifier=True)["kept"]
    theirs, ours = (network.state_dict()["aux1.fc1.weight"] for network in networks)
    torch.testing.assert_close(ours, theirs)


def test_a_student_of_ours_begins_with_torchvision_s_weights(photographs, monkeypatch, tmp_path):
    theirs = build_model("imagenet", "ResNet18", 1000).state_dict()
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda url, path, **_: torch.save(theirs, path))
    script = Script(tmp_path / "project", IMAGENET)
    small = "SOLVER.BATCH_SIZE 3 DATASET.IMAGE_SIZE 32 DATASET.NUM_WORKERS 0".split()
    flags = "--selected_model", "ResNet18", "DATASET.ROOT", photographs
    assert script(training_main, *flags, *BEGUN, *STILL, *small).status == 0, script.err
    torch.testing.assert_close(model_of(script)["conv1.weight"], theirs["conv1.weight"], atol=1e-20, rtol=0)


def test_a_network_that_has_no_such_weights_is_one_line(script):
    train(script, "resnet8").fails_with("resnet8 has no pretrained weights", "DISTILLER.STUDENT_WEIGHTS")
    assert list(script.utils.iterdir()) == []


def test_a_library_that_cannot_be_reached_is_one_line(script, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    train(script, SHUFFLENET).fails_with("no route to host", "torchvision", "DISTILLER.STUDENT_WEIGHTS")
