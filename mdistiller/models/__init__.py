"""Networks by data set and published name.

A network's `forward(x)`, x (batch, 3, height, width), returns `(logits, features)` with

- `features["feats"]`: a list of maps (batch, channels, height, width), the stem's first, then one a stage; MobileNetV1
  lists no stem, as published;
- `features["preact_feats"]`: the same maps before the last activation, as many;
- `features["final_map"]`: (batch, channels, height, width), the map whose global average is `pooled_feat`;
- `features["pooled_feat"]`: (batch, channels), what the classifier reads;
- `features["heads"]`, in training and of a network with a distillation token alone: two of (batch, classes), the logits
  of the class and of the token, whose mean the network's logits are.

`get_stage_channels()` lists the channels of `feats`; `get_bn_before_relu()` lists, for every entry of `preact_feats`
but the stem's, the last batch norm before it, as wide as the entry.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from mdistiller.errors import UserError, nearest
from mdistiller.models import cifar, imagenet
from mdistiller.models._common import Features, find_classifier, find_classifiers, probe_features
from mdistiller.models.others import build_other, canonical_other, is_other
from mdistiller.models.published import cifar_model_dict, imagenet_model_dict, tiny_imagenet_model_dict
from mdistiller.models.reused import PLUS, Reused

__all__ = [
    "Features",
    "build_model",
    "canonical_name",
    "cifar_model_dict",
    "find_classifier",
    "find_classifiers",
    "imagenet_model_dict",
    "model_names",
    "probe_features",
    "tiny_imagenet_model_dict",
]

_NETWORKS: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "cifar100": cifar.NETWORKS,
    "tiny_imagenet": cifar.TINY_IMAGENET_NETWORKS,
    "imagenet": imagenet.NETWORKS,
}

# Names under which weight files were published.
_ALIASES = {"shufflenetv1": "ShuffleV1", "shufflenetv2": "ShuffleV2", "mobilenetv2": "MobileNetV2"}


def build_model(
    dataset: str,
    name: str,
    num_classes: int,
    arguments: Mapping[str, Any] | None = None,
    image_size: int | None = None,
) -> nn.Module:
    """A freshly initialised network; `dataset` is "cifar100", "tiny_imagenet" or "imagenet".

    name: one of ours for that data, or of others: `torchvision:resnet18`, `timm:vit_tiny_patch16_224`, or a class or
    function in a file, `path/to/net.py:make_net`. arguments: of what makes a network of others; image_size: a side of
    its images, in pixels. `first+second` is the first network with the classifier of the second, behind a projector
    (`Reused`); arguments are then the first's.
    Raises UserError for an unknown name, and for what cannot be built or does not fit.
    """
    if PLUS in name:
        own, other = name.split(PLUS, 1)
        network = build_model(dataset, own, num_classes, arguments, image_size)
        return Reused(network, build_model(dataset, other, num_classes, None, image_size), image_size or 32)
    name, arguments = canonical_name(dataset, name), arguments or {}
    if is_other(name):
        return build_other(name, num_classes, arguments, image_size)
    if arguments:
        raise UserError(f"{name} takes no arguments, as networks of others do; leave {', '.join(arguments)} out")
    return _networks_of(dataset)[name](num_classes=num_classes)


def model_names(dataset: str) -> list[str]:
    """The names `build_model` knows for `dataset`, aliases left out."""
    return list(_networks_of(dataset))


def canonical_name(dataset: str, name: str) -> str:
    """`name` itself, or the network that the alias `name` stands for; case does not count.

    Raises UserError, naming the nearest network and listing them all, where there is none.
    """
    if PLUS in name:
        return PLUS.join(canonical_name(dataset, part) for part in name.split(PLUS, 1))
    if is_other(name):
        return canonical_other(name)
    networks = _networks_of(dataset)
    spellings = {network.lower(): network for network in networks}
    spellings |= {alias: network for alias, network in _ALIASES.items() if network in networks}
    if name.lower() not in spellings:
        raise UserError(
            f"unknown network {name!r}{nearest(name, networks)}; valid for {dataset}: {', '.join(networks)}, "
            "torchvision:NAME, timm:NAME and path/to/net.py:NAME"
        )
    return spellings[name.lower()]


def _networks_of(dataset: str) -> dict[str, Callable[..., nn.Module]]:
    if dataset not in _NETWORKS:
        raise UserError(f"unknown dataset {dataset!r}{nearest(dataset, _NETWORKS)}; valid: {', '.join(_NETWORKS)}")
    return _NETWORKS[dataset]
