"""What the scripts print and stop: their indices, and the config that would run."""

from collections.abc import Mapping, Sequence
from typing import Any

from yacs.config import CfgNode as CN

from mdistiller.distillers import DISTILLERS, PLAIN_TRAINING, find_method
from mdistiller.errors import UserError
from mdistiller.models.others import LIBRARIES, names_of

from .cfg import used_sections
from .index import Benchmark
from .values import dump


def print_config(cfg: CN) -> None:
    """Print what a run saves of its config, without the path of a teacher's weights that it would look up."""
    print(dump(used_sections(cfg, find_method(cfg.DISTILLER.TYPE))), end="")


def print_names(words: Sequence[str], columns: Mapping[str, Any], benchmark: Benchmark | None = None) -> None:
    """Print our names by index; or, where `words` are a library and perhaps a pattern, those of its networks.

    benchmark: whose methods without an index follow. Raises UserError for other words.
    """
    if words:
        library, *pattern = words
        if library not in LIBRARIES or len(pattern) > 1:
            raise UserError(f"--list takes nothing, or {' or '.join(LIBRARIES)} and a pattern, not {' '.join(words)}")
        found = names_of(library, *pattern)
        print("\n".join(f"{library}:{name}" for name in found) or f"{library} has no network with {pattern[0]!r}")
        return
    print_index(columns)
    if benchmark:
        print_unnumbered(benchmark)


def print_index(columns: Mapping[str, Mapping[int, str] | Sequence[str]]) -> None:
    """Print names by index, a column for each role."""
    tables = {role: names if isinstance(names, Mapping) else dict(enumerate(names)) for role, names in columns.items()}
    print("index  " + "".join(f"{role:<14}" for role in tables).rstrip())
    for index in sorted(set().union(*tables.values())):
        print(f"{index:<7}" + "".join(f"{names.get(index, ''):<14}" for names in tables.values()).rstrip())


def print_unnumbered(benchmark: Benchmark) -> None:
    """Print the methods that are chosen by name alone, if any."""
    numbered = {*benchmark.distillers.values(), find_method(PLAIN_TRAINING).__name__}
    if rest := [method.__name__ for method in DISTILLERS.values() if method.__name__ not in numbered]:
        print(f"by name: distiller {', '.join(rest)}")
