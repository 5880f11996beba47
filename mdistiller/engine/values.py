"""Values from text and back: YAML files, which may begin with others, and what a command line says."""

import ast
import math
import re
from collections import Counter
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import yaml

from mdistiller.checks import brief
from mdistiller.errors import UserError
from mdistiller.files import open_regular

BASE_KEY = "_BASE_"  # of a YAML file: another, whose values it begins with
MOST_BYTES, MOST_FILES = 2**15, 20  # of a YAML text, and of files that begin with each other
MOST_ALIASES, DEEPEST, MOST_BITS = 20, 20, 1000  # in a YAML text: `*name`, levels of nesting, bits of a whole number
HUGE = 2**64
OTHER_BASE = re.compile(r"[-+]?0[0-9_]|.*:")  # numbers that YAML 1.1 takes for octal or sexagesimal ones

Layers = list[tuple[Path, dict[str, Any]]]  # files and their nested values, each over those before


def read_layers(path: str | Path, text_keys: Container[str] = ()) -> Layers:
    """The YAML file `path` and the files that it begins with, from the last `_BASE_`, relative to its file, to itself.

    text_keys: dotted keys whose values are taken as they are written, such as 010. Raises UserError where a file is
    unreadable or no mapping, and where files begin with each other.
    """
    layers: Layers = []
    path = Path(path)
    while True:
        values = _read_file(path, text_keys)
        base = values.pop(BASE_KEY, None)
        layers.insert(0, (path, values))
        if base is None:
            return layers
        if not isinstance(base, str) or not base:
            raise UserError(f"{BASE_KEY} in config {path} is {brief(repr(base))}; expected the path of one YAML file")
        path = path.parent / base
        if path.resolve() in [other.resolve() for other, _ in layers]:
            files = " -> ".join(str(other) for other in [*(other for other, _ in reversed(layers)), path])
            raise UserError(f"{BASE_KEY} runs in a circle: {files}; leave one out")
        if len(layers) == MOST_FILES:
            raise UserError(f"config {layers[-1][0]} begins with {MOST_FILES} files or more by {BASE_KEY}; join some")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The nested values of the YAML file `path` over those of the files that it begins with; see `read_layers`."""
    values: dict[str, Any] = {}
    for _, own in read_layers(path):
        values = _over(values, own)
    return values


def _read_file(path: Path, text_keys: Container[str] = ()) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            text = file.read(MOST_BYTES + 1).decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read config {path}: {error.strerror or error}; expected a YAML file") from error
    except UnicodeDecodeError as error:
        raise UserError(f"config {path} is not text in UTF-8; expected a YAML file") from error
    return parse_yaml(text, f"config {path}", text_keys)


def _over(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested `values` over those of `base`."""
    merged = dict(base)
    for key, value in values.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse_yaml(text: str, source: str, text_keys: Container[str] = ()) -> dict[str, Any]:
    """The nested values of a YAML text. Raises UserError, naming `source`, where it is no mapping."""
    values = load(text, source, text_keys) or {}
    if not isinstance(values, dict):
        raise UserError(f"{source} holds a {type(values).__name__}; expected SECTION: {{KEY: value}}")
    return values


def load(text: str, source: str, text_keys: Container[str] = ()) -> Any:
    """The value of a YAML text. Raises UserError for what is no YAML or holds more than a config can."""
    if len(text) > MOST_BYTES:
        raise UserError(f"{source} is longer than the {MOST_BYTES // 1024} KB that a config may have")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else loader.value_of(node, text_keys)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source} is not valid YAML: {' '.join(str(error).split())[:200]}") from error


