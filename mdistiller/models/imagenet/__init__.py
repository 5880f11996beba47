"""Networks for 224x224 images, by published name; each value takes `num_classes`."""

from mdistiller.models.imagenet import mobilenetv1, mobilenetv2, resnet

NETWORKS = {**resnet.NETWORKS, **mobilenetv1.NETWORKS, **mobilenetv2.NETWORKS}
