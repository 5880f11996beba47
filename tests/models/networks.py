"""What the tests of this folder share: networks as `dataset/name`, the published numbers and small images."""

import json
from pathlib import Path

import torch

from mdistiller.models import build_model, model_names

GOLDEN_FILES = [Path(__file__).parents[1] / "golden" / name for name in ("models.json", "tiny_imagenet.json")]
GOLDEN = {key: entry for file in GOLDEN_FILES for key, entry in json.loads(file.read_text()).items()}
PUBLISHED = sorted(key.removeprefix("cifar100/") for key in GOLDEN if key.startswith("cifar100/"))
CIFAR_NAMES, IMAGENET_NAMES = model_names("cifar100"), model_names("imagenet")

ALL = [f"cifar100/{name}" for name in CIFAR_NAMES] + [f"imagenet/{name}" for name in IMAGENET_NAMES]
ALL += ["tiny_imagenet/MobileNetV2"]  # the others are those of CIFAR-100
ONE_PER_FAMILY = (
    *("cifar100/resnet8", "cifar100/resnet8x4", "cifar100/ResNet18", "cifar100/wrn_16_1", "cifar100/vgg8"),
    *("cifar100/MobileNetV2", "cifar100/ShuffleV1", "cifar100/ShuffleV2", "tiny_imagenet/MobileNetV2"),
    *("imagenet/ResNet18", "imagenet/ResNet50", "imagenet/MobileNetV1", "imagenet/MobileNetV2"),
)
SIZES = {
    "cifar100": 32,
    "tiny_imagenet": 32,
    "imagenet": 64,
}  # the smallest images of which every map has more than one entry


def build(path, num_classes=100):
    torch.manual_seed(0)
    return build_model(*path.split("/"), num_classes)


def images_for(path, batch):
    return random_images(batch, SIZES[path.split("/")[0]])


def random_images(batch, size=32):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
