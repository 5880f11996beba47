"""The one exception a user can cause."""

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Bad input: what was wrong, what was expected, what to type next, in one line.

    The command-line scripts print it on stderr and exit with status 2; nothing else is caught.
    """


def printable(text: Any) -> str:
    """`text`, which may come from anyone's file, with what a terminal would act on, or not show, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def nearest(word: str, known: Iterable[str]) -> str:
    """`" (nearest: 'x')"` for the entry x of `known` that resembles `word` most, letter case aside."""
    by_lower = {name.lower(): name for name in known}
    match = difflib.get_close_matches(word.lower()[:100], by_lower, n=1, cutoff=0.0)
    return f" (nearest: {by_lower[match[0]]!r})" if match else ""
