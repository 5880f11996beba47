"""The networks that a config names: building them, and what runs and files call them."""

import zlib
from pathlib import Path
from typing import Any

from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.checks import brief
from mdistiller.errors import UserError
from mdistiller.models import build_model
from mdistiller.models.others import checksum_of, is_file

from .values import parse_yaml

PLAIN = str, int, float, bool, type(None)


def arguments_of(text: str, key: str) -> dict[str, Any]:
    """The arguments of a network that the config's `key` says, a YAML mapping. Raises UserError for another text."""
    arguments = parse_yaml(text, f"{key} {brief(text)!r}")
    for name, value in arguments.items():
        if not name.isidentifier() or not all(isinstance(each, PLAIN) for each in as_list(value)):
            raise UserError(
                f"{key} has {brief(name)}: {brief(repr(value))}; expected arguments by name, of numbers, text, true or "
                'false, or lists of these, as in "{img_size: 32, patch_size: 4}"'
            )
    return arguments


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def build_network(cfg: CN, role: str, models: str, num_classes: int) -> nn.Module:
    """The network of the `role` "STUDENT" or "TEACHER". models: the dataset of `build_model`."""
    node = cfg.DISTILLER
    arguments = arguments_of(node[f"{role}_ARGS"], f"DISTILLER.{role}_ARGS")
    return build_model(models, node[role], num_classes, arguments, cfg.DATASET.IMAGE_SIZE or None)


def label_of(cfg: CN, role: str) -> str:
    """What runs, files and tables call it: its name, of a library's network with a dot, of a file with a checksum."""
    name, text = cfg.DISTILLER[role], cfg.DISTILLER[f"{role}_ARGS"]
    if is_file(name):
        path, _, own = name.rpartition(":")
        label = f"{Path(path).stem}.{own}.{checksum_of(name)[:6]}"
    else:
        label = name.replace(":", ".")
    return f"{label}-{zlib.crc32(text.encode()):08x}" if text else label


def checksums(cfg: CN) -> str:
    """Of the files that make the networks, by which a saved config knows them again; empty where none does."""
    return "-".join(checksum_of(cfg.DISTILLER[role])[:16] for role in ("STUDENT", "TEACHER")).strip("-")
