"""Weight files: every published form is read, one form is written."""

import argparse
import math
import pickle
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mdistiller.dataset import IMAGENET_WNIDS
from mdistiller.errors import UserError

from .writing import atomic_write

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

META_TYPES: dict[str, type] = {
    **dict.fromkeys(("run", "network", "models", "teacher", "teacher_sha256", "distiller", "chosen_by", "config"), str),
    **dict.fromkeys(("epoch", "num_classes"), int),
    **dict.fromkeys(("top1", "top5", "loss", "teacher_top1"), float),
    **dict.fromkeys(("dataset", "normalisation", "versions"), dict),
}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of the weight file `path`, on the CPU.

    Raises UserError, in one line that names the file, for what is missing, no weight file, damaged, or holds code.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"cannot read weights {path}: {error.strerror or error}; expected a .pth file") from error
    if not head:
        raise UserError(f"weights {path} are empty (0 bytes); download or train them again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"weights {path} are a Git LFS pointer, not the weights; type: git lfs pull")
    if head.startswith(b"\x1f\x8b") or tarfile.is_tarfile(path):
        raise UserError(f"weights {path} are a tar or gzip archive; unpack it (tar xf {path}) and name a file inside")
    try:
        with torch.serialization.safe_globals(SAFE_TYPES), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "global" in str(error):
            raise UserError(
                f"weights {path} hold code or objects beside tensors, which is not loaded; "
                "save them again with torch.save(model.state_dict(), file)"
            ) from error
        raise UserError(f"weights {path} are damaged or no weight file; download or train them again") from error
    except Exception as error:  # torch raises a dozen types for a damaged file
        raise UserError(f"weights {path} are damaged or truncated; download or train them again") from error
    if not isinstance(content, dict):
        raise UserError(f"weights {path} hold a {type(content).__name__}; expected a state dict of tensors")
    return content


def read_weights(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dict and `meta` (empty where there is none) of a weight file in any published form.

    A bare state dict, or one under "model", "state_dict" or "model_state_dict"; keys may carry the prefixes of
    DataParallel, torch.compile and of a distiller, of which the student is taken.
    """
    content = read_checkpoint(path)
    meta = content.get("meta", {})
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    state_dict = _without_prefixes(content)
    if not state_dict or not all(map(_is_plain_tensor, state_dict.values())):
        raise UserError(f"weights {path} hold no state dict of plain tensors; expected one, bare or under 'model'")
    return state_dict, _known_meta(meta)


def _is_plain_tensor(value: Any) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
    )


def _known_meta(meta: Any) -> dict[str, Any]:
    """The entries of a file's `meta` that have the types ours have; a file may come from anywhere."""
    if not isinstance(meta, dict):
        return {}
    meta = {key: value for key, value in meta.items() if isinstance(value, META_TYPES.get(key, ()))}
    classes = meta.get("dataset", {}).get("classes", [])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        meta["dataset"] = {key: value for key, value in meta["dataset"].items() if key != "classes"}
    return meta if math.isfinite(meta.get("top1", 0.0)) else {}


def weights_classes(state_dict: dict[str, Any], meta: dict[str, Any], network: nn.Module) -> list[str] | None:
    """Names of the classes that the weights of a network like `network` score, in order, as far as they are known.

    Known are those in `meta`; a file without, that scores 1000 classes, is taken for a published one of ImageNet.
    """
    scores = state_dict.get(classifier_names(network)[-1])
    is_imagenets = scores is not None and scores.shape == (len(IMAGENET_WNIDS),)
    return meta.get("dataset", {}).get("classes") or (IMAGENET_WNIDS if is_imagenets else None)


def classifier_names(network: nn.Module) -> list[str]:
    """Names of the weight and bias of the last layer of `network`."""
    return list(network.state_dict())[-2:]


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


def _without_prefixes(state_dict: dict[str, Any]) -> dict[str, Any]:
    """Strip wrappers' prefixes; of a whole distiller keep the student."""
    keys = [key for key in state_dict if isinstance(key, str)]
    for prefix in ("module.", "_orig_mod."):
        if keys and all(key.startswith(prefix) for key in keys):
            return _without_prefixes({key.removeprefix(prefix): state_dict[key] for key in keys})
    if any(key.startswith("student.") for key in keys):
        student = {key.removeprefix("student."): state_dict[key] for key in keys if key.startswith("student.")}
        return _without_prefixes(student)
    return state_dict


def load_weights(network: nn.Module, path: str | Path, name: str, classes: list[str] | None = None) -> dict[str, Any]:
    """Load the weight file `path` into `network`, called `name` in messages; returns the file's `meta`.

    classes: those that `network` is to score. Where the weights score these and more, as published weights of ImageNet
    do for a part of it, only the classifier's rows for `classes` are loaded.
    Raises UserError for the weights of another network, number of classes, or other classes.
    """
    state_dict, meta = read_weights(path)
    expected = network.state_dict()
    if classes is not None:
        known = weights_classes(state_dict, meta, network)
        rows = rows_of(classes, known)
        names = classifier_names(network)
        if rows is not None and state_dict.keys() >= set(names):
            state_dict |= {name: state_dict[name][rows] for name in names}
        elif known is not None and ("classes" in meta.get("dataset", {}) or len(known) == len(classes)):
            check_classes(known, classes, path)
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
    if wrong and set(wrong) <= set(classifier):
        theirs, ours = state_dict[classifier[-1]].shape[0], expected[classifier[-1]].shape[0]
        raise UserError(
            f"weights {path} are for {theirs} classes, the data has {ours}; name weights trained on this data"
        )
    if wrong:
        theirs, ours = tuple(state_dict[wrong[0]].shape), tuple(expected[wrong[0]].shape)
        raise UserError(
            f"weights {path} are not {name}'s: {wrong[0]} has shape {theirs}, expected {ours}; "
            "name the network that they belong to, or its own weights"
        )
    network.load_state_dict(state_dict)
    return meta


def save_checkpoint(content: dict[str, Any], path: str | Path, previous: str | Path | None = None) -> None:
    """Write `content` to `path` atomically; what was there takes the name `previous`, where that is given."""
    with atomic_write(path, previous) as file:
        torch.save(content, file)


def copy_file(source: str | Path, path: str | Path) -> None:
    """Copy a finished file to `path` atomically."""
    with atomic_write(path) as file:
        file.write(Path(source).read_bytes())
