"""What evaluations are shown as: tables of text for a terminal of WIDTH columns, and rows of CSV."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mdistiller.errors import printable

from .evaluate import Evaluation
from .networks import SEPARATOR
from .runs import shown
from .writing import atomic_write

WIDTH, GAP = 100, "  "  # columns of a line, and what stands between two columns of a table
UNKNOWN, ELLIPSIS = "-", "…"
LARGE_LOSS = 1000  # from here on in three digits
WORST, BEST = 20, 5  # classes shown, where there are more than both together
MOST_CONFUSIONS = 10

HEADER = "dataset", "teacher", "student", "method", "seed", "epoch", "top-1", "top-5", "loss", "images", "file"
COMPARISON_HEADER = "teacher", "student", "method", "seed", "top-1", "agreement", "KL", "ECE"
OF_CSV = "chosen_by", "ece", "agreement", "kl", "compared_with", "image_size", "views", "precision", "networks"
CLASS_HEADER = "class", "images", "top-1"
CONFUSION_HEADER = "true", "taken for", "count", "share"
NUMBERS = {*HEADER[4:-1], *COMPARISON_HEADER[3:], "count", "share"}  # set to the right


def columns_of(text: str) -> int:
    """How many columns of a terminal `text` takes: an East Asian character two, a mark on another character none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def shorten(text: str, columns: int) -> str:
    """`text` in at most `columns`, one or more, without its middle where it is longer: names differ at their ends."""
    if columns_of(text) <= columns:
        return text
    head, tail = text[:columns], text[-columns:]
    while columns_of(head) + columns_of(tail) >= columns:
        head, tail = (head, tail[1:]) if columns_of(tail) >= columns_of(head) else (head[:-1], tail)
    return head + ELLIPSIS + tail


def shorten_path(path: str, columns: int) -> tuple[str, bool]:
    """`path` in at most `columns`, without its first folders where it is longer; whether the file's own is whole."""
    parts = Path(path).parts
    shorter = [f"{ELLIPSIS}/{'/'.join(parts[first:])}" for first in range(1, len(parts) - 1)]
    for text in (path, *shorter):
        if columns_of(text) <= columns:
            return text, True
    return shorten(text, columns), False


def align(rows: Sequence[tuple[str, ...]], numbers: Iterable[str] = (), width: int | None = None) -> str:
    """Rows of text as columns of equal width; those whose first row is one of `numbers` are set to the right.

    width: of a line, in columns; where the rows exceed it their widest columns are shortened.
    """
    widths = [max(map(columns_of, column)) for column in zip(*rows, strict=True)]
    while width is not None and sum(widths) + len(GAP) * (len(widths) - 1) > width:
        widths[widths.index(max(widths))] -= 1
    to_the_right = [title in set(numbers) for title in rows[0]]
    lines = []
    for row in rows:
        cells = [shorten(cell, columns) for cell, columns in zip(row, widths, strict=True)]
        spaces = [" " * (columns - columns_of(cell)) for cell, columns in zip(cells, widths, strict=True)]
        padded = [s + c if right else c + s for c, s, right in zip(cells, spaces, to_the_right, strict=True)]
        lines.append(GAP.join(padded).rstrip())
    return "\n".join(lines)


def place(item: Evaluation) -> tuple[Any, ...]:
    """What the rows of a table are sorted by: data and pair, then the best first."""
    return item.dataset, item.teacher or "", item.student, -item.result.top1, item.method or "", str(item.files)


def format_table(evaluations: Sequence[Evaluation], title: str = "") -> str:
    """A row an evaluation, its file at the end, or below where the folder's name would not fit there.

    title: a line that is above them, unless empty.
    """
    rows: list[tuple[str, ...]] = [HEADER[:-1]]
    for item in evaluations:
        known = item.dataset, item.teacher, item.student, item.method, item.seed, item.epoch
        numbers = f"{item.result.top1:.2f}", f"{item.result.top5:.2f}", in_nats(item.result.loss), item.result.images
        rows.append((*map(cell, known), *map(str, numbers)))
    last = GAP + HEADER[-1]
    header, *lines = align(rows, NUMBERS, WIDTH - len(last)).split("\n")
    notes = list(map(note_on, evaluations))
    files = [[printable(shown(file)) for file in item.files] for item in evaluations]
    beside = [shorten_path(names[0], WIDTH - len(GAP) - columns_of(header)) for names in files]
    if all(is_whole for _, is_whole in beside) and not any(notes) and all(len(names) == 1 for names in files):
        lines = [f"{line}{GAP}{file}" for line, (file, _) in zip(lines, beside, strict=True)]
    else:
        for number, (names, note) in enumerate(zip(files, notes, strict=True)):
            for name in names:
                end = note if name == names[-1] else ""
                lines[number] += f"\n{GAP}{shorten_path(name, WIDTH - len(GAP) - len(end))[0]}{end}"
    return "\n".join([*([title] if title else []), header + last, *lines])


