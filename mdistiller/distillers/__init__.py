"""Distillation methods: one paper, one file."""

import importlib.util
import inspect
import re
import sys
from pathlib import Path

from mdistiller.errors import UserError, nearest

from ._base import Distiller
from .AT import AT
from .CLKD import CLKD
from .CRD import CRD
from .CTKD import CTKD
from .DIST import DIST
from .DKD import DKD
from .FitNet import FitNet
from .KD import KD
from .KDSVD import KDSVD
from .MLKD import MLKD
from .NKD import NKD
from .NST import NST
from .OFD import OFD
from .PKT import PKT
from .ReviewKD import ReviewKD
from .RKD import RKD
from .SDD import SDD
from .SKD import SKD
from .SP import SP
from .Vanilla import Vanilla
from .VID import VID

DISTILLERS = {
    "NONE": Vanilla,
    "KD": KD,
    "DKD": DKD,
    "CLKD": CLKD,
    "MLKD": MLKD,
    "SKD": SKD,
    "DIST": DIST,
    "NKD": NKD,
    "CTKD": CTKD,
    "RKD": RKD,
    "CRD": CRD,
    "FITNET": FitNet,
    "SDD": SDD,
    "VID": VID,
    "OFD": OFD,
    "REVIEWKD": ReviewKD,
    "AT": AT,
    "NST": NST,
    "PKT": PKT,
    "SP": SP,
    "KDSVD": KDSVD,
}
ALIASES = {"VANILLA": "NONE"}

__all__ = ["Distiller", "build_distiller", "canonical_name", "distiller_names", "is_file_reference", "label_of"]


def distiller_names() -> list[str]:
    """Names that `build_distiller` knows, beside `path/to/file.py:ClassName`."""
    return list(DISTILLERS)


def is_file_reference(name: str) -> bool:
    """Whether `name` is of the form `path/to/file.py:ClassName`."""
    return ".py:" in name or name.endswith(".py")


def canonical_name(name: str) -> str:
    """The name under which `name` (any case) is registered; a reference to a file passes unchanged.

    Raises UserError where there is no such method, naming the nearest, or no such file.
    """
    if is_file_reference(name):
        split_reference(name)
        return name
    upper = name.upper()
    upper = ALIASES.get(upper, upper)
    if upper not in DISTILLERS:
        raise UserError(
            f"unknown distiller {name!r}{nearest(upper, DISTILLERS)}; valid: {', '.join(DISTILLERS)}, "
            "or path/to/file.py:ClassName"
        )
    return upper


def label_of(name: str) -> str:
    """The name that runs and tables show: the class's, also of a file reference."""
    return name.rpartition(":")[2] if is_file_reference(name) else DISTILLERS[canonical_name(name)].__name__


def split_reference(reference: str) -> tuple[Path, str]:
    """Path and class name, empty where it is left out, of a file reference. Raises UserError for a missing file."""
    path, _, class_name = reference.rpartition(":") if not reference.endswith(".py") else (reference, "", "")
    if not Path(path).is_file():
        raise UserError(f"no distiller file {path}; expected --distiller path/to/file.py:ClassName")
    return Path(path), class_name


def load_distiller_class(reference: str) -> type:
    """The class that `path/to/file.py:ClassName` names.

    The file is loaded as a submodule of this package, so a file written for MDistiller keeps its relative imports.
    Raises UserError where the file or the class is missing or the file does not import.
    """
    path, class_name = split_reference(reference)
    name = f"{__name__}._file_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"distiller file {path} does not import: {type(error).__name__}: {error}") from error
    own = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Distiller)]
    own = [key for key in own if getattr(module, key).__module__ == name]
    if class_name not in own:
        raise UserError(
            f"no distiller class {class_name!r} in {path}; type {path}:ClassName, classes there: "
            f"{', '.join(own) or 'none that derives from mdistiller.distillers.Distiller'}"
        )
    return getattr(module, class_name)


def build_distiller(name, student, teacher, cfg, num_data=None):
    """The method `name`, or the class of a file reference, around the two networks.

    teacher: None for plain training; cfg: the whole config; num_data: number of training images, for the methods
    that keep a memory of them. Raises UserError for an unknown name.
    """
    name = canonical_name(name)
    if name == "NONE":
        return Vanilla(student)
    is_file = is_file_reference(name)
    cls = load_distiller_class(name) if is_file else DISTILLERS[name]
    takes_num_data = "num_data" in inspect.signature(cls.__init__).parameters
    arguments = (student, teacher, cfg, num_data) if takes_num_data else (student, teacher, cfg)
    if not is_file:
        return cls(*arguments)
    try:
        return cls(*arguments)
    except Exception as error:
        raise UserError(
            f"{name} cannot be built: {type(error).__name__}: {error}; a section of the config that it needs "
            "comes from --cfg or as SECTION.KEY VALUE"
        ) from error
