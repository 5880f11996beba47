"""Values from text and back: YAML files, which may begin with others, and what a command line says."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mdistiller.errors import UserError

BASE_KEY = "_BASE_"  # of a YAML file: another, whose values it begins with


Layers = list[tuple[Path, dict[str, Any]]]  # files and their nested values, each over those before


def read_layers(path: str | Path) -> Layers:
    """The YAML file `path` and the files that it begins with, from the last `_BASE_`, relative to its file, to itself.

    Raises UserError where a file is unreadable or no mapping, and where files begin with each other.
    """
    layers: Layers = []
    path = Path(path)
    while True:
        values = _read_file(path)
        base = values.pop(BASE_KEY, None)
        layers.insert(0, (path, values))
        if base is None:
            return layers
        if not isinstance(base, str) or not base:
            raise UserError(f"{BASE_KEY} in config {path} is {base!r}; expected the path of one YAML file")
        path = path.parent / base
        if path.resolve() in [other.resolve() for other, _ in layers]:
            files = " -> ".join(str(other) for other in [*(other for other, _ in reversed(layers)), path])
            raise UserError(f"{BASE_KEY} runs in a circle: {files}; leave one out")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The nested values of the YAML file `path` over those of the files that it begins with; see `read_layers`."""
    values: dict[str, Any] = {}
    for _, own in read_layers(path):
        values = _over(values, own)
    return values


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
    except OSError as error:
        raise UserError(f"cannot read config {path}: {error.strerror or error}; expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config {path} is not text; expected a YAML file") from error
    return parse_yaml(text, f"config {path}")


def _over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested `values` over those of `base`."""
    merged = dict(base)
    for key, value in values.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The nested values of a YAML text. Raises UserError, naming `source`, where it is no mapping."""
    values = load(text, source) or {}
    if not isinstance(values, dict):
        raise UserError(f"{source} holds a {type(values).__name__}; expected SECTION: {{KEY: value}}")
    return values


def load(text: str, source: str) -> Any:
    """The value of a YAML text. Raises UserError for what is no YAML or holds more than a config can."""
    try:
        value = yaml.safe_load(text)
        _check_plain(value, source)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())[:200]}") from error
    return value


def _check_plain(value: Any, source: str) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise UserError(f"{source} has the key {key!r}; expected text")
            _check_plain(item, source)
    elif isinstance(value, list):
        for item in value:
            _check_plain(item, source)
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise UserError(f"{source} holds a {type(value).__name__}, {value}; quote it to mean text")


class _Dumper(yaml.SafeDumper):
    """Writes a value that two keys share twice, not as a reference."""

    def ignore_aliases(self, data):
        return True


def dump(cfg: Mapping[str, Any]) -> str:
    """The whole config as YAML, which `read_yaml` and MDistiller read."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return yaml.dump(plain(cfg), Dumper=_Dumper)


def number(value: Any) -> Any:
    """YAML reads 1e-4 (no dot) as text; a researcher means the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _sequence(value: Any) -> Any:
    """YAML reads (32, 32) as text."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value


def coerce(name: str, value: Any, old: Any, source: str) -> Any:
    """`value` in the type of `old`, numbers and sequences being interchangeable among themselves.

    name, source: what it is and where it comes from, for the UserError about a value that does not fit.
    """
    value = number(value) if isinstance(old, (int, float)) else value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(old, bool):
        fits = isinstance(value, bool)
    elif isinstance(old, float):
        fits, value = is_number, float(value) if is_number else value
    elif isinstance(old, int):
        fits = is_number
    elif isinstance(old, (list, tuple)):
        value = _sequence(value)
        fits = isinstance(value, (list, tuple))
        value = type(old)(map(number, value)) if fits else value
    else:
        value = "" if value is None else value
        fits, value = not isinstance(value, (list, tuple, dict)), str(value)
    if not fits:
        raise UserError(f"{name} in {source} is {value!r}; expected {type(old).__name__}, such as {old!r}")
    return value
