"""Networks of others by name: `torchvision:resnet18`, `timm:vit_tiny_patch16_224`, `path/to/net.py:make_net`."""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from mdistiller.errors import UserError, nearest
from mdistiller.folder_modules import described, folder_of, load_module

from .adapt import adapt

LIBRARIES = ("torchvision", "timm")
SIDE = 32  # of images, in pixels, where nothing is said
SIDE_KEYS = {"torchvision": "image_size", "timm": "img_size"}  # the argument of networks for images of one size


def is_other(name: str) -> bool:
    """Whether `name` is of a library's network or of one in a file."""
    return name.partition(":")[0] in LIBRARIES or is_file(name)


def is_file(name: str) -> bool:
    """Whether `name` is of a network in a user's file."""
    return ".py:" in name or name.endswith(".py")


def canonical_other(name: str) -> str:
    """The one spelling of such a name, with the absolute path of a file. Raises UserError where there is none."""
    if is_file(name):
        path, _, function = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
        if not Path(path).is_file():
            raise UserError(f"no network file {path}; expected path/to/net.py:make_net")
        if not function:
            raise UserError(f"{path} does not say which network; type {path}:NAME, of a class or function there")
        return f"{Path(path).resolve()}:{function}"
    library, _, own = name.partition(":")
    names = names_of(library)
    base, _, tag = own.partition(".")
    base = base.lower()
    if base not in names or (tag and library != "timm"):
        raise UserError(
            f"{library} has no network {own!r}{nearest(base, names)}; --list {library} PATTERN lists its networks with "
            "PATTERN in their name"
        )
    return f"{library}:{base}.{tag}" if tag else f"{library}:{base}"


def names_of(library: str, pattern: str = "") -> list[str]:
    """The networks of a library with `pattern`, where * is anything, in their name. Raises UserError without timm."""
    if library == "torchvision":
        import torchvision.models  # takes a second

        found = torchvision.models.list_models(module=torchvision.models)
    else:
        found = import_timm().list_models()
    return [name for name in found if fnmatch(name, f"*{pattern.lower()}*")]


def import_timm() -> Any:
    """The package timm. Raises UserError where it is missing."""
    try:
        import timm
    except ImportError as error:
        raise UserError(f"networks called timm:… need the package timm ({error}); type pip install timm") from error
    return timm


def build_other(name: str, num_classes: int, arguments: Mapping[str, Any], image_size: int | None) -> nn.Module:
    """The network of a canonical name, made one of ours by `adapt`; arguments: for what makes it.

    image_size: a side of its images in pixels, which it is told as well where it takes it. Raises UserError where it
    cannot be built, or does not fit.
    """
    side, make, network = image_size or SIDE, maker_of(name), None
    key = SIDE_KEYS.get(name.partition(":")[0])
    for sided in ([{key: side}] if key and key not in arguments else []) + [{}]:
        try:
            network = make(num_classes=num_classes, **arguments, **sided)
            break
        except (Exception, SystemExit) as error:
            if not (sided and isinstance(error, TypeError)):  # of a network that takes images of any size
                raise UserError(f"network {name} cannot be built: {described(error)}") from error
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} makes {type(network).__name__}; expected a torch.nn.Module")
    return adapt(network, name, num_classes, side)


def maker_of(name: str) -> Callable[..., Any]:
    """What makes the network of a canonical name, from `num_classes` and arguments of its own."""
    library, _, own = name.partition(":")
    if is_file(name):
        return maker_in_file(name)
    if library == "timm":
        return partial(import_timm().create_model, own)
    from torchvision.models import get_model

    return partial(get_model, own, weights=None)


def maker_in_file(name: str) -> Callable[..., Any]:
    """The class or function that `path/to/net.py:NAME` names; one that takes no `num_classes` gets none.

    Raises UserError where the file does not import or has none such.
    """
    module, own = module_of(name), name.rpartition(":")[2]
    make = getattr(module, own, None)
    if not callable(make):
        theirs = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        raise UserError(f"no class or function {own!r} in {name.rpartition(':')[0]}; there are {', '.join(theirs)}")
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return make
    if "num_classes" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return make
    return lambda num_classes, **arguments: make(**arguments)


def module_of(name: str) -> ModuleType:
    path = Path(name.rpartition(":")[0])
    status = path.stat()
    return load_module(path, str(__package__), "network file", status.st_mtime_ns, status.st_size)


def checksum_of(name: str) -> str:
    """SHA-256, in hexadecimal digits, of a network's file and what it imports from its folder; else empty."""
    if not is_file(name):
        return ""
    texts = folder_of(module_of(name).__name__).texts
    return hashlib.sha256("\0".join(sorted(texts)).encode(errors="replace")).hexdigest()
