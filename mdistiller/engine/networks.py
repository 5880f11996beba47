"""The networks that a config names: those of others beside ours, their arguments, and names for them in file names."""

import re
import zlib
from pathlib import Path
from typing import Any

from yacs.config import CfgNode as CN

from mdistiller.checks import brief, is_number
from mdistiller.errors import UserError
from mdistiller.models.others import checksum_of, is_file, is_other

from .cfg import CFG
from .identity import as_file_name
from .values import as_number, as_text, load

SEPARATOR = ","  # between several teachers, and between what belongs to each
PRETRAINED = "pretrained"  # in the place of a file of weights: those of the network's own library
LONGEST_ARGUMENTS = 400  # characters, which fit what a weight file may tell
NO_ARGUMENTS = CFG.DISTILLER.STUDENT_ARGS
# Arguments of the libraries that the run decides, or that would read other weights than those it names.
DECIDED = {"num_classes", "pretrained", "weights", "weights_backbone", "checkpoint_path", "cache_dir", "features_only"}
DECIDED_PREFIX = "pretrained_"
EXPONENT = re.compile(r"[-+]?\d+e[-+]?\d+", re.IGNORECASE)  # which YAML takes for text


def split(text: str) -> list[str]:
    """The parts of a text that speaks of several teachers."""
    return [part.strip() for part in text.split(SEPARATOR)]


def read_arguments(text: str, source: str) -> dict[str, Any]:
    """A network's arguments from a YAML mapping. Raises UserError, naming `source`, for what cannot be one."""
    if len(text) > LONGEST_ARGUMENTS:
        raise UserError(f"{source} has {len(text)} characters; expected at most {LONGEST_ARGUMENTS}")
    values = load(text, source)
    if not isinstance(values, dict):
        raise UserError(f'{source} is {brief(text)}; expected a YAML mapping such as "{{img_size: 32, depth: 2}}"')
    arguments = {}
    for name, value in values.items():
        if not name.isidentifier():
            raise UserError(f"{source} has the name {brief(name)!r}; expected names of arguments, such as img_size")
        if name in DECIDED or name.startswith(DECIDED_PREFIX):
            raise UserError(f"{source} has {name}, which the data and --teacher_weights decide; leave it out")
        items = value if isinstance(value, list) else [value]
        numbers = [as_number(item) if EXPONENT.fullmatch(str(item)) else item for item in items]
        if not all(isinstance(item, (str, bool)) or is_number(item) for item in numbers):
            raise UserError(
                f"{source} has {name} {brief(value)}; expected a number, text, true or false, or a list of these"
            )
        arguments[name] = numbers if isinstance(value, list) else numbers[0]
    return arguments


def arguments_of(cfg: CN, role: str) -> dict[str, Any]:
    """The arguments of the network of `role`, STUDENT or TEACHER."""
    return read_arguments(cfg.DISTILLER[f"{role}_ARGS"], f"DISTILLER.{role}_ARGS")


def with_plain_arguments(cfg: CN, role: str) -> None:
    """Give the arguments of `role` in `cfg` their one form.

    Raises UserError for bad ones and for those without an effect.
    """
    key = f"{role}_ARGS"
    arguments = arguments_of(cfg, role)
    cfg.DISTILLER[key] = as_text(arguments)
    names = split(cfg.DISTILLER[role])
    if not arguments:
        return
    if len(names) > 1:
        raise UserError(f"DISTILLER.{key} is for one teacher, and there are {len(names)}; leave it out")
    if not is_other(names[0]):
        raise UserError(
            f"DISTILLER.{key} has no effect on {names[0]}, which takes no arguments; leave it out, or name a network "
            "as torchvision:NAME, timm:NAME or path/net.py:make_net"
        )


def label(name: str, arguments: str = NO_ARGUMENTS) -> str:
    """What the network `name` is called in file names, logs and tables; ours as they are.

    `torchvision.resnet18`, `net-make_net.1a2b3c` by a file's checksum, and with arguments theirs at the end.
    """
    if SEPARATOR in name:
        return SEPARATOR.join(label(each, arguments) for each in split(name))
    if not is_other(name):
        return name
    if is_file(name):
        path, _, function = name.rpartition(":")
        text = f"{Path(path).stem}-{function}.{checksum_of(name)[:6]}"
    else:
        text = name.replace(":", ".", 1)
    if arguments != NO_ARGUMENTS:
        text += f".{zlib.crc32(arguments.encode()):08x}"
    return as_file_name(text)


def label_of(cfg: CN, role: str) -> str:
    """What the network, or the networks, of `role` are called; see `label`."""
    return label(cfg.DISTILLER[role], cfg.DISTILLER[f"{role}_ARGS"])


def checksums_of(cfg: CN, role: str) -> str:
    """Checksums of the users' files that the networks of `role` come from; empty for those of libraries and ours."""
    return SEPARATOR.join(checksum_of(name) for name in split(cfg.DISTILLER[role]) if is_file(name))
