"""What the value of a config key must be, and how to say so."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mdistiller.errors import UserError


class Check(NamedTuple):
    """is_good: whether a value, of the type of the key's default, is one; expected: what a good value is, in words."""

    is_good: Callable[[Any], bool]
    expected: str

    def require(self, key: str, value: Any) -> None:
        """Raise UserError, naming `key`, where `value` is not good."""
        if not self.is_good(value):
            raise UserError(f"{key} is {value}; expected {self.expected}")


def require_all(checks: Mapping[str, Check], section: Any, name: str = "") -> None:
    """Hold the values of `section`, called `name`, to `checks`, whose keys are dotted where sections are nested.

    Raises UserError for the first that is not good or is missing.
    """
    for key, check in checks.items():
        full_key = f"{name}.{key}" if name else key
        try:
            value = functools.reduce(lambda node, part: node[part], key.split("."), section)
        except KeyError:
            raise UserError(f"{full_key} is missing; expected {check.expected}") from None
        check.require(full_key, value)


def is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def is_above_zero(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def one_of(*values: Any) -> Check:
    """One of a few values."""
    return Check(lambda value: value in values, f"one of {', '.join(map(str, values))}")


def list_of(
    is_good: Callable[[Any], bool], expected: str, count: int | None = None, may_be_empty: bool = False
) -> Check:
    """One or more items, each good; or `count` of them, or with `may_be_empty` none at all."""

    def are_good(values: Any) -> bool:
        fits = len(values) == count if count else may_be_empty or len(values) > 0
        return fits and all(map(is_good, values))

    return Check(are_good, expected)


def colour(is_good: Callable[[Any], bool], expected: str) -> Check:
    """A good number for each of three colour channels, or none at all."""
    return Check(lambda values: len(values) in (0, 3) and all(map(is_good, values)), expected)


COUNT = Check(is_count, "a positive whole number")
ABOVE_ZERO = Check(is_above_zero, "a number above 0")
NOT_NEGATIVE = Check(lambda value: value == 0 or is_above_zero(value), "a number that is not negative")
FRACTION = Check(lambda value: 0 <= value < 1, "a number from 0 to below 1")
INDEX = Check(lambda value: isinstance(value, int) and 0 <= value < 2**63, "a whole number that is not negative")
HEIGHT_AND_WIDTH = list_of(is_count, 'height and width such as "[32,32]"', 2)
