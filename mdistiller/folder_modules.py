"""The folder of a user's own file, which the files in it may import from and nothing else does."""

import builtins
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch

from mdistiller.errors import UserError

ROOT = __name__.split(".")[0]
PREFIX = f"{ROOT}._file_"
OURS = "_base"  # its Distiller is what a trainer knows, whatever a file of this name in the folder says


class Folder(ModuleType):
    """The folder of one file as a package of its own: `.` is the folder, before our package `room`, and `..` ours.

    What its files import without dots is looked for there as well, behind the standard library and our package, and
    before what is installed; so it is in a script's folder. Other modules see nothing of it, as `sys.path` stays as it
    is and the names in `sys.modules` are this package's.
    """

    def __init__(self, path: Path, room: str, *version: int):
        digest = hashlib.sha256(os.fsencode(path) + repr((room, version)).encode()).hexdigest()[:12]
        super().__init__(f"{PREFIX}{digest}")
        self.room = room
        self.__path__: list[str] = [str(path.parent)]
        self.texts: list[str] = []  # sources of its files that have been imported
        self.is_loading_since: list[str] | None = None  # sys.path before that
        above = ModuleType(f"{self.__name__}.__above__")
        above.__path__ = [str(path.parent.parent)]
        sys.modules |= {self.__name__: self, above.__name__: above}

    def __getattr__(self, name: str) -> Any:
        """What `from . import name` takes from our package, for what the folder has not."""
        if name.startswith("__") or self.find(name):
            raise AttributeError(name)
        return getattr(sys.modules[self.room], name)

    def find(self, name: str) -> ModuleSpec | None:
        """The module or package `name` of the folder."""
        return None if name == OURS else PathFinder.find_spec(name, self.__path__)

    def import_(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__`, as the import statements of the folder's files call it."""
        if self.is_loading_since is not None:  # a file may add to sys.path, and import from there
            self.__path__ += [entry for entry in sys.path if entry not in self.is_loading_since + self.__path__]
        package = (globals or {}).get("__package__") or self.__name__
        full = importlib.util.resolve_name("." * level + name, package) if level else name
        place = self.place_of(full, level)
        if place == full:
            try:
                return builtins.__import__(name, globals, locals, fromlist, level)
            except ModuleNotFoundError as error:
                other = self.place_in_fork(full)
                if not (other and fromlist and error.name and f"{full}.".startswith(f"{error.name}.")):
                    raise
                place = other
        importlib.import_module(place)
        if fromlist:
            return builtins.__import__(place, fromlist=fromlist)
        return sys.modules[place.removesuffix(full) + full.split(".")[0]]

    def place_of(self, full: str, level: int) -> str:
        """The name in `sys.modules` of what an import statement calls `full`, once its dots are resolved."""
        first = full.split(".")[0]
        if level and full.startswith(f"{self.__name__}."):
            inner = full.removeprefix(f"{self.__name__}.")
            first = inner.split(".")[0]
            is_ours = not self.find(first) and importlib.util.find_spec(f"{self.room}.{first}") is not None
            return f"{self.room}.{inner}" if is_ours else full
        if level or first == ROOT or first in sys.stdlib_module_names:
            return full
        if first == OURS and PathFinder.find_spec(first, self.__path__):
            return f"{self.room}.{full}"
        found = self.find(first)
        if found is None or (found.loader is None and self.is_installed(first)):
            return full
        return f"{self.__name__}.{full}"

    def is_installed(self, name: str) -> bool:
        """Whether the environment has a top-level module `name`, which a folder without `__init__.py` gives way to."""
        paths = sys.path if self.is_loading_since is None else self.is_loading_since
        return name in sys.modules or PathFinder.find_spec(name, paths) is not None

    def place_in_fork(self, full: str) -> str | None:
        """The name of a module of a fork, which our package lacks: `mdistiller.x` lies in the folder above the file's.

        `mdistiller.distillers.x` lies in the folder itself. None for what is neither.
        """
        first, *rest = full.split(".")
        if first != ROOT or not rest or full.startswith(PREFIX):
            return None
        if self.room == f"{ROOT}.{rest[0]}":
            return ".".join([self.__name__, *rest[1:]])
        above = f"{self.__name__}.__above__"
        return ".".join([above, *rest]) if PathFinder.find_spec(rest[0], sys.modules[above].__path__) else None

    def forget(self) -> None:
        """Take the folder's modules out of `sys.modules`."""
        for name in [name for name in sys.modules if f"{name}.".startswith(f"{self.__name__}.")]:
            del sys.modules[name]


class Loader(SourceFileLoader):
    """Runs a file of `folder` with its `import_`; always from its source, and writes nothing beside it."""

    def __init__(self, fullname: str, path: str, folder: Folder):
        super().__init__(fullname, path)
        self.folder = folder

    def get_code(self, fullname: str) -> CodeType:
        source = self.get_data(self.path)
        self.folder.texts.append(source.decode(errors="replace"))
        return self.source_to_code(source, self.path)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self.folder.import_}
        super().exec_module(module)


class Finder:
    """Finds the modules of folders, and no other, for the import system."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        folder = sys.modules.get(".".join(name.split(".")[:2])) if name.startswith(PREFIX) else None
        spec = PathFinder.find_spec(name, path) if isinstance(folder, Folder) else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            assert isinstance(folder, Folder)
            spec.loader = Loader(name, spec.loader.path, folder)
        return spec


@functools.cache
def load_module(path: Path, room: str, what: str, *version: int) -> ModuleType:
    """The module of a user's file `path`, read once for each of its versions.

    room: our package, among whose modules the file counts itself; what: it is, in words, such as "distiller file".

    Raises UserError, with the line, where the file or one that it imports from its folder does not import.
    """
    if Finder not in sys.meta_path:
        sys.meta_path.insert(0, Finder)  # type: ignore[arg-type]
    importlib.invalidate_caches()
    folder = Folder(path, room, *version)
    stem = re.sub(r"\W", "_", path.stem)
    name = f"{folder.__name__}.{stem}{'_' * (stem == OURS)}"
    spec = importlib.util.spec_from_loader(name, Loader(name, str(path), folder), is_package=False)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with unchanged(folder):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        folder.forget()
        raise UserError(f"{what} {path} does not import: {described(error)}") from error
    return module


@contextlib.contextmanager
def unchanged(folder: Folder) -> Iterator[None]:
    """Within it the files of `folder` may change what all modules share; afterwards that is as it was."""
    folder.is_loading_since, working = [*sys.path], os.getcwd()
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        with torch.set_grad_enabled(torch.is_grad_enabled()), warnings.catch_warnings():
            yield
    finally:
        folder.__path__ += [entry for entry in sys.path if entry not in folder.is_loading_since + folder.__path__]
        sys.path[:] = folder.is_loading_since
        folder.is_loading_since = None
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        os.chdir(working)


def folder_of(module: str) -> Folder:
    """The folder of a user's file, by the name of a module in it."""
    folder = sys.modules[".".join(module.split(".")[:2])]
    assert isinstance(folder, Folder)
    return folder


def line_of(error: BaseException) -> tuple[str, int] | None:
    """File and line of the last of a folder's statements that `error` passed through; None where there is none."""
    frames = [*traceback.walk_tb(error.__traceback__)]
    for frame, line in reversed(frames):
        if frame.f_globals.get("__name__", "").startswith(PREFIX):
            return frame.f_code.co_filename, line
    return None


def described(error: BaseException) -> str:
    """An error in a file of a folder, in one line: what it is, and where."""
    text, place = str(error), line_of(error)
    if isinstance(error, SyntaxError):
        text, place = error.msg, (error.filename, error.lineno or 1) if error.filename else place
    text = re.sub(rf"{re.escape(PREFIX)}\w+", "", " ".join(text.split()))[:300]
    where = f" ({place[0]}, line {place[1]})" if place else ""
    return f"{type(error).__name__}: {text}{where}"
