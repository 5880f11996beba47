"""Fresh weights follow the published distributions."""

import pytest
import torch
from torch import nn

from mdistiller.models import build_model
from mdistiller.models.cifar.resnetv2 import BasicBlock, ResNet


def build(name):
    torch.manual_seed(0)
    return build_model("cifar100", name, num_classes=100)


def largest(network, kind):
    return max((module for module in network.modules() if isinstance(module, kind)), key=lambda m: m.weight.numel())


@pytest.mark.parametrize("name", ["resnet20", "ResNet18", "wrn_16_2", "vgg8", "MobileNetV2"])
def test_convolutions_are_normal_with_fan_out(name):
    convolution = largest(build(name), nn.Conv2d)
    fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
    assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize("name", ["ShuffleV1", "ShuffleV2"])
def test_shufflenet_convolutions_keep_the_uniform_default(name):
    convolution = largest(build(name), nn.Conv2d)
    bound = convolution.weight[0].numel() ** -0.5
    assert 0.99 * bound < convolution.weight.abs().max().item() <= bound


@pytest.mark.parametrize("name", ["vgg8", "MobileNetV2"])
def test_classifier_is_normal_with_deviation_one_hundredth(name):
    assert largest(build(name), nn.Linear).weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("name", ["wrn_16_2", "vgg8", "MobileNetV2"])
def test_classifier_bias_is_zero(name):
    assert not largest(build(name), nn.Linear).bias.any()


def test_vgg_convolution_biases_are_zero():
    network = build("vgg8")
    assert not any(module.bias.any() for module in network.modules() if isinstance(module, nn.Conv2d))


def test_zero_init_residual_starts_blocks_as_the_identity():
    network = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10, zero_init_residual=True)
    assert not any(norm.weight.any() for norm in network.get_bn_before_relu())