def format_comparison(evaluations: Sequence[Evaluation]) -> str:
    """How near the networks are to their teachers, and how well calibrated: a row an evaluation, in the same order."""
    rows: list[tuple[str, ...]] = [COMPARISON_HEADER]
    for item in evaluations:
        known = map(cell, (item.teacher, item.student, item.method, item.seed))
        compared = [UNKNOWN, UNKNOWN]
        if item.agreement is not None and item.divergence is not None:
            compared = [f"{item.agreement:.2f}", in_nats(item.divergence)]
        rows.append((*known, f"{item.result.top1:.2f}", *compared, f"{item.calibration:.2f}"))
    return align(rows, NUMBERS, WIDTH)


def cell(value: Any) -> str:
    """What a file tells, as a cell of a table."""
    return UNKNOWN if value is None else printable(value)


def in_nats(value: float) -> str:
    return f"{value:.4f}" if value < LARGE_LOSS else f"{value:.3g}"


def note_on(item: Evaluation) -> str:
    """What a reader of an evaluation's row should know, behind a space, or nothing."""
    notes = [f"chosen by {printable(item.chosen_by)}"] if item.chosen_by not in (None, "test") else []
    notes += ["other images than its run was tested on"] if item.is_changed else []
    notes += ["its teacher's file has changed"] if item.teacher_is_changed else []
    return f" ({'; '.join(notes)})" if notes else ""


def format_classes(item: Evaluation) -> str:
    """The classes of an evaluation, the worst first, and what is most often taken for what."""
    rows = class_rows(item)
    cells = [(printable(name), str(images), f"{top1:.2f}") for name, images, top1 in rows]
    if left_out := max(0, len(rows) - WORST - BEST):
        cells[WORST:-BEST] = [(f"{ELLIPSIS} {left_out} more", "", "")]
    tables = [align([CLASS_HEADER, *cells], NUMBERS, WIDTH)]
    if confusions := confusion_rows(item)[:MOST_CONFUSIONS]:
        names = [(printable(true), printable(predicted)) for true, predicted, *_ in confusions]
        counts = [(str(count), f"{share:.2f}") for *_, count, share in confusions]
        lines = [(*pair, *numbers) for pair, numbers in zip(names, counts, strict=True)]
        tables.append(align([CONFUSION_HEADER, *lines], NUMBERS, WIDTH))
    return "\n\n".join(tables)


def class_rows(item: Evaluation) -> list[tuple[str, int, float]]:
    """Name, images and top-1 of each class that has test images, the worst first."""
    assert item.confusion is not None
    counts = zip(item.classes, item.confusion.sum(1).tolist(), item.confusion.diagonal().tolist(), strict=True)
    rows = [(name, images, 100 * correct / images) for name, images, correct in counts if images]
    return sorted(rows, key=lambda row: row[2])


def confusion_rows(item: Evaluation) -> list[tuple[str, str, int, float]]:
    """True class, predicted class, images and their share of the true class in percent, the most images first."""
    assert item.confusion is not None
    images = item.confusion.sum(1).tolist()
    rows = []
    for true, predicted in item.confusion.clone().fill_diagonal_(0).nonzero().tolist():
        count = int(item.confusion[true, predicted])
        rows.append((item.classes[true], item.classes[predicted], count, 100 * count / images[true]))
    return sorted(rows, key=lambda row: (-row[2], -row[3]))


def write_table(path: str | Path, evaluations: Iterable[Evaluation]) -> None:
    """Write the rows of `format_table` to the CSV file `path`: whole paths, whole numbers, nothing for the unknown."""
    rows = []
    for item in evaluations:
        known = item.dataset, item.teacher, item.student, item.method, item.seed, item.epoch
        numbers = item.result.top1, item.result.top5, item.result.loss, item.result.images
        files = item.files[0].absolute() if len(item.files) == 1 else SEPARATOR.join(map(str, item.files))
        compared = item.calibration, item.agreement, item.divergence, item.compared_with
        tested = item.image_size, item.views, item.precision, len(item.files)
        rows.append((*known, *numbers, files, item.chosen_by, *compared, *tested))
    write_csv(path, [title.replace("-", "") for title in (*HEADER, *OF_CSV)], rows)


def write_classes(path: str | Path, item: Evaluation) -> None:
    """Write all rows of `class_rows` to the CSV file `path`."""
    write_csv(path, [title.replace("-", "") for title in CLASS_HEADER], class_rows(item))


def write_csv(path: str | Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically. Text is escaped as by `printable`; a path stays as it is."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        writer = csv.writer(text)
        writer.writerow(header)
        writer.writerows([printable(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
        text.detach()
