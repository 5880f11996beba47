"""How `test.py` tests otherwise: resolution, views, precision, ensembles, and beside a teacher."""

import csv

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from mdistiller.dataset import build_data, fill_defaults
from mdistiller.dataset.decoding import decode
from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.metrics import evaluate
from mdistiller.engine.students import load_student
from mdistiller.engine.tables import WIDTH, columns_of
from mdistiller.engine.views import FLIP, ONE_VIEW, TEN_CROP, viewed
from tests.engine.conftest import TINY, Script

IMAGES = ["DATASET.SYNTHETIC.TEST_IMAGES", "32"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A script beside a teacher and two students of it."""
    script = Script(tmp_path_factory.mktemp("project"))
    tiny = [*TINY, "SOLVER.EPOCHS", "1"]
    assert script(training_main, "--selected_model", "resnet14", *tiny).status == 0, script.err
    for seed in ("1", "2"):
        pair = ["--selected_student", "resnet8", "--selected_teacher", "resnet14", "--selected_distiller", "KD"]
        assert script(distillation_main, *pair, *tiny, "--seed", seed).status == 0, script.err
    return script


@pytest.fixture
def students(project):
    return sorted(project.utils.glob("model_distillation_pth/*/best.pth"))


@pytest.fixture
def data():
    cfg = CFG.clone()
    cfg.DATASET.TYPE, cfg.DATASET.SYNTHETIC.TEST_IMAGES = "synthetic", 32
    fill_defaults(cfg.DATASET)
    return build_data(cfg, "cpu", 0, splits=("test",))


def rows_of(project, *arguments):
    """The rows of the CSV file that such a command writes."""
    path = project.utils / "table.csv"
    run = project(evaluation_main, *arguments, "--csv", path)
    assert run.status == 0, run.err
    assert all(columns_of(line) <= WIDTH for line in run.out.splitlines())
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def logits_of(path, data, change=lambda image: image):
    network = load_student(path).network.to(memory_format=torch.channels_last)
    with torch.inference_mode():
        return torch.cat([network(change(batch["image"]))[0] for batch in data.test])


def loss_of(logits, data):
    (batch,) = data.test
    return nn.functional.cross_entropy(logits.double(), batch["target"]).item()


def test_flip_averages_the_logits_of_image_and_mirror_image(project, students, data):
    (row,) = rows_of(project, "--checkpoint", students[0], "--flip")
    mean = (logits_of(students[0], data) + logits_of(students[0], data, lambda image: image.flip(3))) / 2
    assert float(row["loss"]) == pytest.approx(loss_of(mean, data), abs=1e-6) and row["views"] == "flip"
    assert project.out.startswith("Tested by mean logits of image and mirror image\ndataset")


def test_ten_crop_averages_the_logits_of_crops_of_the_padded_image(project, students, data):
    (row,) = rows_of(project, "--checkpoint", students[0], "--ten_crop")
    black = -torch.tensor(data.mean).view(3, 1, 1) / torch.tensor(data.std).view(3, 1, 1)

    def crop(top, left, is_mirrored):
        def change(image):
            padded = nn.functional.pad(image - black, [4] * 4) + black
            view = padded[:, :, top : top + 32, left : left + 32]
            return view.flip(3) if is_mirrored else view

        return logits_of(students[0], data, change)

    places = [(0, 0), (0, 8), (8, 0), (8, 8), (4, 4)]
    mean = torch.stack([crop(*place, is_mirrored) for place in places for is_mirrored in (False, True)]).mean(0)
    assert float(row["loss"]) == pytest.approx(loss_of(mean, data), abs=1e-5) and row["views"] == "ten_crop"


def test_ten_crops_of_photographs_are_torchvisions(photographs):
    cfg = CFG.clone()
    cfg.DATASET.update({"TYPE": "imagenet", "ROOT": str(photographs), "IMAGE_SIZE": 32, "NUM_CLASSES": 6})
    cfg.DATASET.NUM_WORKERS = 0
    fill_defaults(cfg.DATASET)
    data = build_data(cfg, "cpu", 0, splits=("test",), crops=True)

    class Quarters(nn.Module):
        """The mean colours of an image's quarters, in the place of logits."""

        def forward(self, image):
            return nn.functional.adaptive_avg_pool2d(image, 2).flatten(1), {}

    (batch,) = data.test
    with torch.inference_mode():
        found = viewed(Quarters(), TEN_CROP, cfg, data)(batch["image"])[0]
        transform = v2.Compose([v2.Resize(round(32 * 256 / 224), antialias=True), v2.TenCrop(32)])
        normalise = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.mean, data.std)])
        for row, logits in enumerate(found):
            crops = transform(decode(data.test.image_set.path(row), 32)[0])
            expected = Quarters()(torch.stack([normalise(crop) for crop in crops]))[0].mean(0)
            assert torch.allclose(logits, expected, atol=0.02)  # of pixels that were rounded otherwise


