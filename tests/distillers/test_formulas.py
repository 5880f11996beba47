"""The newer logit methods against literal transcriptions of their papers' formulas, in plain Python."""

import math

import pytest
import torch
from torch import nn

from mdistiller.distillers import build_distiller
from mdistiller.distillers._logit import standardise
from mdistiller.distillers.CTKD import CTKD, curriculum
from mdistiller.distillers.DIST import dist_loss
from mdistiller.distillers.KD import kd_loss
from mdistiller.distillers.NKD import nkd_loss
from mdistiller.distillers.SKD import direction_loss
from mdistiller.engine.cfg import CFG, merge_pairs
from mdistiller.errors import UserError
from tests.distillers.test_robustness import FixedLogits

BATCH, CLASSES = 5, 7


def random_logits(seed):
    return 2 * torch.randn(BATCH, CLASSES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def student():
    return random_logits(0).requires_grad_()


@pytest.fixture
def teacher():
    return random_logits(1)


TARGET = torch.tensor([0, 3, 6, 3, 1])


def softmax(row, temperature=1.0):
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def pearson(a, b):
    """Pearson's correlation, 1e-8 added to the denominator as released."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    covariance = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    deviations = sum((x - mean_a) ** 2 for x in a), sum((y - mean_b) ** 2 for y in b)
    return covariance / (math.sqrt(deviations[0]) * math.sqrt(deviations[1]) + 1e-8)


def test_standardised_logits_have_no_mean_and_the_released_deviation(student):
    for row, result in zip(student.tolist(), standardise(student).tolist(), strict=True):
        mean = sum(row) / CLASSES
        deviation = math.sqrt(sum((value - mean) ** 2 for value in row) / (CLASSES - 1)) + 1e-7
        assert result == pytest.approx([(value - mean) / deviation for value in row], rel=1e-10)


def test_equal_logits_are_standardised_to_zero_without_a_gradient():
    logits = torch.full((2, 3), 4.0, dtype=torch.float64, requires_grad=True)
    result = standardise(logits)
    (gradient,) = torch.autograd.grad(result.square().sum(), logits)
    assert not result.any() and not gradient.any()


def test_standardise_gradient(student):
    assert torch.autograd.gradcheck(standardise, student)


def test_dist_loss_equals_the_formula(student, teacher):
    beta, gamma, t = 2.0, 3.0, 4.0
    y_s, y_t = ([softmax(row, t) for row in logits.tolist()] for logits in (student, teacher))
    inter = sum(1 - pearson(a, b) for a, b in zip(y_s, y_t, strict=True)) / BATCH
    columns = zip(zip(*y_s, strict=True), zip(*y_t, strict=True), strict=True)
    intra = sum(1 - pearson(a, b) for a, b in columns) / CLASSES
    expected = t * t * (beta * inter + gamma * intra)
    assert dist_loss(student, teacher, beta, gamma, t).item() == pytest.approx(expected, rel=1e-8)


def test_dist_loss_gradient(student, teacher):
    assert torch.autograd.gradcheck(lambda z: dist_loss(z, teacher, 2.0, 3.0, 4.0), student)


def test_nkd_loss_equals_the_formula(student, teacher):
    gamma, t = 1.5, 2.0
    total = 0.0
    for z_s, z_t, label in zip(student.tolist(), teacher.tolist(), TARGET.tolist(), strict=True):
        total -= softmax(z_t)[label] * math.log(softmax(z_s)[label])
        others_s, others_t = (softmax([v for i, v in enumerate(z) if i != label], t) for z in (z_s, z_t))
        total -= gamma * t * t * sum(p * math.log(q) for p, q in zip(others_t, others_s, strict=True))
    assert nkd_loss(student, teacher, TARGET, gamma, t).item() == pytest.approx(total / BATCH, rel=1e-8)


def test_nkd_loss_gradient(student, teacher):
    assert torch.autograd.gradcheck(lambda z: nkd_loss(z, teacher, TARGET, 1.5, 2.0), student)


def test_ctkd_temperature_climbs_the_loss_that_the_student_descends(student, teacher):
    def loss_at(global_t):
        return kd_loss(student.detach(), teacher, 1 + 20 / (1 + math.exp(-global_t))).item()

    distiller = CTKD(FixedLogits(student.detach()), FixedLogits(teacher), CFG).double().train()
    epoch, h = 4, 1e-5
    _, losses = distiller(image=torch.zeros(BATCH), target=TARGET, epoch=epoch)
    losses["loss_kd"].backward()
    assert losses["loss_kd"].item() == pytest.approx(0.9 * loss_at(1.0), rel=1e-8)
    slope = 0.9 * (loss_at(1.0 + h) - loss_at(1.0 - h)) / (2 * h)
    strength = (1 - math.cos(math.pi * epoch / 10)) / 2
    assert distiller.global_t.grad.item() == pytest.approx(-strength * slope, rel=1e-6)


def test_ctkd_curriculum_rises_to_one():
    assert [curriculum(epoch, 10) for epoch in (5, 10, 50)] == pytest.approx([0.5, 1.0, 1.0])


@pytest.mark.parametrize("method", ["KD", "DKD", "CLKD", "MLKD", "SKD", "DIST", "NKD", "CTKD", "RLD", "TTM", "WTTM"])
def test_standardisation_is_one_switch_for_every_logit_method(method, student, teacher):
    def losses(student, teacher, switch):
        cfg = CFG.clone()
        cfg.DISTILLER.LOGIT_STANDARDIZATION = switch
        distiller = build_distiller(method, FixedLogits(student), FixedLogits(teacher), cfg).double().train()
        _, losses = distiller(image=torch.zeros(BATCH), target=TARGET, epoch=30)
        return {name: loss.item() for name, loss in losses.items()}

    switched = losses(student, teacher, True)
    prepared = losses(standardise(student), standardise(teacher), False)
    plain = losses(student, teacher, False)
    assert switched["loss_kd"] == pytest.approx(prepared["loss_kd"], rel=1e-8)
    assert switched["loss_kd"] != pytest.approx(plain["loss_kd"], rel=1e-3)
    assert switched["loss_ce"] == plain["loss_ce"]


class Views(nn.Module):
    """A network that has fixed logits for each of two views, told apart by their value, or for both in one batch."""

    def __init__(self, weak, strong):
        super().__init__()
        self.views = nn.ParameterList([weak.clone(), strong.clone()])

    def forward(self, image):
        return torch.cat([self.views[int(view)] for view in image.unique()]), {}


def kl(z_t, z_s, t):
    return sum(p * math.log(p / q) for p, q in zip(softmax(z_t, t), softmax(z_s, t), strict=True))


def test_intended_two_view_mlkd_takes_the_strong_view_at_all_temperatures():
    cfg = CFG.clone()
    temperatures = [2.0, 3.0, 4.0, 5.0, 6.0]
    cfg.MLKD.FORM = "intended"
    merge_pairs(cfg, ["DATASET.AUGMENT", "two-view", "MLKD.VIEWS", "2", "MLKD.TEMPERATURES", str(temperatures)])
    weak_s, strong_s, weak_t, strong_t = (random_logits(seed) for seed in range(4))
    distiller = build_distiller("MLKD", Views(weak_s, strong_s), Views(weak_t, strong_t), cfg).double().train()
    views = {"image": torch.zeros(BATCH), "image_strong": torch.ones(BATCH)}
    logits, losses = distiller(**views, target=TARGET, epoch=1)

    def cross_entropy(logits):
        return -sum(math.log(softmax(z)[i]) for z, i in zip(logits.tolist(), TARGET.tolist(), strict=True)) / BATCH

    def instance(z_s, z_t):
        pairs = list(zip(z_s.tolist(), z_t.tolist(), strict=True))
        return sum(t * t * kl(teacher, student, t) for t in temperatures for student, teacher in pairs) / BATCH

    confidence = sorted(max(softmax(z)) for z in weak_t.tolist())
    share = sum(value <= confidence[BATCH // 2] for value in confidence) / BATCH
    assert losses["loss_ce"].item() == pytest.approx(0.5 * (cross_entropy(weak_s) + cross_entropy(strong_s)), rel=1e-8)
    expected = 0.5 * (share * instance(weak_s, weak_t) + instance(strong_s, strong_t))
    assert losses["loss_kd"].item() == pytest.approx(expected, rel=1e-8)
    assert torch.equal(logits, weak_s)


def test_standardisation_leaves_mlkd_s_correlations_as_they_are(student, teacher):
    def losses(is_standardised):
        cfg = CFG.clone()
        cfg.DISTILLER.LOGIT_STANDARDIZATION = is_standardised
        distiller = build_distiller("MLKD", FixedLogits(student), FixedLogits(teacher), cfg).double().train()
        return distiller(image=torch.zeros(BATCH), target=TARGET, epoch=1)[1]

    plain, standardised = losses(False), losses(True)
    assert standardised["loss_kd"].item() != pytest.approx(plain["loss_kd"].item(), rel=1e-3)
    assert all(torch.equal(standardised[name], plain[name]) for name in plain if name != "loss_kd")


def test_two_view_mlkd_needs_two_views():
    cfg = CFG.clone()
    cfg.MLKD.VIEWS = 2
    with pytest.raises(UserError, match=r"MLKD\.VIEWS 2 needs DATASET\.AUGMENT two-view"):
        build_distiller("MLKD", FixedLogits(random_logits(0)), FixedLogits(random_logits(1)), cfg)


def paper_terms(z_s, z_t, t, tikhonov):
    """Both terms of the SKD paper, by its formulas, with an explicit inverse."""
    instance = sum(kl(teacher, student, t) for student, teacher in zip(z_s.tolist(), z_t.tolist(), strict=True)) / BATCH
    gram = [(z / z.norm(dim=1, keepdim=True)) @ (z / z.norm(dim=1, keepdim=True)).T for z in (z_s, z_t)]
    difference = gram[0] - gram[1]
    inverse = torch.linalg.inv(torch.cov(difference.T) + tikhonov * torch.eye(BATCH, dtype=z_s.dtype))
    direction = sum(math.sqrt(row @ inverse @ row) for row in difference) / BATCH
    return instance, direction


def test_skd_in_the_papers_form_equals_its_formulas(student, teacher):
    cfg = CFG.clone()
    merge_pairs(cfg, ["SKD.FORM", "paper", "SKD.LOSS.INSTANCE_WEIGHT", "2", "SKD.LOSS.DIRECTION_WEIGHT", "3"])
    distiller = build_distiller("SKD", FixedLogits(student), FixedLogits(teacher), cfg).double().train()
    _, losses = distiller(image=torch.zeros(BATCH), target=TARGET, epoch=1)
    instance, direction = paper_terms(student.detach(), teacher, 4.0, 0.1)
    assert losses["loss_kd"].item() == pytest.approx(2 * instance, rel=1e-8)
    assert losses["loss_bc"].item() == pytest.approx(3 * direction, rel=1e-8)


def test_direction_loss_is_the_l2_norm_in_the_whitened_space(student, teacher):
    z_s, z_t = (z / z.norm(dim=1, keepdim=True) for z in (student, teacher))
    difference = z_s @ z_s.T - z_t @ z_t.T
    values, vectors = torch.linalg.eigh(torch.cov(difference.T) + 0.1 * torch.eye(BATCH, dtype=z_s.dtype))
    whitening = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    expected = (difference @ whitening).norm(dim=1).mean()
    torch.testing.assert_close(direction_loss(student, teacher, 0.1), expected, rtol=1e-10, atol=0)


def test_direction_loss_gradient(student, teacher):
    assert torch.autograd.gradcheck(lambda z: direction_loss(z, teacher, 0.1), student)


def test_unknown_form_of_skd_is_refused():
    cfg = CFG.clone()
    cfg.SKD.FORM = "draft"
    with pytest.raises(UserError, match=r"SKD\.FORM is draft; expected one of released, paper"):
        build_distiller("SKD", FixedLogits(random_logits(0)), FixedLogits(random_logits(1)), cfg)
