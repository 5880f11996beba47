"""Fresh weights follow the published distributions."""

import pytest
from torch import nn

from mdistiller.models.cifar.resnetv2 import BasicBlock, ResNet
from tests.models.networks import build


def largest(network, kind):
    return max((module for module in network.modules() if isinstance(module, kind)), key=lambda m: m.weight.numel())


@pytest.mark.parametrize(
    "path",
    [
        *("cifar100/resnet20", "cifar100/ResNet18", "cifar100/wrn_16_2", "cifar100/vgg8", "cifar100/MobileNetV2"),
        *("imagenet/ResNet18", "imagenet/ResNet50", "imagenet/MobileNetV2"),
    ],
)
def test_convolutions_are_normal_with_fan_out(path):
    convolution = largest(build(path), nn.Conv2d)
    fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
    assert convolution.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    "path", ["cifar100/ShuffleV1", "cifar100/ShuffleV2", "imagenet/MobileNetV1", "tiny_imagenet/MobileNetV2"]
)
def test_shufflenet_mobilenetv1_and_tiny_imagenets_mobilenetv2_convolutions_keep_the_uniform_default(path):
    convolution = largest(build(path), nn.Conv2d)
    bound = convolution.weight[0].numel() ** -0.5
    assert 0.99 * bound < convolution.weight.abs().max().item() <= bound


@pytest.mark.parametrize("path", ["cifar100/vgg8", "cifar100/MobileNetV2", "imagenet/MobileNetV2"])
def test_classifier_is_normal_with_deviation_one_hundredth(path):
    assert largest(build(path), nn.Linear).weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("path", ["cifar100/wrn_16_2", "cifar100/vgg8", "cifar100/MobileNetV2", "imagenet/MobileNetV2"])
def test_classifier_bias_is_zero(path):
    assert not largest(build(path), nn.Linear).bias.any()


def test_vgg_convolution_biases_are_zero():
    network = build("cifar100/vgg8")
    assert not any(module.bias.any() for module in network.modules() if isinstance(module, nn.Conv2d))


def test_zero_init_residual_starts_blocks_as_the_identity():
    network = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10, zero_init_residual=True)
    assert not any(norm.weight.any() for norm in network.get_bn_before_relu())
