"""Distiller files from outside the package, such as those written for MDistiller."""

import functools
import hashlib
import importlib.util
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mdistiller.errors import UserError

from ._base import OWN, Distiller

INPUT_SIZE_SECTIONS, MDISTILLER_INPUT_SIZE = ("FITNET", "VID"), (32, 32)


class ForeignDistiller(Distiller):
    """Stands before a file's own class and gives it what such files count on.

    They call `.view` on feature maps, which must be contiguous then; they may change their teacher, read sections of
    their own from the config, probe shapes at FITNET.INPUT_SIZE or VID's, take `num_data` or not, name in
    `forward_train` only the keywords that they use, list their own parameters, and return losses that are not reduced.
    """

    teacher_is_constant = False
    memory_format = torch.contiguous_format
    takes_new_sections = True

    @classmethod
    def build(cls, student: nn.Module, teacher: nn.Module | None, cfg: Any, num_data: int | None = None) -> Distiller:
        takes_num_data = "num_data" in inspect.signature(cls.__init__).parameters
        arguments = [student, teacher, with_input_size(cfg), *([num_data] if takes_num_data else [])]
        try:
            return cls(*arguments)
        except Exception as error:
            raise UserError(
                f"{cls.__name__} of {sys.modules[cls.__module__].__file__} cannot be built: "
                f"{type(error).__name__}: {error}; a section of the config that it needs comes from --cfg or as "
                "SECTION.KEY VALUE"
            ) from error

    @classmethod
    def variant(cls, cfg: Any) -> list[str]:
        return ["file", *super().variant(cfg)]

    def forward_train(self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any) -> Any:
        given = {"image": image, "target": target, **kwargs}
        takes = self.keywords
        logits, losses = super().forward_train(**{k: v for k, v in given.items() if takes is None or k in takes})
        return logits, {name: loss.mean() for name, loss in losses.items()}

    def extra_parameters(self) -> list[nn.Parameter]:
        """None for a file that lists its parameters itself, on top of the student's, as MDistiller's do."""
        lists_its_own = type(self).get_learnable_parameters is not Distiller.get_learnable_parameters
        return [] if lists_its_own else super().extra_parameters()

    @functools.cached_property
    def keywords(self) -> set[str] | None:
        """Names of the arguments of the file's own `forward_train`, or None where it takes any."""
        parameters = inspect.signature(super().forward_train).parameters.values()
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        return None if takes_any else {parameter.name for parameter in parameters}


def with_input_size(cfg: Any) -> Any:
    """A copy of the config in which MDistiller's two INPUT_SIZE are those of the data, where nobody has set them."""
    cfg, side = cfg.clone(), cfg.DATASET.IMAGE_SIZE
    cfg.defrost()
    for section in INPUT_SIZE_SECTIONS:
        if side and tuple(cfg[section].INPUT_SIZE) == MDISTILLER_INPUT_SIZE:
            cfg[section].INPUT_SIZE = (side, side)
    return cfg


def is_file_reference(name: str) -> bool:
    """Whether `name` is of the form `path/to/file.py:ClassName`."""
    return ".py:" in name or name.endswith(".py")


def split_reference(reference: str) -> tuple[Path, str]:
    """Path and class name, empty where it is left out, of a file reference. Raises UserError for a missing file."""
    path, _, class_name = reference.rpartition(":") if not reference.endswith(".py") else (reference, "", "")
    if not Path(path).is_file():
        raise UserError(f"no distiller file {path}; expected --distiller path/to/file.py:ClassName")
    return Path(path).resolve(), class_name


def load_class(reference: str) -> type[Distiller]:
    """The class that `path/to/file.py:ClassName` names, behind `ForeignDistiller`; a file is read once while it stays.

    The file is loaded as a submodule of this package, so a file written for MDistiller keeps its relative imports.
    Raises UserError where the file or the class is missing or the file does not import.
    """
    path, class_name = split_reference(reference)
    status = path.stat()
    return _load_class(path, class_name, status.st_mtime_ns, status.st_size)


@functools.cache
def _load_class(path: Path, class_name: str, *version: int) -> type[Distiller]:
    place = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]  # two files of one name may lie in different folders
    name = f"{__package__}._file_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{place}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # both exist for a name that ends in .py
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
    theirs = getattr(module, class_name)
    declared = {name: vars(theirs)[name] for name in OWN}
    return type(class_name, (ForeignDistiller, theirs), {"__module__": name, "__doc__": theirs.__doc__, **declared})
