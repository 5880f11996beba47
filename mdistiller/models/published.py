"""MDistiller's tables of networks: by name, what makes one, and where the weights of a teacher are put."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import nn

from mdistiller.errors import UserError
from mdistiller.models import cifar, imagenet

CHECKPOINTS = Path(__file__).resolve().parents[2] / "download_ckpts"
CIFAR_TEACHERS = "resnet56", "resnet110", "resnet32x4", "ResNet50", "wrn_40_2", "vgg13"
TINY_IMAGENET_TEACHERS = {"ResNet18": str(CHECKPOINTS / "tiny_imagenet_teachers/ResNet18_vanilla/ti_res18")}

# Our names of the ImageNet networks that torchvision has, and its own.
TORCHVISION_NAMES = {
    "ResNet18": "resnet18",
    "ResNet34": "resnet34",
    "ResNet50": "resnet50",
    "ResNet101": "resnet101",
    "MobileNetV2": "mobilenet_v2",
}

Entry = tuple[Callable[..., nn.Module], str | None]


def cifar_teacher(name: str) -> str:
    """Where MDistiller keeps the weights of a teacher for CIFAR-100."""
    return str(CHECKPOINTS / "cifar_teachers" / f"{name}_vanilla" / "ckpt_epoch_240.pth")


def build_imagenet(name: str, pretrained: bool = False, num_classes: int = 1000) -> nn.Module:
    """The ImageNet network `name`; pretrained: with torchvision's IMAGENET1K_V1 weights, downloaded where missing.

    Raises UserError where there are none, or none that can be downloaded.
    """
    network = imagenet.NETWORKS[name](num_classes=num_classes)
    if not pretrained:
        return network
    if name not in TORCHVISION_NAMES or num_classes != 1000:
        raise UserError(f"{name} of {num_classes} classes has no pretrained weights; expected pretrained=False")
    from torchvision.models import get_model  # torchvision takes a second to import

    try:
        weights = get_model(TORCHVISION_NAMES[name], weights="IMAGENET1K_V1").state_dict()
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name}'s pretrained weights cannot be downloaded: {error}") from error
    network.load_state_dict(weights)
    return network


cifar_model_dict: dict[str, Entry] = {
    name: (network, cifar_teacher(name) if name in CIFAR_TEACHERS else None) for name, network in cifar.NETWORKS.items()
}
tiny_imagenet_model_dict: dict[str, Entry] = {
    name: (network, TINY_IMAGENET_TEACHERS.get(name)) for name, network in cifar.TINY_IMAGENET_NETWORKS.items()
}
imagenet_model_dict: dict[str, Callable[..., nn.Module]] = {
    name: partial(build_imagenet, name) for name in imagenet.NETWORKS
}
