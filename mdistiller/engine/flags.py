"""Parsing of command lines, whose mistakes are one line."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from mdistiller.errors import UserError, nearest


class FlagParser(argparse.ArgumentParser):
    """Flags; what it cannot parse, and a flag whose value is empty, raises UserError."""

    def __init__(self, **kwargs: Any):
        super().__init__(allow_abbrev=False, **kwargs)

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        flags, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            raise UserError(f"unknown flag {unknown[0]!r}{nearest(unknown[0], known)}; type --help for all flags")
        for name, value in vars(flags).items():
            if value == "":
                raise UserError(f"--{name} has an empty value; give it one, or leave the flag out")
        return flags

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; type --help for all flags")
