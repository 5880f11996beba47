"""Recent methods: what their golden numbers do not say."""

import numpy as np
import pytest
import torch
from torch import nn

from mdistiller.distillers import build_distiller
from mdistiller.distillers.CATKD import class_maps
from mdistiller.distillers.CC import cc_loss
from mdistiller.distillers.RLD import correlation_loss
from mdistiller.distillers.SemCKD import embed, make_embedding
from mdistiller.distillers.TTM import transformed_kl
from mdistiller.distillers.USKD import rank_loss
from mdistiller.engine.cfg import CFG
from mdistiller.errors import UserError
from mdistiller.models import build_model, find_classifier


def networks(student="resnet8", teacher="vgg8"):
    torch.manual_seed(0)
    return build_model("cifar100", student, 10), build_model("cifar100", teacher, 10)


def config(**values):
    """The defaults, but for `values` of dotted keys."""
    cfg = CFG.clone()
    cfg.merge_from_list([part for pair in values.items() for part in pair])
    return cfg


def losses_of(distiller, epoch=1, images=2):
    image = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return distiller(image=image, target=torch.arange(images), epoch=epoch, index=torch.arange(images))[1]


def test_rld_s_sample_whose_target_is_the_teacher_s_last_adds_nothing():
    student = torch.randn(3, 5, requires_grad=True)
    teacher = torch.arange(5.0).repeat(3, 1)
    loss = correlation_loss(student, teacher, torch.zeros(3, dtype=torch.long), 4.0)
    loss.backward()
    assert loss == 0 and not student.grad.any()


def test_ttm_of_power_one_is_plain_kl_with_weights_of_one():
    student, teacher = torch.randn(2, 4, 10).double()
    divergence, weight = transformed_kl(student, teacher, 1.0)
    p_teacher = teacher.softmax(1)
    expected = (p_teacher * (p_teacher.log() - student.log_softmax(1))).sum(1)
    torch.testing.assert_close(divergence, expected)
    torch.testing.assert_close(weight, torch.ones(4).double())


@pytest.mark.parametrize(("epoch", "share"), [(150, 1.0), (195, 0.5), (240, 0.0), (300, 0.0)])
def test_wkd_s_weights_fall_by_a_cosine(epoch, share):
    cfg = config(**{"WKD.COSINE_DECAY_EPOCH": 150, "SOLVER.EPOCHS": 240})
    assert build_distiller("WKD", *networks(), cfg).decay(epoch) == pytest.approx(share)


@pytest.mark.parametrize(("off", "left"), [("GAMMA", "loss_feat"), ("LOSS.FEAT_WEIGHT", "loss_kd")])
def test_wkd_leaves_out_a_loss_of_weight_zero(off, left):
    distiller = build_distiller("WKD", *networks(), config(**{f"WKD.{off}": 0.0})).train()
    assert list(losses_of(distiller)) == ["loss_ce", left]


def test_wkd_without_any_loss_is_refused():
    with pytest.raises(UserError, match=r"^WKD.GAMMA and WKD.LOSS.FEAT_WEIGHT are both 0"):
        build_distiller("WKD", *networks(), config(**{"WKD.GAMMA": 0.0, "WKD.LOSS.FEAT_WEIGHT": 0.0}))


@pytest.mark.parametrize("suffix", [".npy", ".pt"])
def test_wkd_s_costs_may_come_from_a_file(tmp_path, suffix):
    path, distances = tmp_path / f"distances{suffix}", torch.rand(10, 10, generator=torch.Generator().manual_seed(0))
    np.save(path, distances.numpy()) if suffix == ".npy" else torch.save(distances, path)
    cfg = config(**{"WKD.COST_FILE": str(path), "WKD.SHARPEN": 0.0})
    costs = build_distiller("WKD", *networks(), cfg).costs
    torch.testing.assert_close(costs, distances + 1e-8)


@pytest.mark.parametrize("values", [None, torch.ones(9, 10), torch.full((10, 10), torch.nan), {"a": 1}, "text"])
def test_a_file_that_holds_no_distances_is_one_line(tmp_path, values):
    path = tmp_path / "distances.pt"
    if values == "text":
        path.write_text("no tensor")
    elif values is not None:
        torch.save(values, path)
    with pytest.raises(UserError, match=r"^WKD.COST_FILE .*expected finite numbers \(10, 10\)") as error:
        build_distiller("WKD", *networks(), config(**{"WKD.COST_FILE": str(path)}))
    assert "\n" not in str(error.value)


def test_class_maps_average_to_the_logits_without_their_bias():
    network = build_model("cifar100", "resnet8", 10).eval()
    nn.init.zeros_(network.fc.bias)
    logits, features = network(torch.randn(2, 3, 32, 32))
    maps = class_maps(features["final_map"], network.fc.weight, 2)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), logits)


def test_semckd_takes_a_smaller_batch_and_refuses_layers_for_a_huge_one():
    assert losses_of(build_distiller("SemCKD", *networks(), CFG).train(), images=3)["loss_feat"].isfinite()
    with pytest.raises(UserError, match=r"SOLVER.BATCH_SIZE is 8193, .* expected at most 8,192"):
        build_distiller("SemCKD", *networks(), config(**{"SOLVER.BATCH_SIZE": 8193}))


def test_semckd_of_a_smaller_batch_is_that_of_one_with_blank_images():
    torch.manual_seed(0)
    feat, embedding = torch.randn(3, 8), make_embedding(5)
    blank = torch.cat([feat, torch.zeros(2, 8)])
    torch.testing.assert_close(embed(feat, embedding, 5), embed(blank, embedding, 5)[:3])


def test_a_student_that_ends_in_another_s_classifier_is_refused_by_simkd():
    student = build_model("cifar100", "resnet8+resnet14", 10)
    with pytest.raises(UserError, match="ends in another network's classifier already"):
        build_distiller("SimKD", student, build_model("cifar100", "vgg8", 10), CFG)


def test_simkd_s_student_keeps_the_teacher_s_classifier():
    student, teacher = networks()
    distiller = build_distiller("SimKD", student, teacher, CFG).train()
    optimizer = torch.optim.SGD(distiller.get_learnable_parameters(), 0.1, weight_decay=0.1)
    sum(losses_of(distiller).values()).backward()
    optimizer.step()
    assert torch.equal(distiller.student.classifier.weight, find_classifier(teacher).weight)


def test_cc_of_one_image_is_zero():
    assert cc_loss(torch.ones(1, 4), torch.zeros(1, 4)) == 0


def test_uskd_s_labels_follow_the_rank_of_the_classes():
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0]])
    target, labels = torch.tensor([1]), torch.tensor([1 / 2, 1 / 3, 1 / 4])  # of the classes 3, 2 and 0
    expected = -(labels / labels.sum() * torch.tensor([2.0, 1.0, 0.0]).log_softmax(0)).sum()
    torch.testing.assert_close(rank_loss(logits, logits, target), expected)
