"""Runs of distiller files: their keys, their settings, and their mistakes."""

import pytest
import torch
import yaml

from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main, evaluation_main
from mdistiller.models import build_model
from tests.engine.conftest import TINY

SOURCE = """
import torch.nn.functional as F

from ._base import Distiller


class DKD(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)
        self.is_standardised = cfg.EXPERIMENT.get("LOGIT_STAND", False)
        self.decay = cfg.SOLVER.QUEUE.DECAY if "QUEUE" in cfg.SOLVER else 0
        self.alpha = cfg.DKD.ALPHA

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        return logits, {"loss_ce": F.cross_entropy(logits, target), "alpha": self.alpha, "is": self.is_standardised}
"""


@pytest.fixture
def train(script, tmp_path):
    """Runs the file's DKD with further arguments."""
    (tmp_path / "dkd.py").write_text(SOURCE)
    torch.save(build_model("cifar100", "resnet8", 36).state_dict(), tmp_path / "teacher.pth")
    chosen = "--selected_student", "resnet8", "--selected_teacher", "resnet8"
    file = "--distiller", f"{tmp_path}/dkd.py:DKD", "--teacher_weights", tmp_path / "teacher.pth"
    tiny = [*TINY, "DATASET.SYNTHETIC.TEST_IMAGES", "36", "SOLVER.EPOCHS", "1"]
    return lambda *arguments: script(distillation_main, *chosen, *file, *tiny, *arguments)


def row_of(script):
    (metrics,) = script.utils.glob("distiller_train_log/*/metrics.csv")
    return dict(zip(*(line.split(",") for line in metrics.read_text().splitlines()), strict=True))


def test_a_file_may_bring_keys_of_known_sections_and_its_student_is_evaluated(train):
    script = train("EXPERIMENT.LOGIT_STAND", "True", "SOLVER.QUEUE.DECAY", "0.9")
    assert script.status == 0, script.err
    assert float(row_of(script)["is"]) == 1.0
    assert script(evaluation_main).status == 0 and "DKD" in script.out


def test_a_file_may_bring_keys_in_a_config_too(train, tmp_path):
    (tmp_path / "c.yaml").write_text("EXPERIMENT: {LOGIT_STAND: true}\nDKD: {ALPHA: 3.0}\n")
    script = train("--cfg", tmp_path / "c.yaml")
    assert "Settings: from" in script.out and "c.yaml" in script.out, script.err
    assert float(row_of(script)["alpha"]) == 3.0 and float(row_of(script)["is"]) == 1.0


def test_a_file_has_defaults_and_no_preset_by_its_class_s_name(train):
    script = train("--print_cfg")
    assert yaml.safe_load(script.out)["SOLVER"]["EPOCHS"] == 1
    assert [yaml.safe_load(script.out).get("DKD", CFG.DKD)[key] for key in ("ALPHA", "BETA")] == [1.0, 8.0]
    assert "Settings: defaults" in train().out


@pytest.mark.parametrize(
    ("pair", "nearest"),
    [
        (("SOLVER.EPOCH", "3"), "SOLVER.EPOCHS"),
        (("SOLVR.EPOCHS", "3"), "SOLVER"),
        (("DKD.ALPHAS", "3"), "DKD.ALPHA"),
    ],
)
def test_a_key_that_the_file_does_not_mention_is_a_slip(train, pair, nearest):
    train(*pair).fails_with("unknown config key", f"nearest: '{nearest}'")


def test_a_slip_in_a_config_is_one_too(train, tmp_path):
    (tmp_path / "c.yaml").write_text("SOLVER: {EPOCH: 3}\n")
    train("--cfg", tmp_path / "c.yaml").fails_with("SOLVER.EPOCH", "nearest: 'SOLVER.EPOCHS'")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("return logits,", "return", "returns no (logits, losses)"),
        ("logits, _ = self", "x = {}['nope']\n        logits, _ = self", "dkd.py, line 15"),
        ("class DKD(Distiller):", "class DKD(Distiller):\n    defaults = 3\n", "defaults are no section"),
        ("class DKD(Distiller):", "class DKD(Distiller):\n    defaults = {'A': F}\n", "defaults are no section"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(train, tmp_path, old, new, message):
    (tmp_path / "dkd.py").write_text(SOURCE.replace(old, new))
    train().fails_with(message)


@pytest.mark.parametrize("name", ["lr", "epoch", "test_loss"])
def test_a_loss_may_be_called_as_a_column_is(train, tmp_path, name):
    (tmp_path / "dkd.py").write_text(SOURCE.replace('"alpha"', f'"{name}"'))
    script = train("DKD.ALPHA", "7")
    assert script.status == 0, script.err
    assert float(row_of(script)[f"loss_{name}"]) == 7.0 and row_of(script)["epoch"] == "1"


@pytest.mark.parametrize(("old", "new"), [("", ""), ('"loss_ce": F', '"loss_ce": 0.0, "b": F')])
def test_a_term_that_is_a_number_has_no_part_in_dot(train, tmp_path, old, new):
    (tmp_path / "dkd.py").write_text(SOURCE.replace(old, new) if old else SOURCE)
    assert train("SOLVER.TRAINER", "dot").status == 0


ITS_LOSSES = """
from mdistiller.distillers import Distiller


class Own(Distiller):
    def __init__(self, student, teacher, cfg):
        super().__init__(student, teacher)

    def losses(self, student, teacher, target, **kwargs):
        return {"loss_kd": (student.logits - teacher.logits).square().mean()}
"""


def test_labels_are_smoothed_for_a_file_without_a_cross_entropy_of_its_own(train, tmp_path):
    (tmp_path / "dkd.py").write_text(ITS_LOSSES.replace("Own", "DKD"))
    found = [float(row_of(train())["loss_ce"])]
    for folder in train().utils.glob("distiller_train_log/*/"):
        (folder / "metrics.csv").unlink()
    found.append(float(row_of(train("SOLVER.LABEL_SMOOTHING", "0.5"))["loss_ce"]))
    assert found[0] != found[1]


def test_a_file_with_a_cross_entropy_of_its_own_refuses_smoothed_labels(train):
    train("SOLVER.LABEL_SMOOTHING", "0.1").fails_with("LABEL_SMOOTHING has no effect on DKD", "its own cross-entropy")


def test_a_file_takes_images_of_one_class(train):
    train("DATASET.MIXUP", "0.2").fails_with("DATASET.MIXUP gives an image two classes", "DKD asks for one", "KD, ")
