"""Where in a weight file's content a network's state dict is, and what else the file says of itself."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from mdistiller.models import find_classifiers

# Places that are taken before others that fit as well, in this order.
DOCUMENTED = ("model",), ("state_dict",), ("model_state_dict",), ()
MOST_PLACES, DEEPEST, MOST_PREFIXES = 10_000, 10, 50  # dicts that are looked at, keys to one, prefixes in one
COUNTER = "num_batches_tracked"  # of a batch norm, which files from before torch 0.4.1 lack

LONGEST_TEXT, LONGEST_CONFIG, MOST_VALUES = 500, 100_000, 100_000  # characters; values in a dict of `meta`
META_TYPES: dict[str, type] = {
    **dict.fromkeys(("run", "launch", "network", "models", "teacher", "teacher_sha256", "distiller"), str),
    **dict.fromkeys(("chosen_by", "config", "arguments"), str),
    **dict.fromkeys(("epoch", "num_classes", "processes"), int),
    **dict.fromkeys(("top1", "top5", "loss", "teacher_top1"), float),
    **dict.fromkeys(("dataset", "normalisation", "versions"), dict),
}


class Candidate(NamedTuple):
    """Tensors of a file that may be a network's, by the names that are left of theirs without `prefix`.

    place: the keys that lead to them; fits: whether they are the network's, but for the classes of its last layer;
    common: how many of the network's names they have.
    """

    place: tuple[str, ...]
    prefix: str
    tensors: dict[str, torch.Tensor]
    fits: bool
    common: int

    @property
    def preference(self) -> tuple[bool, int, bool, bool, int]:
        """The lower, the rather it is meant: a plain network before an average, a student before a teacher."""
        words = set(re.split(r"[._]", ".".join([*self.place, self.prefix]).lower()))
        place = DOCUMENTED.index(self.place) if self.place in DOCUMENTED else len(DOCUMENTED)
        is_average = bool(words & {"ema", "swa", "avg", "averaged", "shadow"})
        return not self.fits, -self.common, is_average, "teacher" in words, place

    def __str__(self) -> str:
        return repr(".".join([*self.place, self.prefix]).strip("."))


def find_state_dict(content: dict[Any, Any], network: nn.Module | None) -> list[Candidate]:
    """The state dict of `network` in `content`; more where several fit equally and differ; none where there is none.

    It is looked for in all nested dicts, whatever these are called, and behind any prefix that all its names have.
    Where none fits, it is the one that shares the most names; without a network, the first in a documented place.
    """
    expected = {} if network is None else network.state_dict()
    classifier = [] if network is None else classifier_names(network)
    found = [
        compared(place, prefix, tensors, expected, classifier)
        for place, dict_of_tensors in state_dicts(content)
        for prefix, tensors in by_prefix(dict_of_tensors, expected)
    ]
    found.sort(key=lambda candidate: candidate.preference)
    equal = [other for other in found[1:] if other.fits and other.preference == found[0].preference]
    return [*found[:1], *(other for other in equal if not are_equal(found[0].tensors, other.tensors))]


def classifier_names(network: nn.Module) -> list[str]:
    """Names of the weights and biases of the layers of `network` that give its logits."""
    heads = {id(parameter) for head in find_classifiers(network) for parameter in head.parameters()}
    return [name for name, parameter in network.named_parameters() if id(parameter) in heads]


def state_dicts(content: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, torch.Tensor]]]:
    """Place and tensors of each dict in `content` that has tensors by names, the outer ones first."""
    dicts: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    seen = {id(content)}  # one may be in many places
    for place, values in dicts:
        named = {key: value for key, value in values.items() if isinstance(key, str)}
        if tensors := {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}:
            yield place, tensors
        for key, value in named.items():
            if isinstance(value, Mapping) and id(value) not in seen and len(place) < DEEPEST:
                seen.add(id(value))
                dicts.append(((*place, key), value))
        if len(dicts) > MOST_PLACES:
            return


def by_prefix(
    tensors: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """`tensors` as they are and, for each prefix that the last name of the network has there, those that have it."""
    yield "", tensors
    last = next((name for name in reversed(list(expected)) if not name.endswith(COUNTER)), None)
    prefixes = {name.removesuffix(last) for name in tensors if name.endswith(f".{last}")} if last else set()
    for prefix in sorted(prefixes, key=lambda prefix: (len(prefix), prefix))[:MOST_PREFIXES]:
        yield prefix, {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def compared(
    place: tuple[str, ...],
    prefix: str,
    tensors: dict[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    classifier: list[str],
) -> Candidate:
    """A candidate, held against the names and shapes of the network's state dict. classifier: its names there."""
    common = [name for name in expected if name in tensors and not name.endswith(COUNTER)]
    wanted = sum(not name.endswith(COUNTER) for name in expected)
    has_shapes = all(
        tensors[name].shape == expected[name].shape or (name in classifier and is_alike(tensors[name], expected[name]))
        for name in common
    )
    fits = len(common) == wanted and tensors.keys() <= expected.keys() and has_shapes
    return Candidate(place, prefix, tensors, fits, len(common))


def is_alike(tensor: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the tensors of a last layer differ in their number of classes at most."""
    return tensor.dim() > 0 and tensor.shape[1:] == other.shape[1:]


def are_equal(tensors: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return tensors.keys() == others.keys() and all(torch.equal(tensors[name], others[name]) for name in tensors)


def known_meta(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries of a file's `meta` that have the types ours have; a file may come from anywhere."""
    meta = content.get("meta")
    if not isinstance(meta, dict):
        return {}
    meta = {key: value for key, value in meta.items() if isinstance(value, META_TYPES.get(key, ()))}
    for key, value in list(meta.items()):
        is_short = not isinstance(value, str) or len(value) <= (LONGEST_CONFIG if key == "config" else LONGEST_TEXT)
        if not is_short or (isinstance(value, dict) and not is_plain(value)):
            del meta[key]
    classes = meta.get("dataset", {}).get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        meta["dataset"] = {key: value for key, value in meta["dataset"].items() if key != "classes"}
    return meta if 0 <= meta.get("top1", 0.0) <= 100 else {}


def meta_as_texts(meta: Mapping[str, Any]) -> dict[str, str]:
    """A `meta` for formats that keep texts alone: what is none becomes JSON; None is left out."""
    entries = {key: value for key, value in meta.items() if value is not None}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in entries.items()}


def meta_from_texts(texts: Mapping[str, str]) -> dict[str, Any]:
    """The `meta` that `meta_as_texts` wrote, without what is no JSON."""
    meta: dict[str, Any] = {}
    for key, text in texts.items():
        with contextlib.suppress(ValueError, RecursionError):
            meta[key] = text if META_TYPES.get(key) is str else json.loads(text)
    return meta


def is_plain(values: dict[Any, Any]) -> bool:
    """Whether `values` are text, numbers and None, in dicts and lists of which none is in two places."""
    todo: list[Any] = [values]
    count, seen = 0, set()
    while todo:
        value = todo.pop()
        count += 1
        if isinstance(value, (dict, list, tuple)):
            if id(value) in seen or count > MOST_VALUES:
                return False
            seen.add(id(value))
            todo += value.values() if isinstance(value, dict) else value
        elif not isinstance(value, (str, int, float, type(None))):
            return False
    return True
