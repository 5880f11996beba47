"""A training script without flags says what it would run, and starts nothing."""

import pytest

from mdistiller.engine import overview, teachers
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100, IMAGENET
from tests.engine.conftest import Script
from tests.engine.test_cli import save_teacher


@pytest.mark.parametrize("benchmark", [CIFAR100, IMAGENET], ids=lambda benchmark: benchmark.label)
@pytest.mark.parametrize("main", [distillation_main, training_main])
def test_it_is_short_and_starts_nothing(tmp_path, monkeypatch, benchmark, main):
    script = Script(tmp_path, benchmark)
    monkeypatch.chdir(tmp_path)
    assert script(main).status == 0 and not script.err
    lines = script.out.splitlines()
    assert len(lines) <= 16 and max(map(len, lines)) <= 100
    assert "--help" in script.out and "--list" in script.out and "Start: " in script.out
    assert not list(script.utils.iterdir())


def test_it_names_what_is_missing_and_how_to_get_it(script):
    text = " ".join(script(distillation_main).out.replace("\\\n", "").split())
    assert "resnet32 taught by resnet32x4" in text and "240 epochs in batches of 64" in text
    assert "teachers.py fetch resnet32x4" in text and "train.py --selected_model resnet32x4" in text
    assert "--demo" in text


def test_it_names_a_teacher_that_is_there(script):
    path = save_teacher(script.utils / "model_pth/best_model_weights_resnet32x4.pth", 100, "resnet32x4")
    text = script(distillation_main).out
    assert "Teacher:     weights of resnet32x4 in " in text and path.name in text and "fetch" not in text


def test_it_says_whether_the_images_are_there(script, tmp_path, monkeypatch):
    monkeypatch.setattr(overview, "shown", str)
    cfg = overview.CN({"DATASET": {"TYPE": "cifar100", "ROOT": str(tmp_path)}})
    assert overview.where_data_is(cfg).endswith(", downloaded there on first use")
    (tmp_path / "cifar-100-python").mkdir()
    assert not overview.where_data_is(cfg).endswith("first use")


def test_a_missing_teacher_can_be_fetched(monkeypatch):
    cfg = overview.CN({"DATASET": {"TYPE": "cifar100"}, "DISTILLER": {"TEACHER": "vgg13"}})
    assert teachers.fetching_command(cfg).endswith("tools/teachers.py fetch vgg13")
    cfg.DISTILLER.TEACHER = "vgg8"
    assert not teachers.fetching_command(cfg)


@pytest.mark.parametrize("main", [distillation_main, training_main, evaluation_main])
def test_help_has_its_flags_in_four_groups(script, main):
    with pytest.raises(SystemExit):
        script(main, "--help")
    lines = script.out.getvalue().splitlines()
    assert [line for line in lines if line in ("choose:", "run:", "device:", "look:")] == [
        *("choose:", "run:", "device:", "look:")
    ]
    assert not any(line.startswith(("options:", "positional")) for line in lines)
