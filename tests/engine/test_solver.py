"""The schedule of the learning rate against torch's own, and settings of SOLVER that cannot be together."""

import pytest
import torch
from torch.optim import lr_scheduler

from mdistiller.engine.cfg import CFG, merge_pairs
from mdistiller.engine.cli import training_main
from mdistiller.engine.solver import learning_rate
from tests.engine.conftest import TINY

EPOCHS = 20


def rates(text=""):
    cfg = CFG.clone()
    merge_pairs(cfg, f"SOLVER.EPOCHS {EPOCHS} SOLVER.LR 0.1 SOLVER.LR_DECAY_STAGES [8,15] {text}".split())
    return [learning_rate(cfg.SOLVER, epoch) for epoch in range(1, EPOCHS + 1)]


def rates_of(make):
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.1)
    scheduler, found = make(optimizer), []
    for _ in range(EPOCHS):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_steps_are_torch_s():
    assert rates() == pytest.approx(rates_of(lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [8, 15])))


def test_a_cosine_is_torch_s():
    expected = rates_of(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS))
    assert rates("SOLVER.SCHEDULER cosine") == pytest.approx(expected)


@pytest.mark.parametrize("scheduler", ["step", "cosine"])
@pytest.mark.parametrize("warm_up", [1, 5])
def test_a_warm_up_is_torch_s_and_the_schedule_then_where_it_would_be(scheduler, warm_up):
    def make(optimizer):
        return lr_scheduler.LinearLR(optimizer, 1 / (warm_up + 1), total_iters=warm_up)

    found = rates(f"SOLVER.SCHEDULER {scheduler} SOLVER.WARMUP_EPOCHS {warm_up}")
    assert found[:warm_up] == pytest.approx(rates_of(make)[:warm_up])
    assert found[warm_up:] == rates(f"SOLVER.SCHEDULER {scheduler}")[warm_up:]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ("SOLVER.TYPE AdamW SOLVER.TRAINER dot", ["AdamW", "SOLVER.TRAINER dot", "leave one out"]),
        ("SOLVER.ACCUMULATE 2 SOLVER.SKIP_NONFINITE 1", ["SKIP_NONFINITE", "ACCUMULATE", "leave one out"]),
        ("SOLVER.WARMUP_EPOCHS 2", ["SOLVER.WARMUP_EPOCHS is 2", "fewer than the 2 of SOLVER.EPOCHS"]),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(script, settings, parts):
    script(training_main, "--selected_model", "resnet8", *TINY, *settings.split()).fails_with(*parts)
