"""The networks that a config names: those of others beside ours, their arguments, and names for them in file names."""

import contextlib
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from yacs.config import CfgNode as CN

from mdistiller.checks import brief, is_number
from mdistiller.errors import UserError
from mdistiller.folder_modules import is_file_reference
from mdistiller.models import build_model
from mdistiller.models.others import checksum_of, is_other

from .cfg import CFG
from .identity import as_file_name
from .values import as_number, as_text, load

SEPARATOR = ","  # between several teachers, and between what belongs to each
PRETRAINED = "pretrained"  # in the place of a file of weights: those of the network's own library
LONGEST_ARGUMENTS = 400  # characters, which fit what a weight file may tell
LARGEST_OF_STRANGERS = 4096  # number in the arguments that a weight file tells
NO_ARGUMENTS = CFG.DISTILLER.STUDENT_ARGS
# Arguments of the libraries that the run decides, as it does `num_classes`, or that would read weights that it does not
# name.
DECIDED = {"pretrained", "weights", "weights_backbone", "checkpoint_path", "cache_dir", "features_only"}
DECIDED_PREFIX = "pretrained_"
EXPONENT = re.compile(r"[-+]?\d+e[-+]?\d+", re.IGNORECASE)  # which YAML takes for text


def split(text: str) -> list[str]:
    """The parts of a text that speaks of several teachers."""
    return [part.strip() for part in text.split(SEPARATOR)]


def arguments_of(text: str, source: str, network: str) -> dict[str, Any]:
    """The arguments of `network` from a YAML mapping. Raises UserError, naming `source`, for what cannot be one."""
    if len(text) > LONGEST_ARGUMENTS:
        raise UserError(f"{source} has {len(text)} characters; expected at most {LONGEST_ARGUMENTS}")
    values = load(text, source) if text else {}
    if not isinstance(values, dict):
        raise UserError(
            f'{source} is {brief(repr(text))}; expected a YAML mapping such as "{{img_size: 32, depth: 2}}"'
        )
    arguments = {}
    for name, value in values.items():
        if not name.isidentifier():
            raise UserError(f"{source} has the name {brief(name)!r}; expected names of arguments, such as img_size")
        is_decided = not is_file_reference(network) and (name in DECIDED or name.startswith(DECIDED_PREFIX))
        if is_decided or name == "num_classes":
            raise UserError(f"{source} has {name}, which the data and --teacher_weights decide; leave it out")
        numbers = [as_number(item) if EXPONENT.fullmatch(str(item)) else item for item in as_list(value)]
        if not all(isinstance(item, (str, bool)) or is_number(item) for item in numbers):
            raise UserError(
                f"{source} has {name} {brief(value)}; expected a number, text, true or false, or a list of these"
            )
        arguments[name] = numbers if isinstance(value, list) else numbers[0]
    return arguments


def plain_arguments(text: str, key: str, network: str) -> str:
    """The arguments that DISTILLER.`key` has for `network`, or several, in the one form of all equal ones.

    Raises UserError for bad ones and for those without an effect.
    """
    names = split(network)
    arguments = arguments_of(text, f"DISTILLER.{key}", names[0])
    if not arguments:
        return NO_ARGUMENTS
    if len(names) > 1:
        raise UserError(f"DISTILLER.{key} is for one teacher, and there are {len(names)}; leave it out")
    if not is_other(names[0]):
        raise UserError(
            f"DISTILLER.{key} has no effect on {names[0]}, which takes no arguments; leave it out, or name a network "
            "as torchvision:NAME, timm:NAME or path/net.py:make_net"
        )
    return as_text(arguments)


def arguments_in(meta: Mapping[str, Any], path: Path, network: str) -> str:
    """The arguments of `network` that the `meta` of the weights at `path` tells.

    Raises UserError for those that no network of such weights has, as a stranger may have written them.
    """
    text = meta.get("arguments", NO_ARGUMENTS)
    for name, value in arguments_of(text, f"the meta of {path}", network).items():
        if any(is_number(each) and abs(each) > LARGEST_OF_STRANGERS for each in as_list(value)):
            raise UserError(f"the meta of {path} is not used: {name} is {brief(value)}, above {LARGEST_OF_STRANGERS:,}")
    return text


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


@contextlib.contextmanager
def no_larger_than(numbers: int) -> Iterator[None]:
    """Within it a network with more parameters, of all its tensors together, raises UserError while it is built."""
    left = numbers

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal left
        if parameter is not None and not nn.parameter.is_lazy(parameter):
            left -= parameter.numel()
        if left < 0:
            raise UserError(f"it has more than {numbers:,} parameters, and its weights have not")

    hook = nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def label(name: str, arguments: str = NO_ARGUMENTS) -> str:
    """What the network `name` is called in file names, logs and tables; ours as they are.

    `torchvision.resnet18`, `net-make_net.1a2b3c` by a file's checksum, and with arguments theirs at the end.
    """
    if SEPARATOR in name:
        return SEPARATOR.join(label(each, arguments) for each in split(name))
    if not is_other(name):
        return name
    if is_file_reference(name):
        path, _, function = name.rpartition(":")
        text = f"{Path(path).stem}-{function}.{checksum_of(name)[:6]}"
    else:
        text = name.replace(":", ".", 1)
    if arguments != NO_ARGUMENTS:
        text += f".{zlib.crc32(arguments.encode()):08x}"
    return as_file_name(text)


def without_tag(name: str) -> str:
    """The name of a network without that of its pretrained weights, as `.tv2_in1k` in timm's."""
    return name.partition(".")[0] if name.startswith("timm:") else name


def label_of(cfg: CN, role: str) -> str:
    """What the network, or the networks, of `role` are called; see `label`."""
    return label(cfg.DISTILLER[role], cfg.DISTILLER[f"{role}_ARGS"])


def build_student(cfg: CN, models: str, num_classes: int) -> nn.Module:
    """The network DISTILLER.STUDENT, new. models: the dataset of `build_model`."""
    name = cfg.DISTILLER.STUDENT
    arguments = arguments_of(cfg.DISTILLER.STUDENT_ARGS, "DISTILLER.STUDENT_ARGS", name)
    return build_model(models, name, num_classes, arguments, cfg.DATASET.IMAGE_SIZE)


def arguments_told(cfg: CN, needs_teacher: bool) -> list[str]:
    """What a log tells of the networks' arguments."""
    roles = ["TEACHER", "STUDENT"] if needs_teacher else ["STUDENT"]
    given = {role: cfg.DISTILLER[f"{role}_ARGS"] for role in roles}
    return [f"Arguments of the {role.lower()}: {text}" for role, text in given.items() if text != NO_ARGUMENTS]


def checksums_of(cfg: CN, role: str) -> str:
    """Checksums of the users' files that the networks of `role` come from; empty for those of libraries and ours."""
    return SEPARATOR.join(checksum_of(name) for name in split(cfg.DISTILLER[role]) if is_file_reference(name))
