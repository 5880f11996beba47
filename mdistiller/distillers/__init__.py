"""Distillation methods: one paper, one file, found by itself.

Every file here whose name begins with a capital letter holds the method of its name. `_base.py` says what a method is.
"""

import importlib
import pkgutil
from typing import Any

from torch import nn

from mdistiller.checks import require_all
from mdistiller.errors import UserError, nearest
from mdistiller.folder_modules import is_file_reference, split_reference

from ._base import Distiller
from .foreign import EXAMPLE, KIND, load_class

__all__ = ["DISTILLERS", "Distiller", "build_distiller", "canonical_name", "distiller_dict", "find_method"]

PUBLISHED_INDICES = 12  # the first so many of each benchmark belong to published tables
PLAIN_TRAINING = "NONE"  # as MDistiller calls it
ALIASES = {"VANILLA": PLAIN_TRAINING}


def _discover() -> dict[str, type[Distiller]]:
    """The classes of the files here, by the names that a config has for them.

    Raises ImportError for a file without the class of its name, and for an index that is taken.
    """
    methods: dict[str, type[Distiller]] = {}
    owners: dict[int, str] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        if name.startswith("_") or name == "foreign":
            continue
        if not name[0].isupper():
            raise ImportError(
                f"{name}.py holds no method: a method's file begins with a capital letter, all else with _"
            )
        method = getattr(importlib.import_module(f".{name}", __name__), name, None)
        if not (isinstance(method, type) and issubclass(method, Distiller)):
            raise ImportError(f"{name}.py must hold the class {name}, derived from mdistiller.distillers.Distiller")
        if method.index is not None:
            owner = "a published method" if method.index < PUBLISHED_INDICES else owners.setdefault(method.index, name)
            if owner != name:
                raise ImportError(f"{name}.index is {method.index}, which belongs to {owner}; take a free number")
        key = ALIASES.get(name.upper(), name.upper())
        if key in methods:
            raise ImportError(f"{name}.py and {methods[key].__name__}.py differ in case alone; rename one")
        methods[key] = method
    return methods


DISTILLERS = distiller_dict = _discover()  # the second is MDistiller's name of it
globals().update({method.__name__: method for method in DISTILLERS.values()})


def canonical_name(name: str) -> str:
    """The name under which `name` (any case) is registered; of a reference to a file, with its absolute path.

    Raises UserError where there is no such method, naming the nearest, or no such file.
    """
    if is_file_reference(name):
        path, class_name = split_reference(name, KIND, EXAMPLE)
        return f"{path}:{class_name}" if class_name else str(path)
    upper = name.upper()
    upper = ALIASES.get(upper, upper)
    if upper not in DISTILLERS:
        raise UserError(
            f"unknown distiller {name!r}{nearest(upper, DISTILLERS)}; valid: {', '.join(DISTILLERS)}, "
            "or path/to/file.py:ClassName"
        )
    return upper


def find_method(name: str) -> type[Distiller]:
    """The class of the method `name`, or of `path/to/file.py:ClassName`; its `__name__` is what runs and tables show.

    Raises UserError for an unknown name, and for a file that is missing, does not import or lacks the class.
    """
    name = canonical_name(name)
    return load_class(name) if is_file_reference(name) else DISTILLERS[name]


def check_settings(method: type[Distiller], cfg: Any) -> None:
    """Raise UserError for a value, in a section that `method` reads, that it cannot have."""
    for base in method.__mro__:
        if issubclass(base, Distiller) and base.checks:
            require_all(base.checks, cfg.get(base.section(), {}), base.section())


def build_distiller(
    name: str, student: nn.Module, teacher: nn.Module | None, cfg: Any, num_data: int | None = None
) -> Distiller:
    """The method `name`, or the class of a file reference, around the two networks.

    teacher: None for plain training; cfg: the whole config; num_data: number of training images, for the methods
    that keep a memory of them. Raises UserError for an unknown name, and for values of `cfg` that it cannot have.
    """
    method = find_method(name)
    check_settings(method, cfg)
    return method.build(student, teacher, cfg, num_data)
