"""Networks for 224x224 images, by published name; each value takes `num_classes`."""

from collections.abc import Callable

from torch import nn

from mdistiller.models.imagenet import mobilenetv1, mobilenetv2, resnet

NETWORKS: dict[str, Callable[..., nn.Module]] = {**resnet.NETWORKS, **mobilenetv1.NETWORKS, **mobilenetv2.NETWORKS}
