"""Pictures of networks: their numbers against literal forms, and each drawn once."""

import types

import numpy as np
import pytest
import torch

from mdistiller.engine.measures import Calibration
from mdistiller.models import build_model
from tools.pictures import cost
from tools.pictures.embedding import pca, spread
from tools.pictures.gradcam import class_map
from tools.pictures.reliability import points_of, standard_errors
from tools.pictures.subjects import distinct
from tools.plot import main

STUDENT, TEACHER = "2026-01-01-00-00-01_resnet14_resnet8_KD", "2026-01-01-00-00-00_resnet14"


@pytest.fixture
def pair(project):
    """The names of a student's run and of its teacher's."""
    teacher = project.write_weights(TEACHER, "resnet14")
    project.write_weights(STUDENT, method="KD", seed=2, teacher=teacher)
    return STUDENT, TEACHER


def test_points_of_a_diagram_are_those_by_hand():
    calibration = Calibration(torch.device("cpu"))
    probabilities = torch.tensor([[0.9, 0.1], [0.11, 0.89], [0.3, 0.7], [0.45, 0.55]], dtype=torch.float64)
    calibration(probabilities.log(), torch.tensor([0, 0, 1, 1]), None)
    images, confidence, accuracy = points_of(calibration)
    filled = [8, 10, 13]  # of 15: above 8/15, 10/15 and 13/15
    assert images[filled].tolist() == [1, 1, 2] and images.sum() == 4
    np.testing.assert_allclose(confidence[filled], [55, 70, 89.5])
    np.testing.assert_allclose(accuracy[filled], [100, 100, 50])
    gaps = np.abs(accuracy - confidence)
    assert calibration.error == pytest.approx((images * gaps).sum() / 4) == pytest.approx((45 + 30 + 2 * 39.5) / 4)


def test_an_accuracy_of_all_images_has_an_error_too():
    np.testing.assert_allclose(
        standard_errors(np.array([10.0, 98]), np.array([100.0, 50])),
        [100 * (11 / 144 / 10) ** 0.5, 100 * (0.25 / 98) ** 0.5],
    )


def test_grad_cam_is_its_formula():
    torch.manual_seed(0)
    network = build_model("cifar100", "resnet8", 5).eval()
    image = torch.randn(1, 3, 32, 32)
    heat, probability, predicted = class_map(network, image.clone(), 3)
    logits, features = network(image)
    features["final_map"].retain_grad()
    logits[0, 3].backward()
    maps, gradients = features["final_map"][0].detach(), features["final_map"].grad[0]
    expected = sum(gradient.mean() * each for gradient, each in zip(gradients, maps, strict=True)).clamp(min=0)
    expected = torch.nn.functional.interpolate(expected[None, None], (32, 32), mode="bilinear")[0, 0]
    np.testing.assert_allclose(heat, expected / expected.max(), atol=1e-6)
    assert probability == pytest.approx(logits.softmax(1)[0, 3].item()) and predicted == int(logits.argmax())


def test_grad_cam_of_a_map_of_nothing_is_nothing():
    network = build_model("cifar100", "resnet8", 5).eval()
    torch.nn.init.zeros_(network.fc.weight)
    assert not class_map(network, torch.randn(1, 3, 32, 32), 3)[0].any()


