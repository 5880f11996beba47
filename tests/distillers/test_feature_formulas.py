"""The pure functions of the feature methods against literal transcriptions, and their gradients."""

import math

import pytest
import torch

from mdistiller.distillers._common import pair_stages, pool_larger
from mdistiller.distillers._kernels import RightSingularVectors
from mdistiller.distillers.AT import at_loss
from mdistiller.distillers.KDSVD import aligned_vectors
from mdistiller.distillers.NST import nst_loss
from mdistiller.distillers.OFD import channel_margins, partial_l2_loss
from mdistiller.distillers.PKT import pkt_loss
from mdistiller.distillers.ReviewKD import hcl_loss
from mdistiller.distillers.SP import sp_loss


def random_map(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def published_margin(s, m):
    s = abs(s)
    below_zero = (1 + math.erf(-m / s / math.sqrt(2))) / 2
    if below_zero > 0.001:
        return -s * math.exp(-((m / s) ** 2) / 2) / math.sqrt(2 * math.pi) / below_zero + m
    return -3 * s


def test_margins_equal_the_published_scalar_formula():
    pairs = [(s, m) for s in (-2.0, -0.3, 1e-3, 0.5, 1.0, 4.0) for m in (-9.0, -1.0, 0.0, 0.2, 1.5, 3.0, 12.0)]
    weight, bias = torch.tensor(pairs, dtype=torch.float64).T
    expected = [published_margin(s, m) for s, m in pairs]
    assert channel_margins(weight, bias).tolist() == pytest.approx(expected, rel=1e-9)


def test_margins_of_channels_of_zero_weight_are_their_limits():
    margins = channel_margins(torch.zeros(3), torch.tensor([-0.5, 0.0, 0.5]))
    torch.testing.assert_close(margins, torch.tensor([-0.5, 0.0, 0.0], dtype=torch.float64))


def test_partial_l2_loss_equals_the_published_cases():
    student, teacher = 2 * random_map(3, 2, 4, 4), 2 * random_map(3, 2, 4, 4, seed=1)
    margin = torch.tensor([-0.5, -1.5], dtype=torch.float64)
    expected = 0.0
    for image in range(3):
        for channel in range(2):
            m = margin[channel].item()
            pairs = zip(student[image, channel].flatten(), teacher[image, channel].flatten(), strict=True)
            for s, t in ((s.item(), t.item()) for s, t in pairs):
                if t > 0 or (m < t <= 0 and s > t):
                    expected += (s - t) ** 2
                elif t <= m < s:
                    expected += (s - m) ** 2
    assert partial_l2_loss(student, teacher, margin).item() == pytest.approx(expected / 3, rel=1e-12)


def test_nst_loss_equals_the_double_sum_over_neurons():
    student, teacher = random_map(2, 3, 4, 4), random_map(2, 5, 4, 4, seed=1)

    def kernel(a, b):
        return sum(
            (((p / p.norm()) * (q / q.norm())).sum() ** 2).item()
            for image_a, image_b in zip(a, b, strict=True)
            for p in image_a
            for q in image_b
        ) / (len(a) * a.shape[1] * b.shape[1])

    expected = kernel(teacher, teacher) + kernel(student, student) - 2 * kernel(student, teacher)
    assert nst_loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    "loss",
    [
        lambda feat: at_loss(feat, random_map(3, 5, 4, 4, seed=1), 2),
        lambda feat: nst_loss(feat, random_map(3, 5, 4, 4, seed=1)),
        lambda feat: sp_loss(feat, random_map(3, 5, 4, 4, seed=1)),
        lambda feat: pkt_loss(feat.flatten(1), random_map(3, 5, seed=1)),
        lambda feat: hcl_loss(feat, random_map(3, 2, 6, 6, seed=1)),
        lambda feat: partial_l2_loss(feat, random_map(3, 2, 6, 6, seed=1), random_map(2, seed=2).abs().neg()),
    ],
    ids=["at", "nst", "sp", "pkt", "hcl", "partial_l2"],
)
def test_gradient(loss):
    assert torch.autograd.gradcheck(loss, random_map(3, 2, 6, 6).requires_grad_())


@pytest.mark.parametrize("shape", [(2, 9, 5), (2, 4, 6)], ids=["tall", "wide"])
def test_gradient_of_the_singular_vectors(shape):
    weights = random_map(shape[0], shape[2], 2, seed=1)

    def loss(x):
        vectors, _ = RightSingularVectors.apply(x, 2)
        return (vectors.sign() * vectors.abs().pow(1.5) * weights).sum(dim=1).square()  # whose signs are open

    assert torch.autograd.gradcheck(loss, random_map(*shape).requires_grad_())


def test_gradient_of_the_singular_vectors_equals_the_librarys():
    x, weights = random_map(3, 12, 6).requires_grad_(), random_map(3, 6, 3, seed=1)
    (RightSingularVectors.apply(x, 3)[0] * weights).sum(dim=1).square().sum().backward()
    gradient, x.grad = x.grad, None
    (torch.linalg.svd(x, full_matrices=False)[2][:, :3].mT * weights).sum(dim=1).square().sum().backward()
    torch.testing.assert_close(gradient, x.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "feat",
    [torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8), torch.eye(8).expand(2, 3, 8, 8), torch.eye(8)[None, None, :, :2]],
    ids=["zero", "rank one", "all values equal", "two columns"],
)
def test_singular_vectors_of_degenerate_maps_have_finite_gradients(feat):
    feat = feat.clone().requires_grad_()
    teacher = torch.randn(len(feat), 5, 4, 4, generator=torch.Generator().manual_seed(0))
    for other in (teacher, torch.zeros_like(teacher)):
        student, aligned = aligned_vectors(feat, other, 1)
        assert student.isfinite().all() and aligned.isfinite().all()
        (gradient,) = torch.autograd.grad(student.pow(3).sum(), feat)
        assert gradient.isfinite().all()


def test_aligned_vectors_point_the_teachers_way_whatever_their_order():
    feat = random_map(4, 6, 8, 8).float()
    vectors, aligned = aligned_vectors(-feat, feat, 2)
    torch.testing.assert_close(vectors, aligned)
    assert (aligned.sum(dim=1) >= 0).all()


def test_stages_pair_from_the_deepest():
    assert pair_stages("abcd", "xyz") == [("b", "x"), ("c", "y"), ("d", "z")]
    assert pair_stages("abc", "wxyz") == [("a", "x"), ("b", "y"), ("c", "z")]


def test_larger_map_is_pooled():
    small, large = random_map(1, 2, 4, 4), random_map(1, 3, 8, 8)
    for pair in ((small, large), (large, small)):
        assert [feat.shape[2:] for feat in pool_larger(*pair)] == [(4, 4), (4, 4)]
    torch.testing.assert_close(pool_larger(small, large)[1][0, 0, 0, 0], large[0, 0, :2, :2].mean())
    assert pool_larger(small, large)[0] is small
