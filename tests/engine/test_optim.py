"""SGD and DOT against literal transcriptions of their update rules."""

import pytest
import torch

from mdistiller.engine.cfg import CFG, merge_pairs
from mdistiller.engine.cli import distillation_main
from mdistiller.engine.optim import DOT, TwoGradientMinimiser, build_minimiser
from tests.engine.conftest import TINY


def losses_of(weight, other):
    return {"loss_ce": (weight**2).sum(), "loss_kd": (weight**3).sum() + (other**2).sum(), "loss_bc": 2 * weight.sum()}


def minimise(optimizer, losses):
    optimizer.backward(losses)
    optimizer.step()


def test_dot_follows_the_papers_update():
    lr, momentum, decay, delta = 0.01, 0.9, 5e-4, 0.075
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)  # which the task does not reach
    optimizer = TwoGradientMinimiser(DOT([weight, other], lr, momentum, decay, delta))
    values = [[1.0, -2.0], [3.0]]
    v_ce, v_kd = [[0.0, 0.0], [0.0]], [[0.0, 0.0], [0.0]]
    for _ in range(4):
        minimise(optimizer, losses_of(weight, other))
        for k, group in enumerate(values):
            for i, w in enumerate(group):
                g_ce = 2 * w if k == 0 else 0.0
                g_kd = 3 * w * w + 2 if k == 0 else 2 * w
                v_ce[k][i] = (momentum - delta) * v_ce[k][i] + g_ce + decay * w
                v_kd[k][i] = (momentum + delta) * v_kd[k][i] + g_kd
                group[i] = w - lr * (v_ce[k][i] + v_kd[k][i])
    assert [*weight.tolist(), *other.tolist()] == pytest.approx([*values[0], *values[1]], rel=1e-12)


def test_dot_without_delta_is_sgd():
    def trained(trainer):
        cfg = CFG.clone()
        merge_pairs(cfg, ["SOLVER.TRAINER", trainer, "SOLVER.DOT.DELTA", "0"])
        weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        other = torch.tensor([3.0], dtype=torch.float64, requires_grad=True)
        optimizer = build_minimiser(cfg.SOLVER, [weight, other])
        for _ in range(4):
            minimise(optimizer, losses_of(weight, other))
        return [*weight.tolist(), *other.tolist()]

    assert trained("dot") == pytest.approx(trained("base"), rel=1e-12)


def test_dot_trains_a_distiller(script):
    assert script(distillation_main, "--demo", *TINY, "SOLVER.TRAINER", "dot").status == 0, script.err