def test_pca_is_numpy_s_eigenvectors():
    features = np.random.default_rng(0).normal(size=(40, 5)) * [5, 3, 1, 1, 1]
    points, names = pca(features)
    values, vectors = np.linalg.eigh(np.cov(features.T))
    expected = (features - features.mean(0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-9)
    assert names[0] == f"component 1, {100 * values[-1] / values.sum():.0f} % of variance"


def test_classes_are_spread_evenly():
    assert spread(100, 4) == [0, 25, 50, 75] and spread(3, 8) == [0, 1, 2]


def test_a_correlation_needs_only_the_student(project, pair, tmp_path):
    assert project.run(main, "correlation", pair[0], "--output", tmp_path / "a.svg") == 0, project.err
    text = (tmp_path / "a.svg").read_text()
    assert text.startswith("<?xml") and "image/png" in text


def test_a_teacher_that_has_changed_is_one_line(project, pair, tmp_path):
    path = project.utils / "model_pth" / TEACHER / "best.pth"
    torch.save(torch.load(path, weights_only=True) | {"more": 1}, path)
    project.fails_with("has changed since it taught", main, "correlation", pair[0], "--output", tmp_path / "a.png")


def test_a_teacher_that_is_gone_is_one_line(project, pair, tmp_path):
    (project.utils / "model_pth" / TEACHER / "best.pth").unlink()
    project.fails_with("is no longer at", main, "correlation", pair[0], "--output", tmp_path / "a.png")


def test_a_network_without_a_teacher_is_one_line(project, pair, tmp_path):
    project.fails_with("does not tell its teacher's", main, "correlation", pair[1], "--output", tmp_path / "a.png")


@pytest.mark.parametrize(
    "words",
    ["reliability", "embedding --method pca", "gradcam --images 2"],
)
def test_each_picture_of_several_networks_is_drawn(project, pair, tmp_path, words):
    assert project.run(main, *words.split(), *pair, "--output", tmp_path / "a.png") == 0, project.err
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_t_sne_is_drawn(project, pair, tmp_path):
    pytest.importorskip("sklearn")
    assert project.run(main, "embedding", pair[0], "--output", tmp_path / "a.png") == 0, project.err


def test_gradcam_takes_photographs(project, pair, photographs, tmp_path):
    images = [next(folder.iterdir()) for folder in sorted((photographs / "val").iterdir())[:2]]
    assert project.run(main, "gradcam", pair[0], *images, "--output", tmp_path / "a.png") == 0, project.err


def test_a_file_that_does_not_tell_its_data_is_taken_for_one_of_the_others(project, pair, tmp_path):
    path = tmp_path / "best_model_weights_resnet14.pth"
    content = torch.load(project.utils / "model_pth" / TEACHER / "best.pth", weights_only=True)
    torch.save(content["model"], path)
    words = "reliability", pair[0], "--teacher_weights", path
    assert project.run(main, *words, "--output", tmp_path / "a.png") == 0, project.err


def test_networks_of_other_images_are_one_line(project, pair, tmp_path):
    other = project.write_weights("2026-01-01-00-00-05_resnet8")
    content = torch.load(other, weights_only=True)
    content["meta"]["config"] = content["meta"]["config"].replace("72", "40")
    torch.save(content, other)
    project.fails_with("other images", main, "reliability", pair[0], other, "--output", tmp_path / "a.png")


def test_networks_of_one_name_are_told_apart():
    def subject(name, seed):
        file = types.SimpleNamespace(meta={"config": f"EXPERIMENT: {{SEED: {seed}}}"})
        return types.SimpleNamespace(name=name, file=file)

    def replace(subject, name):
        return types.SimpleNamespace(name=name, file=subject.file)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.pictures.subjects.replace", replace)
        found = distinct([subject("a", 1), subject("a", 2), subject("b", 1), subject("c", 4), subject("c", 4)])
    assert [each.name for each in found] == ["a, seed 1", "a, seed 2", "b", "c, seed 4, 4", "c, seed 4, 5"]


def test_cost_measures_each_method(project, monkeypatch, tmp_path):
    for name, value in {"STEPS": 1, "REPEATS": 2, "TEACHER": "resnet8", "STUDENT": "resnet8"}.items():
        monkeypatch.setattr(cost, name, value)
    words = "cost KD --batch_size 4 --device cpu --output".split()
    assert project.run(main, *words, tmp_path / "a.svg") == 0, project.err
    assert [line.split(" ")[0] for line in project.out.splitlines()[:2]] == ["no", "KD"]


@pytest.mark.parametrize("picture", ["reliability", "correlation", "embedding", "gradcam"])
def test_a_network_that_returns_no_numbers_is_one_line(project, pair, tmp_path, picture):
    path = project.utils / "model_distillation_pth" / STUDENT / "best.pth"
    content = torch.load(path, weights_only=True)
    content["model"]["fc.weight"].fill_(3e38)
    torch.save(content, path)
    project.fails_with("is not finite", main, picture, path, "--output", tmp_path / "a.png")


def test_names_are_shown_as_they_are(project, pair, tmp_path):
    path = project.utils / "model_distillation_pth" / STUDENT / "best.pth"
    content = torch.load(path, weights_only=True)
    content["meta"]["distiller"] = "_$\\frac{ \n 猫"
    torch.save(content, tmp_path / "odd.pth")
    assert project.run(main, "reliability", tmp_path / "odd.pth", "--output", tmp_path / "a.png") == 0, project.err
    assert project.err == ""


@pytest.mark.parametrize("text", [".", "..", "x" * 5000, "/", "a/../b", "\n"])
def test_what_is_no_run_is_one_line(project, text):
    project.fails_with("no weights", main, "reliability", text, "--output", "a.png")
    project.fails_with("no metrics.csv", main, "curves", text, "--output", "a.png")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("reliability x.pth", "--output"),
        ("reliability x.pth --output a.jpg", "expected a name that ends in .png or .svg"),
        ("reliability x.pth --output .", "expected a name that ends in"),
        ("reliability --output a.png", "needs files of weights"),
        ("curves --output a.png", "needs runs"),
        ("drawing x.pth --output a.png", "invalid choice: 'drawing'"),
        ("curves x.csv --images 5 --output a.png", "--images has no effect on curves"),
        ("curves x.csv DATASET.TYPE synthetic --output a.png", "DATASET.TYPE has no effect on curves"),
        ("cost KD --teacher_weights a.pth --output a.png", "--teacher_weights has no effect on cost"),
        ("cost nothing --device cpu --output a.png", "nothing"),
        ("gradcam x.pth --images 0 --output a.png", "--images is 0"),
        ("embedding x.pth --method umap --output a.png", "invalid choice: 'umap'"),
        ("reliability x.pth --output a.png", "cannot read weights x.pth"),
        ("reliability nothing --output a.png", "no weights 'nothing'"),
        ("reliability x.pth SOLVER.LR 1 --output a.png", "SOLVER.LR has no effect"),
        ("gradcam x.png --output a.png", "needs a network's file"),
    ],
)
def test_a_bad_command_is_one_line(project, words, part):
    project.fails_with(part, main, *words.split())
