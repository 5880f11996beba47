"""Weight files: every published form is read, one form is written."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mdistiller.dataset import IMAGENET_WNIDS
from mdistiller.errors import UserError
from mdistiller.files import open_regular

from .archive import check_file
from .layouts import COUNTER, classifier_names, find_state_dict, is_alike, known_meta, meta_from_texts
from .writing import atomic_write

KNOWN_TYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64
SCALAR = np.float64(0).__reduce__()[0]  # what a pickle makes NumPy numbers with
# Harmless types that published checkpoints keep beside their tensors: options and accuracies.
SAFE_TYPES: list[Any] = [
    argparse.Namespace,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
    np.dtypes.Int64DType,
    (SCALAR, "numpy.core.multiarray.scalar"),
    (SCALAR, "numpy._core.multiarray.scalar"),
]


def read_checkpoint(path: str | Path, stays: bool = False) -> dict[str, Any]:
    """The content of the weight file `path`, on the CPU.

    stays: the file is not written to while the content is used, whose tensors then are read when they are needed.
    Raises UserError, in one line that names the file, for what is missing, no weight file, damaged, or holds code.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            kind = check_file(file, path)
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {error.strerror or error}; expected a .pth file") from error
    if kind == "safetensors":
        return _read_safetensors(path)
    try:
        with torch.serialization.safe_globals(SAFE_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=stays and kind == "zip")
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise UserError(f"weights {path} are damaged or truncated; download or train them again") from error
    if not isinstance(content, dict):
        raise UserError(f"weights {path} hold a {type(content).__name__}; expected a state dict of tensors")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        from safetensors import safe_open
        from safetensors.torch import load_file
    except ImportError as error:
        raise UserError(f"weights {path} are a safetensors file; type: pip install safetensors") from error
    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata() or {}
        return {"model": load_file(path), "meta": meta_from_texts(texts)}
    except Exception as error:  # an exception of its own, an OSError, an unknown type of numbers
        raise UserError(f"weights {path} are damaged or truncated; download or train them again") from error


