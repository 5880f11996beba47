"""What a part has measured, and its table."""

import dataclasses

from mdistiller.engine.tables import align


@dataclasses.dataclass
class Row:
    """seconds: of one step; images: of one step, where it has any; memory: MiB at its peak, where that is known."""

    what: str
    way: str
    seconds: float
    images: float | None = None
    memory: float | None = None


@dataclasses.dataclass
class Report:
    """notes: lines to print below the table; is_wrong: whether something that must hold did not."""

    rows: list[Row] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    is_wrong: bool = False


def table_of(rows):
    """Rows as text; of the ways to do the same the first is what the others are compared with."""
    lines, plain = [("what", "way", "images/s", "ms a step", "peak MiB", "ratio")], {}
    for row in rows:
        ratio = plain.setdefault(row.what, row.seconds) / row.seconds
        rate = "" if row.images is None else rounded(row.images / row.seconds)
        memory = "" if row.memory is None else rounded(row.memory)
        lines.append((row.what, row.way, rate, rounded(1000 * row.seconds), memory, f"{ratio:.2f}"))
    return align(lines)


def rounded(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
