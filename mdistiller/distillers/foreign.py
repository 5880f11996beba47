"""Distiller files from outside the package, such as those written for MDistiller."""

import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mdistiller.checks import Check
from mdistiller.errors import UserError
from mdistiller.folder_modules import described, folder_of, load_module

from ._base import OWN, Distiller, Output
from ._contract import (
    CONTRAST,
    KEYWORDS,
    VIEWS,
    Contrast,
    arguments,
    as_scalar,
    check_returned,
    kind_of,
)

INPUT_SIZE_SECTIONS, MDISTILLER_INPUT_SIZE = ("FITNET", "VID"), (32, 32)


class ForeignDistiller(Distiller):
    """Stands before a file's own class and gives it what such files count on.

    They call `.view` on feature maps, which must be contiguous then; they may change their teacher, read sections of
    their own from the config, probe shapes at FITNET.INPUT_SIZE or VID's, take `num_data` or not, name in
    `forward_train` only the keywords that they use, list their own parameters, and return losses that are not reduced,
    or numbers.
    """

    teacher_is_constant = False
    memory_format = torch.contiguous_format
    takes_new_sections = True
    relates_images = True
    is_checked = False  # whether it has returned, once, what a trainer takes
    contrastive: Contrast | None  # for a `forward_train` that takes what it draws

    @classmethod
    def build(cls, student: nn.Module, teacher: nn.Module | None, cfg: Any, num_data: int | None = None) -> Distiller:
        cls.check_keywords(cfg)
        try:
            given, named = arguments(cls.__init__, (student, teacher, with_input_size(cfg)), num_data)
            distiller = cls(*given, **named)
        except (Exception, SystemExit) as error:
            raise UserError(
                f"{cls.__name__} of {cls.path()} cannot be built: {described(error)}; a section or key of the config "
                "that it needs comes from --cfg or as SECTION.KEY VALUE"
            ) from error
        if "_modules" not in vars(distiller) or not isinstance(getattr(distiller, "student", None), nn.Module):
            raise UserError(
                f"{cls.__name__} of {cls.path()} has no student; its __init__ begins with "
                "super().__init__(student, teacher)"
            )
        distiller.contrastive = Contrast(cfg) if CONTRAST in cls.required_keywords() else None
        return distiller

    @classmethod
    def has_task_loss(cls) -> bool:
        theirs = [each for each in cls.__mro__ if each is not ForeignDistiller and "forward_train" in vars(each)]
        own = vars(theirs[0])["forward_train"]
        return own.__module__.startswith(Distiller.__module__.rpartition(".")[0])

    @classmethod
    def path(cls) -> str:
        """The distiller file."""
        return str(sys.modules[cls.__module__].__file__)

    @classmethod
    def mentions(cls, key: str) -> bool:
        texts = "\n".join(folder_of(cls.__module__).texts)
        return key == cls.section() or (key != "" and re.search(rf"\b{re.escape(key)}\b", texts) is not None)

    @classmethod
    def variant(cls, cfg: Any) -> list[str]:
        return [f"file.{cls.checksum()[:6]}", *super().variant(cfg)]

    @classmethod
    def checksum(cls) -> str:
        """SHA-256, in hexadecimal digits, of the file and of what it has imported from its folder."""
        return hashlib.sha256("\0".join(sorted(folder_of(cls.__module__).texts)).encode(errors="replace")).hexdigest()

    @classmethod
    def required_keywords(cls) -> set[str]:
        """Names of the arguments without which the file's own `forward_train` cannot be called."""
        parameters = inspect.signature(super().forward_train).parameters.values()
        kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
        required = {p.name for p in parameters if p.kind in kinds and p.default is p.empty}
        return required - {next(iter(p.name for p in parameters), "")}

    @classmethod
    def check_keywords(cls, cfg: Any) -> None:
        """Raise UserError where `forward_train` takes what no batch has."""
        has_views = cfg.DATASET.AUGMENT == "two-view"
        lacking = cls.required_keywords() - KEYWORDS - {CONTRAST} - (VIEWS if has_views else set())
        if lacking:
            hint = "; add DATASET.AUGMENT two-view" if lacking <= VIEWS else ""
            raise UserError(
                f"forward_train of {cls.__name__} in {cls.path()} takes {', '.join(sorted(lacking))}; expected some of "
                f"{', '.join(sorted(KEYWORDS))}, {CONTRAST}, and with two views {', '.join(sorted(VIEWS))}{hint}"
            )

    def set_targets(self, targets: torch.Tensor) -> None:
        super().set_targets(targets)
        if self.contrastive is not None:
            self.contrastive.sampler.set_targets(targets)

    def forward(self, **kwargs: Any) -> Any:
        returned = super().forward(**kwargs)
        if not self.training:
            return returned
        try:
            if not self.is_checked:
                check_returned(returned, kwargs["target"])
            logits, losses = returned
            scalars = {name: as_scalar(loss, logits) for name, loss in losses.items()}
        except (TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"forward_train of {type(self).__name__} in {self.path()} returns no (logits, losses), the student's "
                f"logits (batch, classes) and a dict of losses by name, scalar tensors or numbers: {error}"
            ) from error
        self.is_checked = True
        return logits, scalars

    def forward_train(self, image: torch.Tensor, target: torch.Tensor, **kwargs: Any) -> Any:
        given = {"image": image, "target": target, **kwargs}
        if self.contrastive is not None:
            given[CONTRAST] = self.contrastive.draw(kwargs["index"])
        takes = self.keywords
        return super().forward_train(**{k: v for k, v in given.items() if takes is None or k in takes})

    def losses(self, student: Output, teacher: Any, target: torch.Tensor, **kwargs: Any) -> dict[str, torch.Tensor]:
        try:
            losses = super().losses(student, teacher, target, **kwargs)
        except NotImplementedError as error:
            raise UserError(f"{self.path()}: {error}") from error
        if not isinstance(losses, Mapping):
            raise UserError(
                f"losses of {type(self).__name__} in {self.path()} returns {kind_of(losses)}; expected a dict of "
                "losses by name, scalar tensors or numbers"
            )
        return dict(losses)

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """The file's, each once, whether it lists them or names them, too."""
        found = super().get_learnable_parameters()
        try:
            listed = [item[1] if isinstance(item, tuple) else item for item in found]
        except TypeError:
            listed = []
        if not listed or not all(isinstance(item, torch.Tensor) for item in listed):
            raise UserError(
                f"get_learnable_parameters of {type(self).__name__} in {self.path()} returns {kind_of(found)}; "
                "expected a list of parameters"
            )
        return list(dict.fromkeys(listed))

    def extra_parameters(self) -> list[nn.Parameter]:
        """None for a file that lists its parameters itself, on top of the student's, as MDistiller's do."""
        lists_its_own = super(ForeignDistiller, type(self)).get_learnable_parameters is not (
            Distiller.get_learnable_parameters
        )
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
    try:
        is_file = Path(path).is_file()
    except (OSError, ValueError):  # no name that a file can have
        is_file = False
    if not is_file:
        raise UserError(f"no distiller file {path}; expected --distiller path/to/file.py:ClassName")
    return Path(path).resolve(), class_name


