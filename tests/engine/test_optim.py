"""SGD against plain PyTorch, DOT against a literal transcription of its update rule."""

import copy

import pytest
import torch
from torch import nn

from mdistiller.engine.cfg import CFG, merge_pairs
from mdistiller.engine.cli import distillation_main
from mdistiller.engine.optim import DOT, TwoGradientMinimiser, WeightAverage, build_minimiser
from mdistiller.engine.precision import compile_network
from tests.engine.conftest import TINY


def losses_of(weight):
    return {"loss_ce": (weight**2).sum(), "loss_kd": (weight**3).sum(), "loss_bc": 2 * weight.sum()}


def minimise(optimizer, losses):
    optimizer.backward(losses)
    optimizer.step()


def solver(text):
    cfg = CFG.clone()
    merge_pairs(cfg, text.split())
    return cfg.SOLVER


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 5)).double()


def losses_of_batch(network, step):
    generator = torch.Generator().manual_seed(step)
    image = torch.randn(8, 3, 5, 5, generator=generator, dtype=next(network.parameters()).dtype)
    target = torch.randint(5, (8,), generator=generator)
    return {"loss_ce": 5 * nn.functional.cross_entropy(network(image), target)}


@pytest.mark.parametrize("decays_norms", [True, False])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("max_norm", [0.0, 0.5])
def test_sgd_is_plain_pytorch_s(network, decays_norms, nesterov, max_norm):
    plain = copy.deepcopy(network)
    settings = f"SOLVER.NESTEROV {nesterov} SOLVER.NO_DECAY_NORMS {not decays_norms} SOLVER.CLIP_GRAD {max_norm}"
    optimizer = build_minimiser(solver(f"SOLVER.WEIGHT_DECAY 0.1 {settings}"), network.parameters())
    groups = [
        {"params": [plain[0].weight, plain[3].weight]},
        {"params": [plain[0].bias, *plain[1].parameters(), plain[3].bias]},
    ]
    if not decays_norms:
        groups[1]["weight_decay"] = 0.0
    expected = torch.optim.SGD(groups, 0.05, momentum=0.9, weight_decay=0.1, nesterov=nesterov)
    for step in range(4):
        optimizer.lr = 0.05 / (step + 1)
        for group in expected.param_groups:
            group["lr"] = 0.05 / (step + 1)
        minimise(optimizer, losses_of_batch(network, step))
        expected.zero_grad()
        losses_of_batch(plain, step)["loss_ce"].backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), max_norm or torch.inf)
        assert norm > 0.5
        expected.step()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "words",
    ["SOLVER.NESTEROV True SOLVER.NO_DECAY_NORMS True", "SOLVER.TYPE AdamW SOLVER.LR 0.01"],
    ids=["SGD", "AdamW"],
)
def test_a_scaled_gradient_is_clipped_as_it_is_without_the_scale(network, words):
    network.float()
    plain = copy.deepcopy(network)
    settings = solver(f"SOLVER.CLIP_GRAD 0.5 {words}")
    scaled = build_minimiser(settings, network.parameters(), torch.amp.GradScaler("cpu"))
    unscaled = build_minimiser(settings, plain.parameters())
    for step in range(3):
        minimise(scaled, losses_of_batch(network, step))
        minimise(unscaled, losses_of_batch(plain, step))
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_clipped_step_of_fp16_that_overflows_is_skipped(network):
    before = copy.deepcopy(network.float())
    optimizer = build_minimiser(solver("SOLVER.CLIP_GRAD 0.5"), network.parameters(), torch.amp.GradScaler("cpu"))
    minimise(optimizer, {"loss_ce": losses_of_batch(network, 0)["loss_ce"] * torch.inf})
    for ours, kept in zip(network.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(ours, kept, rtol=0, atol=0)


def test_all_groups_come_back_from_a_state_dict(network):
    other = copy.deepcopy(network)
    settings = solver("SOLVER.NO_DECAY_NORMS True SOLVER.NESTEROV True")
    optimizer = build_minimiser(settings, network.parameters())
    minimise(optimizer, losses_of_batch(network, 0))
    again = build_minimiser(settings, other.parameters())
    other.load_state_dict(network.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    minimise(optimizer, losses_of_batch(network, 1))
    minimise(again, losses_of_batch(other, 1))
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_dot_leaves_norms_and_biases_without_weight_decay(network):
    settings = solver("SOLVER.TRAINER dot SOLVER.NO_DECAY_NORMS True SOLVER.WEIGHT_DECAY 1e3 SOLVER.LR 1e-3")
    before = copy.deepcopy(network)
    minimise(build_minimiser(settings, network.parameters()), losses_of_batch(network, 0))
    moved = [(p - q).abs().max() for p, q in zip(network.parameters(), before.parameters(), strict=True)]
    large = [bool(change > 0.1) for change in moved]
    assert large == [p.ndim > 1 for p in network.parameters()]


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ("SOLVER.NESTEROV True SOLVER.TRAINER dot", ["SOLVER.NESTEROV has no effect", "dot"]),
        ("SOLVER.CLIP_GRAD 5 SOLVER.TRAINER dot", ["SOLVER.CLIP_GRAD", "dot has two"]),
        ("SOLVER.NESTEROV True SOLVER.MOMENTUM 0", ["SOLVER.NESTEROV has no effect with SOLVER.MOMENTUM 0"]),
        ("SOLVER.NO_DECAY_NORMS True SOLVER.WEIGHT_DECAY 0", ["SOLVER.NO_DECAY_NORMS has no effect"]),
        ("SOLVER.CLIP_GRAD -1", ["SOLVER.CLIP_GRAD is -1"]),
        ("SOLVER.NESTEROV 3", ["SOLVER.NESTEROV"]),
    ],
)
def test_settings_that_do_not_go_together_are_one_line(script, settings, parts):
    script(distillation_main, "--demo", *TINY, *settings.split()).fails_with(*parts)


