"""The cross-entropy on labels that are smoothed, and on images of two classes, by every method."""

import pytest
import torch
import torch.nn.functional as F

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.engine.cfg import CFG
from mdistiller.models import build_model

MIXED = [name for name, method in DISTILLERS.items() if not method.needs_one_class]


def batch_of(count=6, classes=10):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(count, 3, 32, 32, generator=generator)
    return {"image": image, "target": torch.arange(count) % classes, "index": torch.arange(count), "epoch": 5}


def losses_of(name, batch, smoothing=0.0, views=1):
    """The student's logits and the losses by name, the same networks and draws each time."""
    cfg = CFG.clone()
    cfg.SOLVER.LABEL_SMOOTHING, cfg.CRD.NCE.K, cfg.MLKD.VIEWS = smoothing, 4, views
    cfg.SSKD.TF_RATIO = 0.5  # of all images, the class of none counts
    cfg.DATASET.AUGMENT = "two-view" if views == 2 else "weak"
    torch.manual_seed(0)
    student, teacher = (build_model("cifar100", network, 10) for network in ("resnet8", "resnet14"))
    distiller = build_distiller(name, student, teacher if DISTILLERS[name].needs_teacher else None, cfg, 20)
    distiller.set_targets(torch.arange(20) % 10)
    torch.manual_seed(1)
    logits, losses = distiller.train()(**batch)
    return distiller.ce_weight, logits, losses


@pytest.mark.parametrize("name", [name for name, method in DISTILLERS.items() if method.weight_of("CE_WEIGHT", CFG)])
def test_smoothed_labels_are_torch_s_and_change_no_other_loss(name):
    batch = batch_of()
    weight, logits, losses = losses_of(name, batch, smoothing=0.1)
    expected = weight * F.cross_entropy(logits, batch["target"], label_smoothing=0.1)
    torch.testing.assert_close(losses["loss_ce"], expected)
    _, _, plain = losses_of(name, batch)
    assert not torch.equal(losses.pop("loss_ce"), plain.pop("loss_ce"))
    assert losses == plain


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_an_image_of_two_classes_has_the_loss_of_both_by_their_weights(name, smoothing):
    batch = batch_of()
    mixed = {"target_mixed": batch["target"].roll(1, 0), "mix": torch.tensor(0.7)}
    weight, logits, losses = losses_of(name, batch | mixed, smoothing)
    labels = 0.7 * F.one_hot(batch["target"], 10) + 0.3 * F.one_hot(mixed["target_mixed"], 10)
    expected = weight * F.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(losses["loss_ce"], expected)


@pytest.mark.parametrize("name", DISTILLERS)
def test_a_method_says_whether_its_own_losses_ask_for_one_class(name):
    batch = batch_of()
    other = batch | {"target": batch["target"].roll(1, 0)}
    (_, _, losses), (_, _, changed) = (losses_of(name, each) for each in (batch, other))
    del losses["loss_ce"], changed["loss_ce"]
    # CRD contrasts what it has stored of an image, which then would be of a mixed one.
    assert DISTILLERS[name].needs_one_class == (losses != changed or name == "CRD")


def test_two_views_have_both_classes():
    batch = batch_of()
    views = {"image_weak": batch["image"], "image_strong": batch["image"].flip(3)}
    mixed = {"target_mixed": batch["target"].roll(1, 0), "mix": torch.tensor(0.7)}
    both = losses_of("MLKD", batch | views | mixed, views=2)[2]["loss_ce"]
    own = losses_of("MLKD", batch | views, views=2)[2]["loss_ce"]
    other = losses_of("MLKD", batch | views | {"target": mixed["target_mixed"]}, views=2)[2]["loss_ce"]
    torch.testing.assert_close(both, 0.7 * own + 0.3 * other)
