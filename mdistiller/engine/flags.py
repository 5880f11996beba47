"""Parsing of command lines, whose mistakes are one line."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mdistiller.errors import UserError, nearest

from .places import NEWEST

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.\w+)+")  # of the config
PAIRS_HELP = "config keys and values that override all else, such as SOLVER.EPOCHS 60"


def names_and_pairs(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """`words` before the first that is a key of the config and no file's name, and those from it on."""
    keys = [place for place, word in enumerate(words) if KEY.fullmatch(word) and not Path(word).exists()]
    first = keys[0] if keys else len(words)
    return list(words[:first]), list(words[first:])


class Paragraphs(argparse.HelpFormatter):
    """Help whose texts keep their paragraphs, each as wide as the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (super(Paragraphs, self)._fill_text(each, width, indent) for each in text.strip().split("\n\n"))
        return "\n\n".join(paragraphs)


class FlagParser(argparse.ArgumentParser):
    """Flags; what it cannot parse, and a flag whose value is empty, raises UserError."""

    def __init__(self, **kwargs: Any):
        super().__init__(**{"allow_abbrev": False, "formatter_class": Paragraphs, **kwargs})

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        flags, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            raise UserError(f"unknown flag {unknown[0]!r}{nearest(unknown[0], known)}; type --help for all flags")
        for name, value in vars(flags).items():
            if "" in (value if isinstance(value, list) and name != "pairs" else [value]):
                raise UserError(f"--{name} has an empty value; give it one, or leave the flag out")
        return flags

    def error(self, message: str) -> NoReturn:
        message = message.replace(", KEY VALUE", "")  # of which there may be none, whatever argparse says
        raise UserError(f"{message}; type --help for all flags")


class Parser(FlagParser):
    """Flags in four groups, and KEY VALUE pairs."""

    def __init__(self, description: str):
        super().__init__(description=description, add_help=False)
        groups = (self.add_argument_group(title) for title in ("choose", "run", "device", "look"))
        self.choose, self.run, self.where, self.look = groups
        self.choose.add_argument("pairs", nargs="*", metavar="KEY VALUE", help=PAIRS_HELP)
        self.where.add_argument(
            "--device", help="cpu, cuda, cuda:1 … (default: CUDA where there is a GPU, else the CPU)"
        )
        self.look.add_argument("-h", "--help", action="help", help="print this, and stop")

    def parse(self, arguments: Sequence[str] | None) -> argparse.Namespace:
        optional = [action for action in self._actions if action.nargs == "?"]
        alone = {option: action.const for action in optional for option in action.option_strings}
        given, words = list(sys.argv[1:] if arguments is None else arguments), []
        for number, word in enumerate(given):
            words.append(word)
            after = given[number + 1] if number + 1 < len(given) else ""
            if word in alone and KEY.fullmatch(after) and not os.path.exists(after):  # --resume KEY VALUE
                words.append(alone[word])
        return super().parse(words)


class TrainingParser(Parser):
    """The flags that both training scripts take."""

    def __init__(self, description: str):
        super().__init__(description)
        self.epilog = "Trains in one process; in N, each on a GPU of its own, after torchrun --nproc_per_node=N."
        self.choose.add_argument("--cfg", metavar="FILE", help="YAML config, MDistiller's too, in place of the preset")
        self.choose.add_argument("--seed", type=int, help="seed of everything random (default: EXPERIMENT.SEED, 2021)")
        self.run.add_argument(
            "--resume",
            nargs="?",
            const=NEWEST,
            metavar="RUN",
            help="go on with a run that was stopped: its name, folder or last.pth (default: the newest)",
        )
        self.where.add_argument(
            "--fast", action="store_true", help="the fastest precision and compilation that the device has"
        )
        self.look.add_argument(
            "--list",
            nargs="*",
            metavar="LIBRARY PATTERN",
            help="print the indices and names, or those of torchvision or timm with PATTERN in them, and stop",
        )
        self.look.add_argument("--print_cfg", action="store_true", help="print the config that would run, and stop")