def read_weights(path: str | Path, network: nn.Module | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict and `meta` (empty where there is none) of a weight file in any published form.

    A bare state dict, or one in nested dicts; its names may have a prefix, such as those of DataParallel and of a
    distiller. network: whose state dict is meant, where the file has several; its names then have no prefix.
    """
    content = read_checkpoint(path, stays=True)
    found = find_state_dict(content, network)
    if not found:
        raise UserError(f"weights {path} hold no state dict of plain tensors; expected one, bare or under 'model'")
    if len(found) > 1:
        raise UserError(
            f"weights {path} hold {len(found)} state dicts that fit and differ, {found[0]} and {found[1]}; save the "
            "one that you mean with torch.save"
        )
    return dict(found[0].tensors), known_meta(content)


def read_meta(path: str | Path) -> dict[str, Any]:
    """What the weight file `path` says of itself; empty where it says nothing. Raises UserError as `read_weights`."""
    return read_weights(path)[1]


def weights_classes(state_dict: dict[str, Any], meta: dict[str, Any], network: nn.Module) -> list[str] | None:
    """Names of the classes that the weights of a network like `network` score, in order, as far as they are known.

    Known are those in `meta`; a file without, that scores 1000 classes, is taken for a published one of ImageNet.
    """
    scores = next((state_dict[name] for name in reversed(classifier_names(network)) if name in state_dict), None)
    is_imagenets = scores is not None and scores.shape[:1] == (len(IMAGENET_WNIDS),)
    return meta.get("dataset", {}).get("classes") or (IMAGENET_WNIDS if is_imagenets else None)


def check_scores(state_dict: dict[str, Any], known: list[str], network: nn.Module, path: str | Path) -> None:
    """Raise UserError where the last layer at `path`, of a network like `network`, scores not as many as `known`."""
    for name in classifier_names(network):
        if name in state_dict and state_dict[name].shape[:1] != (len(known),):
            raise UserError(
                f"weights {path} are damaged: they name {len(known)} classes, and {name!r} has the shape "
                f"{tuple(state_dict[name].shape)}; download or train them again"
            )


def rows_of(classes: list[str], known: list[str] | None) -> list[int] | None:
    """Places of `classes` among the more classes `known`; None where they are not a part of them."""
    if known is None or not set(classes) < set(known):
        return None
    row_of = {name: row for row, name in enumerate(known)}
    return [row_of[name] for name in classes]


def check_classes(theirs: list[str], classes: list[str], path: str | Path) -> None:
    """Raise UserError where the weights at `path`, of the classes `theirs`, score others than `classes`."""
    if len(theirs) != len(classes):
        raise UserError(
            f"weights {path} were trained on {len(theirs)} classes, the data has {len(classes)}; "
            "name weights trained on these classes"
        )
    if theirs != classes:
        pairs = zip(theirs, classes, strict=True)
        number, (their, our) = next((i, pair) for i, pair in enumerate(pairs) if pair[0] != pair[1])
        raise UserError(
            f"weights {path} were trained on other classes than the data's {len(classes)}: class {number} of their "
            f"{len(theirs)} is {their!r}, not {our!r}; name weights trained on these classes"
        )


def load_weights(
    network: nn.Module,
    path: str | Path,
    name: str,
    classes: list[str] | None = None,
    keeps_classifier: bool = False,
) -> dict[str, Any]:
    """Load the weight file `path` into `network`, called `name` in messages; returns the file's `meta`.

    classes: those that `network` is to score. Where the weights score these and more, as published weights of ImageNet
    do for a part of it, only the classifier's rows for `classes` are loaded. keeps_classifier: that of `network` stays
    where the weights' has another number of classes; the `meta` then has the entry "kept".
    Raises UserError for the weights of another network, number of classes, or other classes.
    """
    state_dict, meta = read_weights(path, network)
    expected = network.state_dict()
    for key, value in expected.items():
        if key.endswith(COUNTER) and f"{key.removesuffix(COUNTER)}running_mean" in state_dict:
            state_dict.setdefault(key, torch.zeros_like(value))
    last = classifier_names(network)[-1]
    if keeps_classifier and last in state_dict and state_dict[last].shape[:1] != expected[last].shape[:1]:
        theirs, ours = state_dict[last].shape[:1], expected[last].shape[:1]
        of_classes = [key for key, value in expected.items() if key in state_dict and value.shape[:1] == ours]
        of_classes = [key for key in of_classes if state_dict[key].shape[:1] == theirs]  # of auxiliary heads as well
        state_dict |= {key: expected[key] for key in of_classes if is_alike(state_dict[key], expected[key])}
        meta = meta | {"kept": True}
    if classes is not None:
        known = weights_classes(state_dict, meta, network)
        rows = rows_of(classes, known)
        if known is not None and rows is not None:
            check_scores(state_dict, known, network, path)
            state_dict |= {name: state_dict[name][rows] for name in classifier_names(network) if name in state_dict}
        elif known is not None and ("classes" in meta.get("dataset", {}) or len(known) == len(classes)):
            check_classes(known, classes, path)
            check_scores(state_dict, known, network, path)
    if state_dict.keys() != expected.keys():
        missing = [key for key in expected if key not in state_dict]
        surplus = [key for key in state_dict if key not in expected]
        example = f"lacks {missing[0]!r}" if missing else f"has {surplus[0]!r}"
        raise UserError(
            f"weights {path} are not {name}'s: {len(missing)} entries missing, {len(surplus)} unknown ({example}); "
            "name the network that they belong to, or its own weights"
        )
    wrong = [key for key in expected if state_dict[key].shape != expected[key].shape]
    classifier = classifier_names(network)
    if wrong and set(wrong) <= set(classifier) and all(is_alike(state_dict[key], expected[key]) for key in classifier):
        theirs, ours = len(state_dict[classifier[-1]]), len(expected[classifier[-1]])
        raise UserError(
            f"weights {path} are for {theirs} classes, the data has {ours}; name weights trained on this data"
        )
    if wrong:
        shape, expected_shape = tuple(state_dict[wrong[0]].shape), tuple(expected[wrong[0]].shape)
        raise UserError(
            f"weights {path} are not {name}'s: {wrong[0]} has shape {shape}, expected {expected_shape}; "
            "name the network that they belong to, or its own weights"
        )
    for key, value in state_dict.items():  # in a dict that has the versions of the network's modules
        expected[key] = as_numbers(value, expected[key].dtype, key, path)
    network.load_state_dict(expected)
    return meta


def as_numbers(value: torch.Tensor, dtype: torch.dtype, name: str, path: str | Path) -> torch.Tensor:
    """`value` as `dtype`. Raises UserError, by the `name` of the entry, for numbers that no trained network has."""
    known = KNOWN_TYPES if dtype.is_floating_point else (*KNOWN_TYPES, torch.int32, torch.int64)
    if value.dtype not in known:
        raise UserError(
            f"weights {path} hold {name!r} as {str(value.dtype).removeprefix('torch.')}; expected float16, bfloat16, "
            "float32 or float64"
        )
    number = value.to(dtype) if dtype.is_floating_point else value
    # A sum is fast, and no number where one of the tensor is none; a large one may be none as well.
    is_finite = number.sum().isfinite() or number.isfinite().all()
    if not is_finite:
        what = "has numbers that are not finite"
    elif name.endswith("running_var") and number.numel() and number.min() < 0:
        what = "is a variance below 0"
    else:
        return number
    raise UserError(f"weights {path} are damaged: {name!r} {what}; download or train them again")


def save_checkpoint(content: dict[str, Any], path: str | Path, previous: str | Path | None = None) -> None:
    """Write `content` to `path` atomically; what was there takes the name `previous`, where that is given."""
    with atomic_write(path, previous) as file:
        torch.save(content, file)


def copy_file(source: str | Path, path: str | Path) -> None:
    """Copy a finished file to `path` atomically."""
    with atomic_write(path) as file:
        file.write(Path(source).read_bytes())
