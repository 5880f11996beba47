"""Networks by data set and published name.

A network's `forward(x)`, x (batch, 3, height, width), returns `(logits, features)` with

- `features["feats"]`: a list of maps (batch, channels, height, width), the stem's first, then one a stage;
- `features["preact_feats"]`: the same maps before the last activation, as many;
- `features["pooled_feat"]`: (batch, channels), what the classifier reads.

`get_stage_channels()` lists the channels of `feats`; `get_bn_before_relu()` lists, for every entry of `preact_feats`
but the stem's, the last batch norm before it, as wide as the entry.
"""

import difflib

from mdistiller.errors import UserError
from mdistiller.models import cifar, imagenet

_NETWORKS = {"cifar100": cifar.NETWORKS, "tiny_imagenet": cifar.NETWORKS, "imagenet": imagenet.NETWORKS}

# Names under which weight files were published.
_ALIASES = {"shufflenetv1": "ShuffleV1", "shufflenetv2": "ShuffleV2", "mobilenetv2": "MobileNetV2"}


def build_model(dataset, name, num_classes):
    """A freshly initialised network; `dataset` is "cifar100", "tiny_imagenet" or "imagenet"."""
    return _networks_of(dataset)[canonical_name(dataset, name)](num_classes=num_classes)


def model_names(dataset):
    """The names `build_model` knows for `dataset`, aliases left out."""
    return list(_networks_of(dataset))


def canonical_name(dataset, name):
    """`name` itself, or the network that the alias `name` stands for."""
    networks = _networks_of(dataset)
    canonical = _ALIASES.get(name, name)
    if canonical in networks:
        return canonical
    aliases = {alias: network for alias, network in _ALIASES.items() if network in networks}
    raise _unknown("network", name, networks, aliases, where=f" for {dataset}")


def _networks_of(dataset):
    if dataset not in _NETWORKS:
        raise _unknown("dataset", dataset, _NETWORKS)
    return _NETWORKS[dataset]


def _unknown(kind, name, valid, aliases=None, where=""):
    """The error for a name outside `valid`; case does not count in finding the nearest."""
    spellings = {spelling.lower(): spelling for spelling in valid} | (aliases or {})
    nearest = difflib.get_close_matches(str(name).lower(), spellings, n=1)
    hint = f" did you mean {spellings[nearest[0]]}?" if nearest else ""
    return UserError(f"unknown {kind} {name!r}{where};{hint} valid names: {', '.join(valid)}")
