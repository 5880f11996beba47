"""The feature methods on real networks in float32: finite losses and gradients where a formula could fail."""

import copy

import pytest
import torch

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.distillers._logit import LogitDistiller
from mdistiller.engine.cfg import CFG
from mdistiller.errors import UserError
from mdistiller.models import build_model

METHODS = [
    *("OFD", "REVIEWKD", "AT", "NST", "PKT", "SP", "KDSVD", "FITNET", "SDD", "RKD", "CRD", "VID"),
    *("WKD", "CATKD", "SIMKD", "SRRL", "OFAKD", "CC", "SEMCKD", "USKD"),
    *("AB", "FT", "FSP", "SSKD", "SRD", "DISTPLUS"),
]
WITH_PARAMETERS = [
    *("OFD", "REVIEWKD", "FITNET", "CRD", "VID", "WKD", "SIMKD", "SRRL", "OFAKD", "CC", "SEMCKD", "USKD"),
    *("FT", "SSKD", "SRD", "DISTPLUS"),
]
PAIRS = [("resnet8", "resnet14"), ("MobileNetV2", "vgg8"), ("vgg8", "MobileNetV2"), ("resnet8", "MobileNetV2")]


def networks(student, teacher):
    torch.manual_seed(0)
    return build_model("cifar100", student, 10), build_model("cifar100", teacher, 10)


def build(method, student, teacher, cfg=CFG):
    """The method for a training set of 8 images, one of each class."""
    distiller = build_distiller(method, student, teacher, cfg, num_data=8)
    distiller.set_targets(torch.arange(8))
    return distiller


def train_step(method, student, teacher, images=4, cfg=CFG):
    distiller = build(method, student, teacher, cfg).train()
    image = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    _, losses = distiller(image=image, target=torch.arange(images), epoch=30, index=torch.arange(images))
    sum(losses.values()).backward()
    return distiller, losses


def assert_trains(distiller, losses):
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values()), losses
    gradients = {name: p.grad for name, p in distiller.named_parameters() if p.requires_grad}
    assert len(gradients) == len(distiller.get_learnable_parameters())
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.isfinite().all()] == []


@pytest.mark.parametrize("pair", PAIRS, ids="<-".join)
@pytest.mark.parametrize("method", METHODS)
def test_gradient_reaches_every_learnable_parameter(method, pair):
    assert_trains(*train_step(method, *networks(*pair)))


@pytest.mark.parametrize("method", METHODS)
def test_student_equal_to_the_teacher(method):
    student, _ = networks("resnet8", "resnet8")
    assert_trains(*train_step(method, student, copy.deepcopy(student)))


@pytest.mark.parametrize("pair", PAIRS[:3], ids="<-".join)
@pytest.mark.parametrize("method", METHODS)
def test_batch_of_one_image(method, pair):
    assert_trains(*train_step(method, *networks(*pair), images=1))


