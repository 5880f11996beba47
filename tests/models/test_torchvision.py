"""Weights of torchvision load, and give torchvision's outputs."""

import pytest
import torch
import torchvision

from mdistiller.models import build_model
from tests.models.networks import random_images


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("ResNet18", torchvision.models.resnet18),
        ("ResNet34", torchvision.models.resnet34),
        ("ResNet50", torchvision.models.resnet50),
        ("ResNet101", torchvision.models.resnet101),
        ("MobileNetV2", torchvision.models.mobilenet_v2),
    ],
)
@torch.no_grad()
def test_torchvision_weights_give_torchvision_logits(name, theirs):
    torch.manual_seed(0)
    images = random_images(2, size=64)
    reference = theirs()
    reference(images)  # moves the running statistics
    network = build_model("imagenet", name, num_classes=1000)
    network.load_state_dict(reference.state_dict(), strict=True)
    torch.testing.assert_close(network.eval()(images)[0], reference.eval()(images), rtol=1e-6, atol=1e-6)