def load_class(reference: str) -> type[Distiller]:
    """The class that `path/to/file.py:ClassName` names, behind `ForeignDistiller`; a file is read once while it stays.

    The file may import from its folder and, by MDistiller's relative imports, from this package; see `Folder`.
    Raises UserError where the file or the class is missing or the file does not import.
    """
    path, class_name = split_reference(reference)
    status = path.stat()
    return _load_class(path, class_name, status.st_mtime_ns, status.st_size)


@functools.cache
def _load_class(path: Path, class_name: str, *version: int) -> type[Distiller]:
    module = load_module(path, __package__, "distiller file", *version)
    folder = folder_of(module.__name__).__name__
    own = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Distiller)]
    own = [key for key in own if getattr(module, key).__module__.startswith(f"{folder}.")]
    if class_name not in own:
        raise UserError(
            f"no distiller class {class_name!r} in {path}; type {path}:ClassName, classes there: "
            f"{', '.join(own) or 'none that derives from mdistiller.distillers.Distiller'}"
        )
    theirs = getattr(module, class_name)
    declared = {name: vars(theirs)[name] for name in OWN}
    own_name = {"__module__": module.__name__, "__doc__": theirs.__doc__}
    if "relates_images" in vars(theirs):  # else it may, whatever it derives from
        own_name["relates_images"] = theirs.relates_images
    try:
        if not all(isinstance(check, Check) for check in theirs.checks.values()):
            raise TypeError("its checks must be a dict of mdistiller.checks")
        if not callable(theirs.forward_train):
            raise TypeError("its forward_train must be a method")
        return type(class_name, (ForeignDistiller, theirs), own_name | declared)
    except Exception as error:
        raise UserError(f"{class_name} of {path} is no distiller: {described(error)}") from error
