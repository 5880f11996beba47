"""What TensorBoard shows in pictures, and that runs do not change by it."""

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mdistiller.engine import precision, trainer
from mdistiller.engine.cli import distillation_main, training_main
from mdistiller.engine.outputs import class_correlations, correlation_of, moments_of, outputs_of
from mdistiller.engine.pictures import AUGMENTED, BLUE, COLUMNS, DIFFERENCE, ORANGE, SIDE, WHITE, coloured, grid_of
from mdistiller.models import build_model
from tests.engine.conftest import TINY

KD = "--selected_student resnet8 --selected_teacher resnet8 --distiller KD --device cpu".split()
MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 0.25)


@pytest.fixture
def logits():
    return torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8) + 100


def test_class_correlations_are_numpy_s(logits):
    np.testing.assert_allclose(correlation_of(moments_of(logits)), np.corrcoef(logits.double().T), atol=1e-9)


def test_sums_over_parts_of_the_images_are_those_over_all(logits):
    parts = sum(moments_of(part) for part in logits.split(20))
    torch.testing.assert_close(parts, moments_of(logits), rtol=1e-12, atol=0)


def test_a_class_that_never_changes_correlates_with_none(logits):
    logits[:, 2] = 1e4 / 3
    found = correlation_of(moments_of(logits))
    assert not found[2].any() and not found[:, 2].any() and found[1, 1] > 0.999


def test_networks_are_compared_in_eval_mode_and_left_in_theirs():
    torch.manual_seed(0)
    network, batches = build_model("cifar100", "resnet8", 4), [{"image": torch.randn(8, 3, 32, 32)}] * 2
    network.train().layer1.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    (found,) = class_correlations([network], batches, 4)
    assert network.training and not network.layer1.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with torch.no_grad():
        logits = network.eval()(batches[0]["image"])[0]
    np.testing.assert_allclose(found, np.corrcoef(logits.double().T), atol=1e-9)


def test_outputs_are_those_of_all_batches():
    network = build_model("cifar100", "resnet8", 4).eval()
    images, targets = torch.randn(6, 3, 32, 32), torch.arange(6)
    batches = [{"image": images[rows], "target": targets[rows]} for rows in (slice(4), slice(4, 6))]
    found = outputs_of(network, batches)
    with torch.no_grad():
        logits, features = network(images)
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.pooled_feat, features["pooled_feat"])
    assert torch.equal(found.target, targets)


def test_the_grid_has_the_images_as_they_were_before_normalisation():
    pixels = torch.randint(256, (COLUMNS + 1, 3, 4, 4))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    grid = grid_of({"image": (pixels / 255 - mean) / std}, MEAN, STD)
    assert grid.shape == (3, 8, 4 * COLUMNS) and grid.dtype == torch.uint8
    assert torch.equal(grid[:, :4, 4:8], pixels[1].byte()) and torch.equal(grid[:, 4:, :4], pixels[COLUMNS].byte())
    assert not grid[:, 4:, 4:].any()


def test_the_grid_has_strong_views_below():
    batch = {"image": torch.zeros(2, 3, 4, 4), "image_strong": torch.ones(2, 3, 4, 4)}
    grid = grid_of(batch, (0.0,) * 3, (1.0,) * 3)
    assert grid.shape == (3, 8, 4 * COLUMNS) and not grid[:, :4].any() and (grid[:, 4:, :8] == 255).all()


def test_without_a_normalisation_the_grid_goes_from_the_darkest_to_the_lightest():
    batch = {"image": torch.tensor([-3.0, 1.0, 5.0]).view(3, 1, 1, 1).expand(3, 3, 4, 4)}
    assert grid_of(batch, (), ())[0, 0, ::4].tolist() == [0, 128, 255, *[0] * (COLUMNS - 3)]


def test_a_matrix_has_blue_below_zero_and_orange_above():
    picture = coloured(torch.tensor([[0.0, 1.0], [-1.0, -3.0]]))
    assert picture.shape == (3, SIDE, SIDE)
    corners = [tuple(picture[:, row, column].tolist()) for row in (0, -1) for column in (0, -1)]
    assert corners == [WHITE, ORANGE, BLUE, BLUE]


@pytest.fixture
def distil(script):
    def run():
        assert script(distillation_main, *KD, *TINY).status == 0, script.err
        (folder,) = (path for path in script.utils.glob("distiller_train_log/*/") if path not in seen)
        seen.add(folder)
        return folder

    assert script(training_main, "--selected_model", "resnet8", "--device", "cpu", *TINY).status == 0, script.err
    seen = set()
    return run


def test_a_run_with_pictures_is_the_run_without(distil, monkeypatch):
    folders = [distil()]
    for name in ("show_augmented", "show_difference"):
        monkeypatch.setattr(trainer, name, lambda *_: None)
    folders.append(distil())
    shown = [EventAccumulator(str(folder)).Reload() for folder in folders]
    assert [each.Tags()["images"] for each in shown] == [[DIFFERENCE, AUGMENTED], []]
    assert [event.step for event in shown[0].Images(DIFFERENCE)] == [0, 2]
    assert [event.step for event in shown[0].Images(AUGMENTED)] == [0]
    timed = {"images_per_second", "seconds"}
    rows = [[line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()] for folder in folders]
    kept = [
        [[cell for name, cell in zip(table[0], row, strict=True) if name not in timed] for row in table]
        for table in rows
    ]
    assert kept[0] == kept[1]


def test_evaluation_does_not_decide_what_is_compiled(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda forward, **options: lambda x: calls.append(len(x)) or forward(x))
    network = torch.nn.Linear(2, 2)
    precision.compile_network(network)
    with torch.inference_mode():
        network(torch.ones(5, 2))
    with torch.no_grad():
        network(torch.ones(3, 2))
        network(torch.ones(4, 2))
    assert calls == [3]
