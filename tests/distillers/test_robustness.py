"""Losses and gradients stay finite in float32 where a formula could divide by zero or overflow."""

import pytest
import torch
from torch import nn

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.distillers._logit import LogitDistiller
from mdistiller.engine.cfg import CFG

# SDD's logits are those of regions of the last map.
LOGIT_METHODS = [name for name, method in DISTILLERS.items() if issubclass(method, LogitDistiller) and name != "SDD"]


class FixedLogits(nn.Module):
    """A network whose logits are its only parameter."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self, image):
        return self.logits, {}


def losses_and_gradient(method, logits_student, logits_teacher, cfg=CFG):
    student = FixedLogits(logits_student)
    distiller = build_distiller(method, student, FixedLogits(logits_teacher), cfg).train()
    target = torch.arange(len(logits_student)) % logits_student.shape[1]
    _, losses = distiller(image=torch.zeros(len(logits_student)), target=target, epoch=30)
    sum(losses.values()).backward()
    return losses, student.logits.grad


def assert_finite(losses, gradient):
    assert all(loss.isfinite() for loss in losses.values()), losses
    assert gradient.isfinite().all()


def random_logits(batch, seed, scale=3.0):
    return scale * torch.randn(batch, 100, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("method", LOGIT_METHODS)
def test_student_equal_to_the_teacher(method):
    logits = random_logits(16, 0)
    assert_finite(*losses_and_gradient(method, logits, logits))


@pytest.mark.parametrize("method", LOGIT_METHODS)
def test_logits_of_plus_and_minus_ten_thousand(method):
    signs = [torch.where(random_logits(16, seed) > 0, 1e4, -1e4) for seed in (0, 1)]
    assert_finite(*losses_and_gradient(method, *signs))


@pytest.mark.parametrize("method", LOGIT_METHODS)
def test_batch_of_one_image(method):
    assert_finite(*losses_and_gradient(method, random_logits(1, 0), random_logits(1, 1)))


@pytest.mark.parametrize("method", LOGIT_METHODS)
def test_logits_that_are_all_zero(method):
    assert_finite(*losses_and_gradient(method, torch.zeros(4, 100), torch.zeros(4, 100)))


@pytest.mark.parametrize("method", LOGIT_METHODS)
def test_half_precision_logits_give_the_losses_of_float32_under_autocast(method):
    logits = [random_logits(16, seed).bfloat16() for seed in (0, 1)]
    expected, _ = losses_and_gradient(method, *(z.float() for z in logits))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, gradient = losses_and_gradient(method, *logits)
    assert_finite(losses, gradient)
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected[name])


def test_clamped_dkd_has_gradients_at_extreme_logits():
    cfg = CFG.clone()
    cfg.DKD.CLAMP = 10.0
    assert_finite(*losses_and_gradient("DKD", random_logits(8, 0, 1e4), random_logits(8, 1, 1e4), cfg))