def test_bf16_changes_the_loss_a_little(project, students):
    (exact,), (half,) = (
        rows_of(project, "--checkpoint", students[0]),
        rows_of(project, "--checkpoint", students[0], "SOLVER.AMP", "bf16"),
    )
    assert 0 < abs(float(exact["loss"]) - float(half["loss"])) < 0.1
    assert (exact["precision"], half["precision"]) == ("float32", "bf16")
    assert project.out.startswith("Tested in bf16\n")


def test_another_resolution_is_told(project, students):
    (row,) = rows_of(project, "--checkpoint", students[0], "DATASET.IMAGE_SIZE", "48")
    assert row["image_size"] == "48" and project.out.startswith("Tested at 48 pixels\n")


def test_an_ensemble_is_the_mean_of_its_networks_probabilities(project, students, data):
    (row,) = rows_of(project, "--ensemble")
    probabilities = torch.stack([logits_of(path, data).double().softmax(1) for path in students]).mean(0)
    assert float(row["loss"]) == pytest.approx(loss_of(probabilities.log(), data), abs=1e-6)
    assert (sorted(row["seed"].split(",")), row["networks"], row["student"]) == (["1", "2"], "2", "resnet8")
    assert row["file"].split(",") == list(map(str, students))
    assert "Tested by mean probabilities of 2 networks" in project.out
    assert all(path.parent.name in project.out for path in students)


def test_named_files_are_rows_or_one_ensemble(project, students):
    both = ["--checkpoint", students[0], "--checkpoint", students[1]]
    assert len(rows_of(project, *both)) == 2
    assert len(rows_of(project, *both, "--ensemble")) == 1


def test_all_at_once_fits_the_table(project):
    flags = ["--ensemble", "--ten_crop", "--agreement", "SOLVER.AMP", "bf16", "DATASET.IMAGE_SIZE", "40"]
    (row,) = rows_of(project, *flags)
    told = "Tested at 40 pixels, by mean logits of 10 crops, in bf16, by mean probabilities of 2 networks\n"
    assert project.out.startswith(told) and float(row["kl"]) >= 0


def test_agreement_is_with_the_runs_own_teacher(project, students, data):
    rows = rows_of(project, "--agreement")
    teacher = logits_of(next(project.utils.glob("model_pth/*/best.pth")), data)
    for row in rows:
        student = logits_of(row["file"], data)
        same = (student.argmax(1) == teacher.argmax(1)).float().mean()
        log_student, log_teacher = student.double().log_softmax(1), teacher.double().log_softmax(1)
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(1).mean()
        assert float(row["agreement"]) == pytest.approx(100 * same.item())
        assert float(row["kl"]) == pytest.approx(divergence.item(), rel=1e-4)
        assert row["compared_with"].endswith("best_model_weights_resnet14.pth")
    header, *lines = project.out.split("\n\n")[1].splitlines()
    assert header.split() == "teacher student method seed top-1 agreement KL ECE".split() and len(lines) == 2
    for line, row in zip(lines, rows, strict=True):
        numbers = float(row["agreement"]), float(row["kl"]), float(row["ece"])
        assert line.split()[-3:] == [f"{numbers[0]:.2f}", f"{numbers[1]:.4f}", f"{numbers[2]:.2f}"]


def test_agreement_is_with_any_weights_and_a_key_may_follow_the_flag(project, students, tmp_path):
    (row,) = rows_of(project, "--agreement", students[0], "--checkpoint", students[0])
    assert float(row["agreement"]) == 100 and float(row["kl"]) == pytest.approx(0, abs=1e-9)
    bare = tmp_path / "weights.pth"
    torch.save(torch.load(students[1], weights_only=True)["model"], bare)
    project(evaluation_main, "--checkpoint", students[0], "--agreement", bare).fails_with("not resnet14's")
    (row,) = rows_of(project, "--checkpoint", students[0], "--agreement", bare, "DISTILLER.TEACHER", "resnet8")
    assert float(row["agreement"]) < 100
    assert len(rows_of(project, "--agreement", *IMAGES, "--all")) == 3


