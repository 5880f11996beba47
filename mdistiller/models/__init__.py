"""Networks by data set and published name.

A network's `forward(x)`, x (batch, 3, height, width), returns `(logits, features)` with

- `features["feats"]`: a list of maps (batch, channels, height, width), the stem's first, then one a stage; MobileNetV1
  lists no stem, as published;
- `features["preact_feats"]`: the same maps before the last activation, as many;
- `features["final_map"]`: (batch, channels, height, width), the map whose global average is `pooled_feat`;
- `features["pooled_feat"]`: (batch, channels), what the classifier reads.

`get_stage_channels()` lists the channels of `feats`; `get_bn_before_relu()` lists, for every entry of `preact_feats`
but the stem's, the last batch norm before it, as wide as the entry.
"""

from collections.abc import Callable

from torch import nn

from mdistiller.errors import UserError, nearest
from mdistiller.models import cifar, imagenet
from mdistiller.models._common import Features, find_classifier, probe_features
from mdistiller.models.published import cifar_model_dict, imagenet_model_dict, tiny_imagenet_model_dict
from mdistiller.models.reused import PLUS, Reused

__all__ = [
    "Features",
    "build_model",
    "canonical_name",
    "cifar_model_dict",
    "find_classifier",
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


def build_model(dataset: str, name: str, num_classes: int) -> nn.Module:
    """A freshly initialised network; `dataset` is "cifar100", "tiny_imagenet" or "imagenet".

    `first+second` is the first network with the classifier of the second, behind a projector (`Reused`).
    """
    if PLUS in name:
        first, second = (build_model(dataset, part, num_classes) for part in name.split(PLUS, 1))
        return Reused(first, second)
    return _networks_of(dataset)[canonical_name(dataset, name)](num_classes=num_classes)


def model_names(dataset: str) -> list[str]:
    """The names `build_model` knows for `dataset`, aliases left out."""
    return list(_networks_of(dataset))


def canonical_name(dataset: str, name: str) -> str:
    """`name` itself, or the network that the alias `name` stands for; case does not count.

    Raises UserError, naming the nearest network and listing them all, where there is none.
    """
    if PLUS in name:
        return PLUS.join(canonical_name(dataset, part) for part in name.split(PLUS, 1))
    networks = _networks_of(dataset)
    spellings = {network.lower(): network for network in networks}
    spellings |= {alias: network for alias, network in _ALIASES.items() if network in networks}
    if name.lower() not in spellings:
        raise UserError(
            f"unknown network {name!r}{nearest(name, networks)}; valid for {dataset}: {', '.join(networks)}"
        )
    return spellings[name.lower()]


def _networks_of(dataset: str) -> dict[str, Callable[..., nn.Module]]:
    if dataset not in _NETWORKS:
        raise UserError(f"unknown dataset {dataset!r}{nearest(dataset, _NETWORKS)}; valid: {', '.join(_NETWORKS)}")
    return _NETWORKS[dataset]
