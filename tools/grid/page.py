"""A grid's tables and curves as one page of HTML that needs nothing else."""

import shlex
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from mdistiller.errors import printable

from .plan import Grid
from .rows import Row, Table
from .tables import NOTES, about, cells_of, header_of, state_of, versions_of

TEMPLATE = Path(__file__).with_name("page.html")
OF_TEXT = "pair", "method"  # columns; the others are numbers, the highest first


def html(grid: Grid, tables: Sequence[Table], wrong: Iterable[str], drawings: Sequence[Sequence[str]]) -> str:
    """The page results.html. drawings: of each table the SVG of its curves."""
    notes = [*NOTES, *(f"Made by {text}." for text in versions_of(tables)), *wrong]
    body = [section(grid, table, each) for table, each in zip(tables, drawings, strict=True)]
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=told(grid.title),
        state=told(state_of(grid, tables)),
        body="\n".join(body),
        notes="".join(f"<li>{told(note)}</li>" for note in notes),
    )


def section(grid: Grid, table: Table, drawings: Iterable[str]) -> str:
    """A table, with its title, and its curves."""
    header = header_of(table)
    title = "" if table.part.title == grid.title else f"<h2>{told(table.part.title)}</h2>\n"
    titles = "".join(
        f'<th scope="col"{kind_of(title)}><button type="button">{told(title)}</button></th>' for title in header
    )
    rows = "\n".join(row_of(table, row, header) for row in table.rows)
    return (
        f"{title}<p>{told(about(table))}</p>\n"
        f'<div class="scroll"><table>\n<thead><tr>{titles}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>\n'
        '<div class="curves">' + "\n".join(drawings) + "</div>"
    )


def row_of(table: Table, row: Row, header: Sequence[str]) -> str:
    """A row, and below it the one with its commands, which is shown when it is clicked on."""
    cells = "".join(
        f'<td{kind_of(title)} data-value="{told(text) if title in OF_TEXT else "" if value is None else value}">'
        f"{told(text)}</td>"
        for title, (text, value) in zip(header, cells_of(table, row), strict=True)
    )
    lines = [map(shlex.quote, run.command()) for run in row.cell.runs]
    commands = "".join(f"<pre>{' '.join(f'<span>{told(word)}</span>' for word in words)}</pre>" for words in lines)
    return (
        f'<tr class="row" tabindex="0" aria-expanded="false">{cells}</tr>\n'
        f'<tr class="commands" hidden><td colspan="{len(header)}"><div class="runs">{commands}</div></td></tr>'
    )


def kind_of(title: str) -> str:
    return "" if title in OF_TEXT else ' class="number"'


def told(text: str) -> str:
    """`text` as HTML shows it, whoever it comes from."""
    return escape(printable(text))
