"""Small networks of others, to test on."""

import importlib.util

import torch

from mdistiller.models.others import build_other, maker_of

TORCHVISION = (
    *("resnet18", "vgg11_bn", "densenet121", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf"),
    *("convnext_tiny", "shufflenet_v2_x0_5", "swin_t", "vit_b_16"),
)
TIMM = (
    *("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "mobilenetv4_conv_small", "regnety_002"),
    *("convnext_atto", "resnet18d"),
)
NETWORKS = [f"torchvision:{name}" for name in TORCHVISION]
if importlib.util.find_spec("timm"):
    NETWORKS += [f"timm:{name}" for name in TIMM]
CLASSES = 10


def build(name, size, adapted=True):
    """The network `name` with random weights, for images of `size`."""
    torch.manual_seed(0)
    if adapted:
        return build_other(name, CLASSES, {}, size)
    sided = {"torchvision:vit_b_16": {"image_size": size}}.get(name, {})
    if name.startswith("timm:") and ("vit" in name or "deit" in name):
        sided = {"img_size": size}
    return maker_of(name)(num_classes=CLASSES, **sided)


def images(size):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def outputs(network, size=64):
    """What the network returns for two images."""
    return network.eval()(images(size))
