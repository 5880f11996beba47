"""What a grid writes: its tables and curves, as its runs are now."""

import re
from pathlib import Path

from mdistiller.engine.writing import atomic_write

from .curves import curves_of, draw
from .find import Finder
from .jobs import MEMORY, remembered
from .page import html
from .plan import Grid
from .rows import Table, tables_of
from .tables import markdown, write_rows

FIGURES = "figures"


def write_report(grid: Grid, finder: Finder, folder: Path) -> list[str]:
    """Write results.md, results.csv, results.html and figures/ to `folder`; returns what is wrong with some runs."""
    tables, wrong = tables_of(grid, finder, remembered(folder / MEMORY))
    drawings = [drawings_of(table, number) for number, table in enumerate(tables, 1)]
    for drawing in drawings:
        for name, text in drawing.items():
            write(folder / FIGURES / name, text)
    paths = [[f"{FIGURES}/{name}" for name in drawing] for drawing in drawings]
    write(folder / "results.md", markdown(grid, tables, wrong, paths))
    write(folder / "results.html", html(grid, tables, wrong, [[*drawing.values()] for drawing in drawings]))
    write_rows(folder / "results.csv", tables)
    return wrong


def drawings_of(table: Table, number: int) -> dict[str, str]:
    """The SVG of a table's curves, of each pair, by the name of its file."""
    drawings = {}
    for pair in dict.fromkeys(row.cell.pair for row in table.rows):
        curves = curves_of([row for row in table.rows if row.cell.pair == pair])
        if curves:
            drawings[f"{number}-{re.sub(r'[^A-Za-z0-9.]+', '-', pair)}.svg"] = draw(curves, pair)
    return drawings


def write(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))
