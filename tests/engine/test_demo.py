"""The embedded default, shortened."""

import shlex
from pathlib import Path

import pytest

from mdistiller.engine.cli import distillation_main, evaluation_main
from mdistiller.engine.runs import PROJECT
from tests.engine.conftest import TINY
from tools import plot


def test_demo_ends_with_three_accuracies_and_four_commands(script):
    assert script(distillation_main, "--demo", *TINY).status == 0, script.err
    lines = script.out.replace("\\\n", "").splitlines()
    teacher, alone, distilled, _, repeat, evaluate, tensorboard, curves = lines[-8:]
    assert teacher.startswith("teacher ") and alone.startswith("student alone ")
    assert distilled.startswith("student distilled by SKD ")
    assert all("top-1 " in line for line in (teacher, alone, distilled))
    assert repeat.startswith("Repeat: ")
    assert script(evaluation_main, *evaluate.split()[3:]).status == 0, script.err
    assert len(list(Path(tensorboard.split()[-1]).iterdir())) == 3
    pytest.importorskip("matplotlib")
    plot.main(PROJECT, shlex.split(curves)[3:])
    assert Path(curves.split()[-1]).read_text().count("<svg") == 1


def test_demo_keeps_its_teacher_apart_and_trains_it_once(script):
    script(distillation_main, "--demo", *TINY)
    assert not list(script.utils.glob("model_pth/best_model_weights_*.pth"))
    runs = set(script.utils.glob("model_pth/demo/*/"))
    script(distillation_main, "--demo", *TINY)
    (new,) = set(script.utils.glob("model_pth/demo/*/")) - runs  # the student alone
    assert len(runs) == 2 and new.is_dir()


def test_demo_trains_another_teacher_for_other_settings(script):
    script(distillation_main, "--demo", *TINY)
    script(distillation_main, "--demo", *TINY, "SOLVER.EPOCHS", "1")
    assert len(list(script.utils.glob("model_pth/demo/*/"))) == 4


def test_demos_of_two_sizes_keep_a_teacher_each(script):
    larger = [*TINY, "DATASET.SYNTHETIC.TRAIN_IMAGES", "64"]
    script(distillation_main, "--demo", *TINY)
    script(distillation_main, "--demo", *larger)
    script(distillation_main, "--demo", *TINY)
    before = set(script.utils.glob("model_pth/demo/*/"))
    script(distillation_main, "--demo", *larger)
    assert len(set(script.utils.glob("model_pth/demo/*/")) - before) == 1  # the student alone, not the teacher