@pytest.mark.parametrize("method", METHODS)
def test_losses_under_autocast_are_those_of_float32(method):
    _, expected = train_step(method, *networks("resnet8", "resnet14"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        distiller, losses = train_step(method, *networks("resnet8", "resnet14"))
    assert_trains(distiller, losses)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name], rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_teacher_whose_features_are_zero(method):
    student, teacher = networks("resnet8", "resnet14")
    for norm in (module for module in teacher.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        torch.nn.init.zeros_(norm.weight)
    assert_trains(*train_step(method, student, teacher))


@pytest.mark.parametrize("method", METHODS)
def test_building_leaves_both_networks_as_they_were(method):
    student, teacher = networks("vgg8", "MobileNetV2")
    before = [{key: value.clone() for key, value in network.state_dict().items()} for network in (student, teacher)]
    build(method, student.train(), teacher)
    assert student.training
    for network, state in zip((student, teacher), before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_extra_parameters_are_counted_and_learned(method):
    student, teacher = networks("resnet8", "vgg8")
    distiller = build(method, student, teacher)
    learnable = sum(parameter.numel() for parameter in distiller.get_learnable_parameters())
    assert distiller.get_extra_parameters() == learnable - sum(p.numel() for p in student.parameters())
    assert (distiller.get_extra_parameters() > 0) == (method in WITH_PARAMETERS)


def test_ofd_teacher_is_frozen_but_takes_the_statistics_of_the_batch():
    student, teacher = networks("resnet8", "resnet14")
    weights = copy.deepcopy(list(teacher.parameters()))
    distiller, _ = train_step("OFD", student, teacher)
    assert teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(old, new) for old, new in zip(weights, teacher.parameters(), strict=True))
    assert teacher.bn1.num_batches_tracked == 1
    assert not distiller.eval().teacher.training


def test_reviewkd_takes_the_students_maps_before_the_activation_where_asked():
    cfg = CFG.clone()
    cfg.REVIEWKD.STU_PREACT = True
    distiller, losses = train_step("REVIEWKD", *networks("resnet8", "resnet14"), cfg=cfg)
    assert_trains(distiller, losses)
    _, after = train_step("REVIEWKD", *networks("resnet8", "resnet14"))
    assert losses["loss_kd"] != after["loss_kd"]


def test_fitnet_refuses_a_layer_that_a_network_lacks():
    cfg = CFG.clone()
    cfg.FITNET.HINT_LAYER = 4
    with pytest.raises(UserError, match=r"HINT_LAYER is 4; student and teacher share the layers 0 to 3"):
        build("FITNET", *networks("resnet8", "vgg8"), cfg)


def test_fitnet_says_what_to_type_where_the_images_have_another_size():
    student, teacher = networks("vgg8", "MobileNetV2")
    cfg = CFG.clone()
    cfg.FITNET.HINT_LAYER = 4
    distiller = build("FITNET", student, teacher, cfg).train()
    with pytest.raises(UserError, match=r"type DATASET\.IMAGE_SIZE and the side of the images"):
        distiller(image=torch.zeros(2, 3, 64, 64), target=torch.arange(2), epoch=1)
    cfg.DATASET.IMAGE_SIZE = 64
    distiller = build("FITNET", student, teacher, cfg).train()
    distiller(image=torch.zeros(2, 3, 64, 64), target=torch.arange(2), epoch=1)


def test_fitnet_takes_its_own_size_where_the_data_has_none():
    cfg = CFG.clone()
    cfg.FITNET.HINT_LAYER = 4
    cfg.FITNET.INPUT_SIZE = (64, 64)
    distiller = build("FITNET", *networks("vgg8", "MobileNetV2"), cfg).train()
    distiller(image=torch.zeros(2, 3, 64, 64), target=torch.arange(2), epoch=1)


def test_vid_learns_its_variances():
    distiller, _ = train_step("VID", *networks("resnet8", "resnet14"))
    learnable = {id(parameter) for parameter in distiller.get_learnable_parameters()}
    assert all(id(scale) in learnable and scale.grad.any() for scale in distiller.log_scales)
    variance = torch.nn.functional.softplus(distiller.log_scales[0]) + CFG.VID.EPS
    torch.testing.assert_close(variance, torch.full((16,), CFG.VID.INIT_PRED_VAR))


@pytest.mark.parametrize("copies", [2, 4])
def test_rkd_of_equal_images_has_moderate_gradients(copies):
    student, teacher = networks("resnet8", "resnet14")
    distiller = build("RKD", student.eval(), teacher).eval()
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    image[:copies] = image[0]
    distiller.training = True
    _, losses = distiller(image=image, target=torch.arange(4), epoch=1)
    losses["loss_kd"].backward()
    assert all(p.grad.abs().max() < 1e4 for p in student.parameters() if p.grad is not None)


def test_every_feature_method_is_covered():
    logit_methods = {name for name, cls in DISTILLERS.items() if issubclass(cls, LogitDistiller)}
    assert set(METHODS) == set(DISTILLERS) - logit_methods - {"NONE"} | {"SDD"}


def test_more_singular_vectors_than_the_smallest_map_has_are_refused_when_built():
    cfg = CFG.clone()
    student, teacher = (build_model("cifar100", "resnet8", 5) for _ in range(2))
    for side, most in ((32, 8), (16, 4)):
        cfg.DATASET.IMAGE_SIZE, cfg.KDSVD.K = side, most
        build_distiller("KDSVD", student, teacher, cfg)
        cfg.KDSVD.K = most + 1
        with pytest.raises(UserError, match=rf"^KDSVD.K is {most + 1}; expected at most {most}"):
            build_distiller("KDSVD", student, teacher, cfg)
