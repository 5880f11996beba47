"""The initial stage of a method in a run: its solver, what it reports, and what it leaves to the student's epochs."""

import csv
import itertools
import re

import pytest
import torch

from mdistiller.engine import trainer as trainer_module
from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main
from mdistiller.engine.signals import Stopped
from mdistiller.engine.solver import initial_solver, learning_rate
from mdistiller.models import build_model
from tests.engine.conftest import TINY

PAIR = "--selected_student resnet8 --selected_teacher resnet8 --selected_distiller".split()


def train(script, method, *pairs):
    teacher = script.utils / "teacher.pth"
    if not teacher.exists():
        torch.manual_seed(0)
        torch.save(build_model("cifar100", "resnet8", 36).state_dict(), teacher)
    sizes = [f"{method}.INITIAL.EPOCHS", "2", "SOLVER.EPOCHS", "1"]
    return script(distillation_main, *PAIR, method, "--teacher_weights", teacher, *TINY, *sizes, *pairs)


def rows_of(script):
    (path,) = script.utils.glob("*_log/*/metrics.csv")
    with path.open() as file:
        return list(csv.DictReader(file))


def state_of(script):
    (path,) = script.utils.glob("model_distillation_pth/*/last.pth")
    return torch.load(path, weights_only=True)["training"]


def test_the_solver_of_an_initial_stage_is_that_of_the_run_but_for_its_own_settings():
    solver = CFG.SOLVER.clone()
    solver.SCHEDULER, solver.WARMUP_EPOCHS, solver.TRAINER, solver.LR = "cosine", 3, "dot", 0.2
    initial = CFG.SSKD.INITIAL.clone()
    own = initial_solver(solver, initial)
    assert [learning_rate(own, epoch) for epoch in (1, 30, 31, 46)] == pytest.approx([0.05, 0.05, 5e-3, 5e-4])
    assert (own.EPOCHS, own.TRAINER, own.MOMENTUM, solver.LR) == (60, "base", solver.MOMENTUM, 0.2)
    initial.LR, initial.LR_DECAY_STAGES = 0.0, []
    assert learning_rate(initial_solver(solver, initial), 60) == 0.2


def test_the_log_and_metrics_tell_of_the_initial_stage_first(script):
    assert train(script, "FT", "FT.INITIAL.LR", "0.02").status == 0, script.err
    lines = [line.partition(" - ")[2] for line in script.out.splitlines()]
    assert "Training:  2 + 1 epoch, batch 16, augmentation weak, seed 2021" in lines
    expected = [
        *("Initial Stage: 1 / 2", r"Initial Loss: \d+\.\d{4}", r"Initial epoch 1 took .* left"),
        *("Initial Stage: 2 / 2", r"Initial Loss: \d+\.\d{4}", r"Initial epoch 2 took .* left"),
        *("Epoch: 1 / 1", "Train Loss: .*", "Test Loss: .*", "Epoch 1 took .*second"),
    ]
    told = lines[lines.index("Initial Stage: 1 / 2") :]
    assert all(re.fullmatch(pattern, line) for pattern, line in zip(expected, told, strict=False)), told
    rows = rows_of(script)
    assert [row["epoch"] for row in rows] == ["-1", "0", "1"]
    assert [float(row["lr"]) for row in rows] == pytest.approx([0.02, 0.02, 0.05])
    assert [bool(row["loss_initial"]) for row in rows] == [bool(row["train_loss"] == "") for row in rows]
    assert [row["test_top1"] == "" for row in rows] == [True, True, False]


def test_each_stage_trains_its_own_parameters(script, monkeypatch):
    found = []
    judge = trainer_module.Trainer.judge_epoch

    def remember(self):
        found.append({key: value.clone() for key, value in self.distiller.state_dict().items()})
        judge(self)

    monkeypatch.setattr(trainer_module.Trainer, "judge_epoch", remember)
    assert train(script, "FT").status == 0, script.err
    moved = [
        {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        for before, after in itertools.pairwise(found)
    ]
    assert moved == [{"paraphraser", "decoder"}, {"student", "translator"}]


def test_averages_of_weights_begin_with_the_student_s_own_epochs(script):
    assert train(script, "AB", "SOLVER.EMA", "0.5").status == 0, script.err
    assert state_of(script)["average"]["n_averaged"] == 3  # steps of the one epoch


def test_dot_waits_for_the_student_s_own_epochs(script):
    assert train(script, "AB", "SOLVER.TRAINER", "dot").status == 0, script.err
    (state, *_) = state_of(script)["optimizer"]["optimizer"]["state"].values()
    assert "v_ce" in state


def test_without_its_initial_stage_a_method_trains_at_once(script):
    assert train(script, "FSP", "FSP.INITIAL.EPOCHS", "0").status == 0, script.err
    assert "Initial" not in script.out and [row["epoch"] for row in rows_of(script)] == ["1"]


def test_a_run_that_is_stopped_in_its_initial_stage_says_so_and_goes_on(script, monkeypatch):
    step = trainer_module.Trainer.train_step
    steps = 0

    def stop(self, batch):
        nonlocal steps
        step(self, batch)
        steps += 1
        if steps == 5:
            raise Stopped(15)

    monkeypatch.setattr(trainer_module.Trainer, "train_step", stop)
    assert train(script, "FT").status == 128 + 15
    assert "in initial epoch 2; 2 of its 3 steps are kept in " in script.err
    assert script(distillation_main, "--resume").status == 0, script.err
    assert "Resumed in initial epoch 2 after 2 of 3 steps =====" in script.out
    assert [row["epoch"] for row in rows_of(script)] == ["-1", "0", "1"]
