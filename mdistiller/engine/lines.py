"""Text that fits a terminal: the lines of a log, and commands to copy."""

import os
import re
import shlex
import textwrap
from pathlib import Path

COLUMNS = 100  # of a terminal
LINE = COLUMNS - len("2026-01-31 12:00:00,000 - ")  # what is left of them after a log line's time
LABEL = 11  # columns of a label in a log's head
LONG_WORD = LINE - len("Teacher's weights: ")  # what is left of a path too long for a line, so that a word precedes it
PIECE = re.compile(r".{1,79}/|.{1,80}")  # of a long path, which ends with a folder where it can


def printable(text: object) -> str:
    """`text`, which may come from anyone's file, with what a terminal would act on, or not show, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` columns, dots in place of what is left out of its middle; the end tells the most."""
    if len(text) <= width:
        return text
    kept = width - 3
    return f"{text[: kept // 3]}...{text[len(text) - kept + kept // 3 :]}"


def wrapped(text: str, first: str = "", rest: str = "  ", lines: int | None = None) -> list[str]:
    """`text` as lines of at most LINE columns, and as no more than `lines`, which end in dots where there was more.

    A longer word, such as a path, is shortened. first, rest: what the first line and the others begin with.
    """
    room = LINE - max(len(first), len(rest))
    words = [word if len(word) <= room else shortened(word, min(room, LONG_WORD)) for word in text.split()]
    filler = textwrap.TextWrapper(LINE, first, rest, max_lines=lines, placeholder=" ...")
    filler.break_long_words = filler.break_on_hyphens = False
    return filler.wrap(" ".join(words))


def as_lines(message: str, folder: Path) -> list[str]:
    """The lines of the log that tell `message`, in which paths below the working directory, `folder`, are relative."""
    below = re.escape(os.path.join(folder, ""))
    message = re.sub(rf"(?<![^\s'\"(=]){below}(?=[^\s/])", "", message)
    return [message] if len(message) <= LINE and "\n" not in message else wrapped(message)


def fitted(label: str, text: str, lines: int | None = None) -> list[str]:
    """An entry of the head, `text` beside its label; see `wrapped`."""
    return wrapped(text, f"{label + ':':<{LABEL}}", " " * LABEL, lines)


def count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds in the units that a reader would take."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def command(title: str, *words: str) -> list[str]:
    """A command as a shell takes it, split by backslashes into lines of at most COLUMNS."""
    lines = [f"{title:<13}"]
    for word in words:
        quoted = shlex.quote(word)
        if len(lines[-1] + quoted) + 2 <= COLUMNS:
            lines[-1] += f"{quoted} "
            continue
        lines[-1] += "\\"
        if len(quoted) + 6 <= COLUMNS:
            lines.append(f"    {quoted} ")
        else:  # within a word a line must begin where the one before ended
            lines += [f"{shlex.quote(piece)}\\" for piece in PIECE.findall(word)]
            lines[-1] = f"{lines[-1][:-1]} "
    return [line.rstrip() for line in lines]
