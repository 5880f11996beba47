"""SGD and DOT against literal transcriptions of their update rules."""

import pytest
import torch

from mdistiller.engine.cfg import CFG, merge_pairs
from mdistiller.engine.cli import distillation_main
from mdistiller.engine.optim import DOT, TwoGradientMinimiser, build_minimiser
from tests.engine.conftest import TINY


def losses_of(weight):
    return {"loss_ce": (weight**2).sum(), "loss_kd": (weight**3).sum(), "loss_bc": 2 * weight.sum()}


def minimise(optimizer, losses):
    optimizer.backward(losses)
    optimizer.step()


def test_dot_follows_the_papers_update():
    lr, momentum, decay, delta = 0.01, 0.9, 5e-4, 0.075
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = TwoGradientMinimiser(DOT([weight], lr, momentum, decay, delta))
    values, v_ce, v_kd = [1.0, -2.0], [0.0, 0.0], [0.0, 0.0]
    for _ in range(4):
        minimise(optimizer, losses_of(weight))
        for i, w in enumerate(values):
            v_ce[i] = (momentum - delta) * v_ce[i] + 2 * w + decay * w
            v_kd[i] = (momentum + delta) * v_kd[i] + 3 * w * w + 2
            values[i] = w - lr * (v_ce[i] + v_kd[i])
    assert weight.tolist() == pytest.approx(values, rel=1e-12)


def test_dot_moves_what_only_the_task_reaches_as_sgd():
    def trained(kind):
        weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        rest = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
        cfg = CFG.clone()
        merge_pairs(cfg, ["SOLVER.TRAINER", kind, "SOLVER.WEIGHT_DECAY", "0.01"])
        optimizer = build_minimiser(cfg.SOLVER, [weight, rest])
        for _ in range(4):
            minimise(optimizer, {"loss_ce": (weight**2).sum(), "loss_kd": rest.sum()})
        return weight.tolist()

    assert trained("dot") == pytest.approx(trained("base"), rel=1e-12)


def test_dot_without_delta_is_sgd():
    def trained(trainer):
        cfg = CFG.clone()
        merge_pairs(cfg, ["SOLVER.TRAINER", trainer, "SOLVER.DOT.DELTA", "0"])
        weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        optimizer = build_minimiser(cfg.SOLVER, [weight])
        for _ in range(4):
            minimise(optimizer, losses_of(weight))
        return weight.tolist()

    assert trained("dot") == pytest.approx(trained("base"), rel=1e-12)


def test_dot_trains_a_distiller(script):
    assert script(distillation_main, "--demo", *TINY, "SOLVER.TRAINER", "dot").status == 0, script.err