def test_all_settings_train_a_distiller(script):
    settings = "SOLVER.NESTEROV True SOLVER.NO_DECAY_NORMS True SOLVER.CLIP_GRAD 5 SOLVER.AMP fp16".split()
    assert script(distillation_main, "--demo", *TINY, *settings).status == 0, script.err


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


@pytest.mark.parametrize("trainer", ["base", "dot"])
def test_gradients_add_up_until_the_step(trainer):
    def trained(parts):
        weight = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
        cfg = CFG.clone()
        merge_pairs(cfg, ["SOLVER.TRAINER", trainer])
        optimizer = build_minimiser(cfg.SOLVER, [weight])
        for _ in range(3):
            for _ in range(parts):
                optimizer.backward({name: loss / parts for name, loss in losses_of(weight).items()})
            optimizer.step()
        return weight.tolist()

    assert trained(4) == pytest.approx(trained(1), rel=1e-12)


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


@pytest.mark.parametrize("decays_norms", [True, False])
@pytest.mark.parametrize("max_norm", [0.0, 0.5])
def test_adamw_is_plain_pytorch_s(network, decays_norms, max_norm):
    plain = copy.deepcopy(network)
    settings = f"SOLVER.TYPE AdamW SOLVER.LR 0.01 SOLVER.NO_DECAY_NORMS {not decays_norms} SOLVER.CLIP_GRAD {max_norm}"
    optimizer = build_minimiser(solver(f"SOLVER.WEIGHT_DECAY 0.1 {settings}"), network.parameters())
    groups = [
        {"params": [plain[0].weight, plain[3].weight]},
        {"params": [plain[0].bias, *plain[1].parameters(), plain[3].bias]},
    ]
    if not decays_norms:
        groups[1]["weight_decay"] = 0.0
    expected = torch.optim.AdamW(groups, 0.01, (0.9, 0.999), weight_decay=0.1, foreach=False)
    for step in range(4):
        minimise(optimizer, losses_of_batch(network, step))
        expected.zero_grad()
        losses_of_batch(plain, step)["loss_ce"].backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), max_norm or torch.inf)
        expected.step()
    for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)  # Adam enlarges what rounds to 0


@pytest.mark.parametrize("settings", ["SOLVER.TYPE AdamW", "SOLVER.TRAINER dot", "SOLVER.TRAINER base"])
def test_gradients_of_which_no_step_is_made_come_back_from_a_state_dict(network, settings):
    other = copy.deepcopy(network)
    optimizer, again = (build_minimiser(solver(settings), each.parameters()) for each in (network, other))
    optimizer.backward(losses_of_batch(network, 0))
    other.load_state_dict(network.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    minimise(optimizer, losses_of_batch(network, 1))
    minimise(again, losses_of_batch(other, 1))
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_an_average_of_weights_follows_them_and_the_statistics_by_its_decay(network):
    average, decay = WeightAverage(network, 0.8), 0.8
    expected = None
    for step in range(4):
        losses_of_batch(network, step)
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(1.5)
        average.update_parameters(network)
        values = {k: v.clone() for k, v in network.state_dict().items() if v.is_floating_point()}
        before = expected or values
        expected = {k: decay * before[k] + (1 - decay) * v for k, v in values.items()}
    found = {k: v for k, v in average.module.state_dict().items() if v.is_floating_point()}
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_the_average_of_a_compiled_network_computes_by_its_own_weights(monkeypatch, network):
    monkeypatch.setattr(torch, "compile", lambda forward, **_: forward)
    compile_network(network)
    average = WeightAverage(network.eval(), 0.5)
    image = torch.ones(2, 3, 5, 5, dtype=torch.float64)
    before = average.module(image)
    with torch.no_grad():
        network[3].bias.add_(1)
    torch.testing.assert_close(average.module(image), before)