def test_a_teacher_that_has_changed_since_its_run_is_told(project, students, tmp_path):
    run = project(evaluation_main, "--checkpoint", students[0], "--agreement")
    assert "has changed" not in run.out
    (config,) = project.utils.glob(f"distiller_train_log/*{students[0].parent.name}.yaml")
    text = config.read_text()
    teacher = next(project.utils.glob("model_pth/*/best.pth"))
    other = tmp_path / "other.pth"
    content = torch.load(teacher, weights_only=True)
    content["model"]["fc.bias"] += 1
    torch.save(content, other)
    config.write_text(text.replace(str(project.utils / "model_pth/best_model_weights_resnet14.pth"), str(other)))
    run = project(evaluation_main, "--checkpoint", students[0], "--agreement")
    config.write_text(text)
    assert "(its teacher's file has changed)" in run.out and run.status == 0


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--flip", "--ten_crop"], ["--flip has no effect with --ten_crop"]),
        (["DISTILLER.TEACHER", "resnet14"], ["DISTILLER.TEACHER has no effect", "SOLVER.AMP"]),
        (["SOLVER.LR", "0.1"], ["SOLVER.LR has no effect"]),
        (["SOLVER.AMP", "fp8"], ["SOLVER.AMP is fp8"]),
        (["--agreement", "nosuch.pth"], ["cannot read weights nosuch.pth"]),
        (["--agreement", "A." + 300 * "B"], ["has no value"]),
        (["--agreement", "a" + 300 * "b"], ["File name too long"]),
        (["--agreement", ""], ["--agreement has an empty value"]),
        (["--checkpoint", ""], ["--checkpoint has an empty value"]),
    ],
)
def test_what_has_no_effect_or_is_not_there_is_one_line(project, flags, parts):
    project(evaluation_main, *flags).fails_with(*parts)


def test_ensembles_that_are_none_are_one_line(project, students):
    one, teacher = ["--checkpoint", students[0]], next(project.utils.glob("model_pth/*/best.pth"))
    project(evaluation_main, "--ensemble", *one).fails_with("--ensemble has no effect on one file")
    project(evaluation_main, "--ensemble", *one, *one).fails_with("names", "twice")
    with_teacher = ["--ensemble", *one, "--checkpoint", teacher]
    project(evaluation_main, *with_teacher, "--agreement").fails_with("other teachers")
    assert project(evaluation_main, *with_teacher).status == 0, project.err


def test_an_ensemble_sees_one_data_set(project, students, tmp_path):
    content = torch.load(students[0], weights_only=True)
    both = ["--ensemble", "--checkpoint", students[0], "--checkpoint"]
    content["meta"]["config"] = content["meta"]["config"].replace("SEED: 0", "SEED: 1")
    torch.save(content, tmp_path / "images.pth")
    project(evaluation_main, *both, tmp_path / "images.pth").fails_with("those of", "images.pth differ")
    content["meta"]["config"] = content["meta"]["config"].replace("SEED: 1", "SEED: 0")
    content["meta"]["config"] = content["meta"]["config"].replace("IMAGE_SIZE: 32", "IMAGE_SIZE: 40")
    torch.save(content, tmp_path / "size.pth")
    project(evaluation_main, *both, tmp_path / "size.pth").fails_with(
        "DATASET.IMAGE_SIZE of", "is 32 and 40", "type DATASET.IMAGE_SIZE"
    )
    assert project(evaluation_main, *both, tmp_path / "size.pth", "DATASET.IMAGE_SIZE", 40).status == 0, project.err


def test_agreement_without_any_teacher_is_one_line_after_the_table(project):
    teacher = next(project.utils.glob("model_pth/*/best.pth"))
    run = project(evaluation_main, "--checkpoint", teacher, "--agreement")
    assert run.status == 2 and "had a teacher" in run.err and run.out.startswith("dataset")


def test_one_view_is_the_network_itself(students, data):
    network, cfg = load_student(students[0]).network, CFG.clone()
    cfg.DATASET.TYPE = "synthetic"
    assert evaluate(network, data.test) == evaluate(viewed(network, ONE_VIEW, cfg, data), data.test)
    assert evaluate(network, data.test) != evaluate(viewed(network, FLIP, cfg, data), data.test)