class _Loader(yaml.SafeLoader):
    """Reads what a config can hold, in little time whatever the text; all else raises ValueError or a YAMLError."""

    def __init__(self, text: str):
        super().__init__(text)
        self.depth = self.aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.aliases += self.check_event(yaml.AliasEvent)
        if self.aliases > MOST_ALIASES:
            raise ValueError(f"it has more than {MOST_ALIASES} aliases (*name); write the values out")
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        written = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := [key for key, times in written.items() if times > 1]:
            raise ValueError(f"the key {brief(twice[0])!r} stands twice in one section; leave one out")
        return node

    def value_of(self, node: Any, text_keys: Container[str], name: str = "", depth: int = 0) -> Any:
        """The plain value of `node`, whose dotted key is `name`."""
        if depth > DEEPEST:
            raise ValueError("an alias (*name) holds itself")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, name in text_keys)
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if kind == "seq" and isinstance(node, yaml.SequenceNode):
            return [self.value_of(item, text_keys, name, depth + 1) for item in node.value]
        if kind != "map" or not isinstance(node, yaml.MappingNode):
            raise ValueError(f"it holds a {brief(kind)}; expected text, numbers, lists and sections")
        self.flatten_mapping(node)
        values = {}
        for key_node, item in node.value:
            key = self._scalar(key_node, False) if isinstance(key_node, yaml.ScalarNode) else key_node.value
            if not isinstance(key, str):
                raise ValueError(f"it has the key {brief(repr(key))}; expected text")
            values[key] = self.value_of(item, text_keys, f"{name}.{key}".lstrip("."), depth + 1)
        return values

    def _scalar(self, node: yaml.ScalarNode, as_written: bool) -> Any:
        value = node.value if as_written and not node.tag.endswith(":null") else self.construct_object(node)
        if isinstance(value, str) and "\0" in value:
            raise ValueError(f"the text {brief(repr(value))} has a zero character")
        if isinstance(value, (str, bool, type(None))):
            return value
        if not isinstance(value, (int, float)):
            raise ValueError(f"it holds a {type(value).__name__}, {brief(value)}; quote it to mean text")
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise ValueError("a whole number has more than 300 digits")
        if OTHER_BASE.match(node.value):
            raise ValueError(f"{brief(node.value)} would be {value}; write a decimal number, or quote it to mean text")
        return value


def leaves(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a config and of the sections in it, by their dotted keys."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        values |= leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


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


def as_text(values: Mapping[str, Any]) -> str:
    """A mapping as YAML in one line, the same for equal ones."""
    return yaml.dump(dict(values), Dumper=_Dumper, default_flow_style=True, width=math.inf).strip()


def is_mapping(value: Any, old: Any) -> bool:
    """Whether `value` is a mapping, for a key whose text, as the `old` one, is a mapping in YAML."""
    return isinstance(value, dict) and old.startswith("{")


def as_number(value: Any) -> Any:
    """YAML reads 1e-4 (no dot) as text; a researcher means the number. One that no range holds is short as a float."""
    if isinstance(value, str) or (isinstance(value, int) and abs(value) >= HUGE):
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
        except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two of deep nesting
            return value
    return value


def coerce(name: str, value: Any, old: Any, source: str) -> Any:
    """`value` in the type of `old`, numbers and sequences being interchangeable among themselves.

    name, source: what it is and where it comes from, for the UserError about a value that does not fit.
    """
    value = as_number(value) if isinstance(old, (int, float)) else value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(old, bool):
        fits = isinstance(value, bool)
    elif isinstance(old, float):
        fits, value = is_number, float(value) if is_number else value
    elif isinstance(old, int):
        fits, value = is_number, int(value) if is_number and abs(value) < HUGE and value == int(value) else value
    elif isinstance(old, (list, tuple)):
        value = _sequence(value)
        fits = isinstance(value, (list, tuple))
        value = type(old)(map(as_number, value)) if fits else value
    else:
        value = "" if value is None else as_text(value) if is_mapping(value, old) else value
        fits, value = not isinstance(value, (list, tuple, dict)), str(value)
    if not fits:
        example = "[a,b]" if old in ([], ()) else repr(old)
        raise UserError(f"{name} in {source} is {brief(repr(value))}; expected {type(old).__name__}, such as {example}")
    return value
