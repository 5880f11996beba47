"""CRD's samples, memory and state."""

import math

import pytest
import torch

from mdistiller.distillers import build_distiller
from mdistiller.distillers._sampler import Sampler
from mdistiller.distillers.CRD import memory_scores, nce_loss
from mdistiller.engine.cfg import CFG
from mdistiller.errors import UserError
from mdistiller.models import build_model

TARGETS = torch.tensor([0, 1, 2, 0, 1, 0, 2, 1, 0, 0, 1, 3])  # 5, 4, 2 and 1 images a class
INDEX = torch.arange(len(TARGETS))


def make_sampler(seed=0, targets=TARGETS):
    sampler = Sampler(seed)
    sampler.set_targets(targets)
    return sampler


def draw_many(k, times, is_exact=True):
    """(times, images, 1 + k)."""
    sampler = make_sampler()
    return torch.stack([sampler.draw(INDEX, k, is_exact) for _ in range(times)])


def chi_square(counts):
    """Statistic of `counts` against equal ones."""
    return ((counts - counts.mean()).square() / counts.mean()).sum().item()


def acceptable(count):
    """A bound of the statistic of `count` cells, which chance crosses in about one of 10^5 tests."""
    freedom = count - 1
    return freedom * (1 - 2 / (9 * freedom) + 4.3 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize("k", [1, 4, 7, 8, 10])
def test_positive_is_the_image_and_negatives_are_of_other_classes(k):
    samples = draw_many(k, 50)
    assert samples.shape == (50, len(TARGETS), 1 + k)
    assert (samples[:, :, 0] == INDEX).all()
    assert (TARGETS[samples[:, :, 1:]] != TARGETS[:, None]).all()


@pytest.mark.parametrize("k", [1, 4, 7])
def test_no_negative_repeats_in_a_row(k):
    negatives = draw_many(k, 50)[:, :, 1:].sort(dim=2).values
    assert (negatives.diff(dim=2) > 0).all()


def test_only_classes_with_too_few_others_draw_with_replacement():
    negatives = draw_many(9, 50)[:, :, 1:].sort(dim=2).values  # class 0 has 7 others, class 1 has 8
    repeats = (negatives.diff(dim=2) == 0).any(dim=2)
    assert repeats[:, TARGETS < 2].all() and not repeats[:, TARGETS >= 2].any()


@pytest.mark.parametrize("k", [3, 7, 9])
def test_every_other_image_is_an_equally_likely_negative(k):
    negatives = draw_many(k, 4000)[:, :, 1:]
    for image in INDEX:
        counts = negatives[:, image].flatten().bincount(minlength=len(TARGETS)).double()
        counts = counts[TARGETS != TARGETS[image]]
        assert chi_square(counts) < acceptable(len(counts))


def test_every_set_of_negatives_is_equally_likely():
    pairs = draw_many(2, 8000)[:, :, 1:].sort(dim=2).values
    for image in (0, 1, 2, 11):
        counts = (pairs[:, image, 0] * len(TARGETS) + pairs[:, image, 1]).unique(return_counts=True)[1].double()
        others = int((TARGETS != TARGETS[image]).sum())
        assert len(counts) == math.comb(others, 2)
        assert chi_square(counts) < acceptable(len(counts))


def test_relaxed_positive_is_another_image_of_the_class():
    positives = draw_many(3, 2000, is_exact=False)[:, :, 0]
    assert (TARGETS[positives] == TARGETS).all()
    assert (positives != INDEX)[:, TARGETS != 3].all() and (positives[:, 11] == 11).all()
    for image in INDEX[TARGETS < 2]:
        counts = positives[:, image].bincount(minlength=len(TARGETS)).double()
        counts = counts[(TARGETS == TARGETS[image]) & (image != INDEX)]
        assert chi_square(counts) < acceptable(len(counts))


def test_large_set():
    targets = torch.arange(50_000) % 100
    index = torch.arange(0, 50_000, 1009)
    samples = make_sampler(targets=targets).draw(index, 16384, True)
    assert (targets[samples[:, 1:]] != targets[index][:, None]).all()
    assert (samples[:, 1:].sort(dim=1).values.diff(dim=1) > 0).all()
    assert samples.unique().numel() > 16384


def test_seeds_repeat_and_differ():
    first, again, other = (make_sampler(seed) for seed in (1, 1, 2))
    samples = first.draw(INDEX, 4, True)
    assert torch.equal(samples, again.draw(INDEX, 4, True))
    assert not torch.equal(samples, other.draw(INDEX, 4, True))
    assert not torch.equal(samples, again.draw(INDEX, 4, True))


@pytest.fixture
def crd():
    cfg = CFG.clone()
    cfg.CRD.NCE.K = 4
    return build_crd(cfg)


def build_crd(cfg, num_data=12):
    torch.manual_seed(0)
    networks = build_model("cifar100", "resnet8", 4), build_model("cifar100", "resnet14", 4)
    return build_distiller("CRD", *networks, cfg, num_data).train()


def step(distiller):
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return distiller(image=image, target=TARGETS[3:7], index=INDEX[3:7], epoch=1)[1]


def test_resumed_distiller_draws_what_the_other_draws_next(crd, tmp_path):
    crd.set_targets(TARGETS)
    step(crd)
    torch.save(crd.state_dict(), tmp_path / "state.pth")
    cfg = CFG.clone()
    cfg.merge_from_list(["CRD.NCE.K", 4, "EXPERIMENT.SEED", 7])
    resumed = build_crd(cfg)
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    resumed.set_targets(TARGETS)
    assert torch.equal(crd.sampler.draw(INDEX, 4, True), resumed.sampler.draw(INDEX, 4, True))


def test_step_moves_only_the_memory_of_its_images_and_takes_no_gradient_there(crd):
    crd.set_targets(TARGETS)
    before = crd.contrast.memory_v1.clone(), crd.contrast.memory_v2.clone()
    sum(step(crd).values()).backward()
    for memory, old in zip((crd.contrast.memory_v1, crd.contrast.memory_v2), before, strict=True):
        moved = (memory != old).any(dim=1)
        assert moved.tolist() == [3 <= image < 7 for image in INDEX]
        assert not memory.requires_grad
        torch.testing.assert_close(memory[moved].norm(dim=1), torch.ones(4))
    assert (crd.contrast.params[2:4] > 0).all()


def test_normalisers_stay_as_the_first_batch_sets_them(crd):
    crd.set_targets(TARGETS)
    step(crd)
    first = crd.contrast.params.clone()
    step(crd)
    assert torch.equal(first, crd.contrast.params)


def test_two_forward_passes_before_one_backward(crd):
    crd.set_targets(TARGETS)
    (step(crd)["loss_kd"] + step(crd)["loss_kd"]).backward()


def test_losses_equal_their_formulas():
    scores = 0.2 * torch.rand(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.01
    noise = 4 / 12
    expected = 0.0
    for positive, *negatives in scores.tolist():
        expected -= math.log(positive / (positive + noise + 1e-7))
        expected -= sum(math.log(noise / (negative + noise + 1e-7)) for negative in negatives)
    assert nce_loss(scores, 12).item() == pytest.approx(expected / 3, rel=1e-12)

    embedding, memory = torch.randn(3, 6, dtype=torch.float64), torch.randn(12, 6, dtype=torch.float64)
    indices = make_sampler().draw(INDEX[:3], 4, True)
    scores = memory_scores(embedding, memory, indices, 0.5)
    torch.testing.assert_close(scores, torch.exp((memory[indices] * embedding[:, None]).sum(dim=2) / 0.5))


def test_negatives_without_labels_are_refused(crd):
    with pytest.raises(RuntimeError, match=r"call set_targets\(targets\)"):
        step(crd)


def test_labels_of_another_set_are_refused(crd):
    with pytest.raises(ValueError, match=r"targets have shape \(3,\); expected \(12,\)"):
        crd.set_targets(TARGETS[:3])


def test_one_class_is_refused(crd):
    with pytest.raises(UserError, match="one class only"):
        crd.set_targets(torch.zeros_like(TARGETS))


def test_number_of_images_is_needed():
    with pytest.raises(TypeError, match="num_data"):
        build_crd(CFG, num_data=None)


@pytest.mark.parametrize(("key", "value"), [("CRD.MODE", "loose"), ("CRD.NCE.K", 0)])
def test_bad_setting_is_named(key, value):
    cfg = CFG.clone()
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=key):
        build_crd(cfg)


def test_more_negatives_than_memory_takes_are_refused_when_built():
    cfg = CFG.clone()
    cfg.SOLVER.BATCH_SIZE, cfg.CRD.NCE.K = 4096, 131_072
    networks = (build_model("cifar100", "resnet8", 5) for _ in range(2))
    with pytest.raises(UserError, match=r"^CRD.NCE.K is 131072 and a batch 4096 images; expected at most 65536"):
        build_distiller("CRD", *networks, cfg, num_data=50_000)
