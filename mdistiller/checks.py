"""What the value of a config key must be, and how to say so."""

import functools
import math
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple

from mdistiller.errors import UserError

LARGEST = 1e6  # of a weight, which float32 squares and multiplies without overflow
MOST_ITEMS = 100  # of a list
LONGEST_TEXT = 1024  # characters
SHOWN = 80  # characters of a value in a message


def brief(value: Any) -> str:
    """`value` as a message shows it, cut off where it is long."""
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]} ..."


class Check(NamedTuple):
    """is_good: whether a value, of the type of the key's default, is one; expected: what a good value is, in words."""

    is_good: Callable[[Any], bool]
    expected: str

    def require(self, key: str, value: Any) -> None:
        """Raise UserError, naming `key`, where `value` is not good."""
        if not self.is_good(value):
            raise UserError(f"{key} is {brief(value)}; expected {self.expected}")


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


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_text(value: Any) -> bool:
    """Whether files, paths and terminals can take `value`: no zero character, and all of it Unicode."""
    return "\0" not in value and not any("\ud800" <= c <= "\udfff" for c in value) and len(value) <= LONGEST_TEXT


def number(low: float, high: float) -> Check:
    """A number from `low` to `high`, both included."""
    return Check(lambda value: is_number(value) and low <= value <= high, f"a number from {low:,.9g} to {high:,.9g}")


def above_zero(high: float) -> Check:
    """A number above 0, to `high`, which is included."""
    return Check(lambda value: is_number(value) and 0 < value <= high, f"a number above 0 to {high:,.9g}")


def whole(low: int, high: int) -> Check:
    """A whole number from `low` to `high`, both included."""
    return Check(lambda value: is_whole(value) and low <= value <= high, f"a whole number from {low:,} to {high:,}")


def one_of(*values: Any) -> Check:
    """One of a few values."""
    return Check(lambda value: value in values, f"one of {', '.join(map(str, values))}")


def list_of(item: Check, example: str, counts: Container[int] = range(1, MOST_ITEMS + 1)) -> Check:
    """Items that are good each, as many as one of `counts`."""
    return Check(
        lambda values: len(values) in counts and all(map(item.is_good, values)),
        f'a list such as "{example}", each {item.expected}',
    )


TEXT = Check(is_text, f"up to {LONGEST_TEXT:,} characters of Unicode, none of them zero")
ABOVE_ZERO = above_zero(LARGEST)
COUNT = whole(1, 1_000_000)  # of epochs, say
WARM_UP = number(0, 1_000_000)  # epochs
WEIGHT = number(0, LARGEST)  # of a loss, or of a part of one
TEMPERATURE = number(1e-3, 1e4)
FRACTION = Check(lambda value: is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
SEED = whole(0, 2**63 - 1)
HEIGHT_AND_WIDTH = list_of(whole(1, 1024), "[32,32]", [2])
