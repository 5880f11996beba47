"""What makes two runs the same: their data, and the variant of the method."""

import contextlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from mdistiller.distillers import Distiller
from mdistiller.errors import UserError

from .solver import TWO_GRADIENTS

LONGEST_TAG = 60  # bytes; a file name takes 255
OLDER_KEYS = ("type", "classes", "image_size", "train_images", "test_images", "seed")


def with_variant(name: str, cfg: CN, method: type[Distiller]) -> str:
    """`name`, of a method or network, and after it what a run differs in from the plain one; nothing for a preset.

    Parts that the settings make begin with a hyphen, EXPERIMENT.NAME and TAG, which come last, with a plus.
    """
    parts = [name, *method.variant(cfg)]
    if cfg.DATASET.LABEL_NOISE:
        parts.append(f"noise{cfg.DATASET.LABEL_NOISE:g}")
    if cfg.SOLVER.TRAINER in TWO_GRADIENTS:
        parts.append("dot")
    if cfg.SOLVER.AMP != "none":
        parts.append(cfg.SOLVER.AMP)
    tags = [tag for tag in (cfg.EXPERIMENT.NAME, cfg.EXPERIMENT.TAG) if tag not in ("", "default")]
    return "+".join(["-".join(parts), *map(as_file_name, tags)])


def as_file_name(tag: str) -> str:
    """`tag` as a part of a file name: of letters, digits and `.,_-`; one that this changes gets a checksum."""
    text = re.sub(r"[^\w.,-]+", "-", tag).strip("-").encode()[:LONGEST_TAG].decode(errors="ignore")
    return text if text == tag else f"{text}.{zlib.crc32(tag.encode()):08x}"


def is_same_data(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether two `meta["dataset"]` tell of the same training and test images, by fingerprints, and as wrong labels.

    A file from before there were fingerprints is compared by what it tells beside them.
    """
    if theirs.get("label_noise", 0) != ours.get("label_noise", 0):
        return False
    their_prints, our_prints = theirs.get("fingerprints"), ours.get("fingerprints")
    if not (isinstance(their_prints, dict) and isinstance(our_prints, dict)):
        return all(theirs.get(key) == ours.get(key) for key in OLDER_KEYS)
    return all(their_prints.get(split) == our_prints.get(split) for split in ("train", "test"))


def why_kept(other: dict[str, Any], meta: dict[str, Any]) -> str | None:
    """Why weights with the meta `other` keep the published name before those with `meta`; None where they give way."""
    if not all(key in other for key in ("run", "top1", "dataset")):
        return "which names no run of ours"
    if other["run"] == meta["run"]:
        return None
    theirs, ours = other["dataset"], meta["dataset"]
    if not is_same_data(theirs, ours):
        return None if theirs.get("type") == "synthetic" != ours.get("type") else "of other data"
    if any(other.get(key) != meta.get(key) for key in ("network", "models")):
        return "of another network"
    if any(theirs.get(key) != ours.get(key) for key in ("validation", "image_size")):
        return "chosen by other images"
    return f"top-1 {other['top1']:.2f}" if other["top1"] >= meta["top1"] else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within it no other process is, for the same file `path`; where the system has no such locks, none is held."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    try:
        file = lock.open("a")
    except OSError as error:
        raise UserError(f"cannot write {lock}: {error.strerror or error}; make its folder writable") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
