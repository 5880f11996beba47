"""The linear probe of frozen features on other data."""

import csv

import pytest
import torch

from tests.tools.pictures.conftest import project  # noqa: F401  a fixture
from tools import transfer
from tools.transfer import linear_probe, main

DATA = "DATASET.SYNTHETIC.TRAIN_IMAGES 72 DATASET.SYNTHETIC.TEST_IMAGES 36".split()


@pytest.fixture
def clouds():
    """Features of three classes around centres, training and test ones."""
    generator = torch.Generator().manual_seed(0)
    centres = 2 * torch.randn(3, 4, generator=generator)
    parts = []
    for _ in range(2):
        targets = torch.arange(150) % 3
        parts += [centres[targets] + torch.randn(150, 4, generator=generator), targets]
    return parts


def test_the_probe_is_as_good_as_logistic_regression(clouds):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, targets, test_features, test_targets = (part.numpy() for part in clouds)
    expected = 100 * linear_model.LogisticRegression(C=1e3).fit(features, targets).score(test_features, test_targets)
    top1, top5 = linear_probe(*clouds, 3, seed=0)
    assert top1 == pytest.approx(expected, abs=2) and top5 == 100


def test_the_probe_is_its_recipe_by_hand(clouds):
    features, targets, *_ = clouds
    top1, _ = linear_probe(features, targets, features, targets, 3, seed=1, epochs=2)
    generator = torch.Generator().manual_seed(1)
    weight, bias = 0.01 * torch.randn(3, 4, generator=generator), torch.zeros(3)
    momentum = [torch.zeros(3, 4), torch.zeros(3)]
    for _ in range(2):
        for rows in torch.randperm(150, generator=generator).split(64):
            x, one_hot = features[rows], torch.eye(3)[targets[rows]]
            error = ((x @ weight.T + bias).softmax(1) - one_hot) / len(rows)
            for value, gradient, sums in zip((weight, bias), (error.T @ x, error.sum(0)), momentum, strict=True):
                sums.mul_(0.9).add_(gradient)
                value.sub_(0.1 * (gradient + 0.9 * sums))
    expected = ((features @ weight.T + bias).argmax(1) == targets).double().mean().item() * 100
    assert top1 == pytest.approx(expected, abs=0.01)


def test_several_students_are_rows_of_a_table_and_of_a_csv(project, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(transfer, "EPOCHS", 1)
    teacher = project.write_weights("2026-01-01-00-00-00_resnet14", "resnet14")
    project.write_weights("2026-01-01-00-00-01_resnet14_resnet8_KD", method="KD", teacher=teacher)
    words = teacher, "2026-01-01-00-00-01_resnet14_resnet8_KD", "--dataset", "synthetic", "--csv", tmp_path / "a.csv"
    assert project.run(main, *words, *DATA) == 0, project.err
    assert len(project.out.splitlines()) == 4 and max(map(len, project.out.splitlines())) <= 100
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert {(row["student"], row["method"], row["features"]) for row in rows} == {
        ("resnet14", "Vanilla", "64"),
        ("resnet8", "KD", "64"),
    }


def test_what_cannot_be_read_leaves_the_others_their_rows(project, monkeypatch):  # noqa: F811
    monkeypatch.setattr(transfer, "EPOCHS", 1)
    good = project.write_weights("2026-01-01-00-00-00_resnet8")
    assert project.run(main, "missing.pth", good, "--dataset", "synthetic", *DATA) == 2
    assert "resnet8" in project.out and project.err.count("\n") == 1 and "missing.pth" in project.err


def test_photographs_are_scaled_to_the_network_s_images(project, photographs, monkeypatch):  # noqa: F811
    monkeypatch.setattr(transfer, "EPOCHS", 1)
    good = project.write_weights("2026-01-01-00-00-00_resnet8")
    words = good, "--dataset", "folder", "DATASET.ROOT", photographs
    assert project.run(main, *words) == 0, project.err


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("--dataset synthetic", "no weights are named"),
        ("x.pth", "--dataset"),
        ("x.pth --dataset mars", "invalid choice: 'mars'"),
        ("x.pth --dataset synthetic DATASET.TYPE folder", "DATASET.TYPE has no effect"),
        ("x.pth --dataset synthetic SOLVER.LR 1", "SOLVER.LR has no effect"),
        ("x.pth --dataset synthetic --seed -1", "--seed is -1"),
        ("x.pth --dataset synthetic --num_classes 0", "--num_classes is 0"),
        ("x.pth --dataset synthetic", "cannot read weights x.pth"),
    ],
)
def test_a_bad_command_is_one_line(project, words, part):  # noqa: F811
    project.fails_with(part, main, *words.split())
