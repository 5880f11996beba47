"""The rules that keep the package readable: who may import whom, how long a file is, where a method's name stands."""

import ast
import re
from pathlib import Path

import pytest

import mdistiller
from mdistiller.distillers import DISTILLERS, PLAIN_TRAINING

PACKAGE = Path(mdistiller.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = 260
LOWER_ROOMS = {
    "models": {"dataset", "distillers", "engine"},
    "dataset": {"models", "distillers", "engine"},
    "distillers": {"dataset", "engine"},
}


def module_of(path):
    parts = ["mdistiller", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path, everywhere=False):
    """Names of the modules of the package that `path` imports, when it is imported or `everywhere` in it."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES


MODULES = {module_of(path) for path in FILES}
IMPORTS = {module_of(path): imports_of(path) for path in FILES}


def name_of(path):
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_not_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST


@pytest.mark.parametrize("room", LOWER_ROOMS)
def test_a_lower_room_knows_nothing_of_those_above(room):
    of_room = [path for path in FILES if path.relative_to(PACKAGE).parts[0] == room]
    imported = {other for path in of_room for other in imports_of(path, everywhere=True)}
    assert of_room and not {other.split(".")[1] for other in imported if "." in other} & LOWER_ROOMS[room]


def test_no_imports_run_in_a_circle():
    rest = {name: {other for other in imports if other != name} for name, imports in IMPORTS.items()}
    # A package's own file may import what is in it; what is in it then begins with the package anyway.
    for name, others in rest.items():
        others -= {parent for parent in others if name.startswith(f"{parent}.")}
    while free := [name for name, others in rest.items() if not others & rest.keys()]:
        for name in free:
            del rest[name]
    assert rest == {}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("engine/*.py")), ids=name_of)
def test_the_engine_names_no_method_but_in_the_index(path):
    methods = {method.__name__ for method in DISTILLERS.values()} | {*DISTILLERS} - {PLAIN_TRAINING}
    found = re.findall(rf"\b(?:{'|'.join(methods)})\b", path.read_text(encoding="utf-8"))
    assert bool(found) == (path.name == "index.py"), found
