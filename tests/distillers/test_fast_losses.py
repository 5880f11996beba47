"""The losses that have a plain form in `references.py`: equal to it, and sound in float32 and on degenerate inputs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mdistiller.distillers import _kernels
from mdistiller.distillers.NST import nst_loss
from mdistiller.distillers.RKD import angle_loss
from mdistiller.distillers.SKD import direction_loss
from tests.distillers.references import angle_loss_reference, direction_loss_reference, nst_loss_reference


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss_and_gradients(loss, student, teacher, *settings):
    student, teacher = (x.detach().clone().requires_grad_() for x in (student, teacher))
    value = loss(student, teacher, *settings)
    return value.detach(), *torch.autograd.grad(3 * value, (student, teacher))


def relative_errors(results, expected):
    """Of the loss and of both gradients, as a share of their norms, beyond the rounding of a zero."""
    return [((a.double() - b).norm() / (b.norm() + 1e-6)).item() for a, b in zip(results, expected, strict=True)]


def assert_equal(fast, plain, *inputs):
    results, expected = (loss_and_gradients(loss, *inputs) for loss in (fast, plain))
    assert max(relative_errors(results, expected)) < 1e-8


def assert_sound(fast, *inputs):
    results = loss_and_gradients(fast, *inputs)
    assert all(result.isfinite().all() for result in results)
    return results


SKD_SHAPES = [(2, 2), (2, 7), (3, 2), (8, 2), (9, 2), (17, 4), (33, 100), (64, 10), (101, 25), (130, 100)]


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize("shape", SKD_SHAPES, ids=str)
def test_direction_loss_equals_the_plain_form(shape, scale):
    assert_equal(direction_loss, direction_loss_reference, normal(*shape, seed=0), normal(*shape, seed=1), 0.1, scale)


def test_direction_loss_of_one_image_is_zero():
    student, teacher = normal(1, 5, seed=0), normal(1, 5, seed=1)
    value, *gradients = assert_sound(direction_loss, student, teacher, 0.1)
    assert value < 1e-12 and max(g.abs().max() for g in gradients) < 1e-12


@pytest.mark.parametrize("shape", [(6, 9), (12, 2)], ids=["all of D", "in a basis"])
def test_direction_loss_gradients(shape):
    inputs = [normal(*shape, seed=seed).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(lambda s, t: direction_loss(s, t, 0.1), inputs)


@pytest.mark.parametrize("distance", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("shape", [(32, 100), (256, 20)], ids=["all of D", "in a basis"])
def test_direction_loss_in_float32_is_about_as_exact_as_the_plain_form(shape, distance):
    student = normal(*shape, seed=0, dtype=torch.float32)
    teacher = student + distance * normal(*shape, seed=1, dtype=torch.float32)
    exact = loss_and_gradients(direction_loss_reference, student.double(), teacher.double(), 0.1, shape[1])
    fast, plain = (
        relative_errors(loss_and_gradients(loss, student, teacher, 0.1, shape[1]), exact)
        for loss in (direction_loss, direction_loss_reference)
    )
    assert all(f < 4 * p + 2e-6 for f, p in zip(fast, plain, strict=True))


@pytest.mark.parametrize("shape", [(8, 5), (40, 5), (1, 5)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_direction_loss_of_degenerate_logits(shape, dtype):
    logits = normal(*shape, seed=0, dtype=dtype)
    same, *gradients = assert_sound(direction_loss, logits, logits, 0.1)
    assert same == 0 and not any(gradient.any() for gradient in gradients)
    for other in (torch.zeros_like(logits), logits[:1].expand(shape), torch.ones_like(logits)):
        assert_sound(direction_loss, other, logits, 0.1)
        assert_sound(direction_loss, logits, other, 0.1)
        assert_sound(direction_loss, other, other, 0.1)


def test_direction_loss_where_half_of_the_batch_agrees():
    student = normal(48, 6, seed=0)
    teacher = torch.cat([student[:24], normal(24, 6, seed=1)])
    assert_equal(direction_loss, direction_loss_reference, student, teacher, 0.1)


def test_direction_loss_of_turned_logits_is_zero():
    student = normal(48, 6, seed=0)
    value, *_ = assert_sound(direction_loss, student, student.roll(1, dims=1), 0.1)
    assert value < 1e-12


RKD_SHAPES = [(1, 3, 3), (2, 3, 5), (3, 1, 2), (7, 4, 4), (16, 64, 32), (33, 5, 130)]


@pytest.mark.parametrize("triples", [1, 1000, 2**18])
@pytest.mark.parametrize("shape", RKD_SHAPES, ids=str)
def test_angle_loss_equals_the_plain_form(shape, triples, monkeypatch):
    monkeypatch.setattr(_kernels, "TRIPLES_ON_CPU", triples)
    batch, *widths = shape
    student, teacher = (normal(batch, width, seed=seed) for seed, width in enumerate(widths))
    assert_equal(angle_loss, angle_loss_reference, student, teacher)


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(3, 12), width=st.integers(2, 9), copies=st.integers(0, 3), seed=st.integers(0, 2**31))
def test_angle_loss_of_batches_with_equal_rows_equals_the_plain_form(batch, width, copies, seed):
    student, teacher = normal(batch, width, seed=seed), normal(batch, width + 1, seed=seed + 1)
    student[:copies] = student[0]
    assert_equal(angle_loss, angle_loss_reference, student, teacher)


def test_angle_loss_gradients():
    inputs = [normal(6, 4, seed=0).requires_grad_(), normal(6, 3, seed=1).requires_grad_()]
    assert torch.autograd.gradcheck(angle_loss, inputs)


@pytest.mark.parametrize("near", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_angle_loss_in_float32_equals_that_of_float64_where_embeddings_nearly_coincide(near, offset):
    student, teacher = (normal(12, 16, seed=seed, dtype=torch.float32) + offset for seed in range(2))
    student[1] = student[0] + near * student[2]
    exact = loss_and_gradients(angle_loss_reference, student.double(), teacher.double())
    assert max(relative_errors(loss_and_gradients(angle_loss, student, teacher), exact)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_angle_loss_of_degenerate_embeddings(dtype):
    embedding = normal(6, 4, seed=0, dtype=dtype)
    same, *gradients = assert_sound(angle_loss, embedding, embedding)
    assert same == 0 and not any(gradient.any() for gradient in gradients)
    for other in (torch.zeros_like(embedding), embedding[:1].expand(6, 4), torch.eye(6, 4, dtype=dtype)):
        for pair in ((other, embedding), (embedding, other), (other, other)):
            assert max(g.abs().max() for g in assert_sound(angle_loss, *pair)) < 10


MAPS = [  # batch, the student's channels and side, the teacher's
    (1, (1, 1), (1, 1)),
    (2, (3, 5), (7, 5)),
    (3, (5, 8), (4, 4)),
    (2, (9, 3), (9, 3)),
    (2, (10, 3), (16, 3)),
    (2, (16, 2), (3, 2)),
    (3, (32, 4), (20, 8)),
]


@pytest.mark.parametrize("shapes", MAPS, ids=str)
def test_nst_loss_equals_the_plain_form(shapes):
    batch, *sizes = shapes
    student, teacher = (normal(batch, c, side, side, seed=seed) for seed, (c, side) in enumerate(sizes))
    assert_equal(nst_loss, nst_loss_reference, student, teacher)


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 6, 2, 2)], ids=["by channels", "by positions"])
def test_nst_loss_gradients(shape):
    inputs = [normal(*shape, seed=seed).requires_grad_() for seed in (0, 1)]
    assert torch.autograd.gradcheck(nst_loss, inputs)


@pytest.mark.parametrize("shape", [(4, 8, 6, 6), (4, 40, 4, 4)], ids=["by channels", "by positions"])
@pytest.mark.parametrize("distance", [1.0, 1e-2])
def test_nst_loss_in_float32_is_about_as_exact_as_the_plain_form(shape, distance):
    student = normal(*shape, seed=0, dtype=torch.float32).relu()
    teacher = student + distance * normal(*shape, seed=1, dtype=torch.float32)
    exact = loss_and_gradients(nst_loss_reference, student.double(), teacher.double())
    fast, plain = (
        relative_errors(loss_and_gradients(loss, student, teacher), exact) for loss in (nst_loss, nst_loss_reference)
    )
    assert all(f < 6 * p + 2e-6 for f, p in zip(fast, plain, strict=True))


@pytest.mark.parametrize("shape", [(2, 3, 4, 4), (2, 6, 2, 2)], ids=["by channels", "by positions"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nst_loss_of_degenerate_maps(shape, dtype):
    feat = normal(*shape, seed=0, dtype=dtype)
    same, *_ = assert_sound(nst_loss, feat, feat)
    assert abs(same) < 1e-6
    dead = F.pad(feat[:, 1:], (0, 0, 0, 0, 1, 0))  # a channel of zeros
    for other in (torch.zeros_like(feat), feat[:, :1].expand(shape), torch.ones_like(feat), dead):
        for pair in ((other, feat), (feat, other), (other, other)):
            assert max(g.abs().max() for g in assert_sound(nst_loss, *pair)) < 100


@pytest.mark.parametrize("loss", [lambda *x: direction_loss(*x, 0.1), angle_loss, nst_loss], ids=["SKD", "RKD", "NST"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_inputs_are_computed_in_float32(loss, dtype):
    shape = (6, 8, 3, 3) if loss is nst_loss else (6, 8)
    student, teacher = (normal(*shape, seed=seed, dtype=dtype) for seed in range(2))
    expected = loss_and_gradients(loss, student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, *gradients = loss_and_gradients(loss, student, teacher)
    assert value.dtype == torch.float32 and all(gradient.dtype == dtype for gradient in gradients)
    torch.testing.assert_close(value, expected[0])
    for gradient, exact in zip(gradients, expected[1:], strict=True):
        assert (gradient.float() - exact).norm() < 0.02 * exact.norm()
