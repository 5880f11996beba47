"""Networks for 32x32 and 64x64 images, by published name; each value takes `num_classes`."""

from collections.abc import Callable

from torch import nn

from mdistiller.models.cifar import (
    mobilenetv2,
    mobilenetv2_tiny,
    resnet,
    resnetv2,
    shufflenetv1,
    shufflenetv2,
    vgg,
    wrn,
)

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **resnet.NETWORKS,
    **resnetv2.NETWORKS,
    **wrn.NETWORKS,
    **vgg.NETWORKS,
    **mobilenetv2.NETWORKS,
    **shufflenetv1.NETWORKS,
    **shufflenetv2.NETWORKS,
}

# MDistiller's for Tiny-ImageNet are these, but for a MobileNetV2 of its own.
TINY_IMAGENET_NETWORKS: dict[str, Callable[..., nn.Module]] = {**NETWORKS, **mobilenetv2_tiny.NETWORKS}
