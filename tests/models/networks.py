"""What the tests of this folder share: the published numbers and small images."""

import json
from pathlib import Path

import torch

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "models.json").read_text())
CIFAR_NAMES = sorted(key.removeprefix("cifar100/") for key in GOLDEN if key.startswith("cifar100/"))

ONE_PER_FAMILY = ("resnet8", "resnet8x4", "ResNet18", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2")


def random_images(batch, size=32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
