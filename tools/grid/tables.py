"""A grid's tables as Markdown and as CSV."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mdistiller.engine.lines import count, duration
from mdistiller.engine.tables import write_csv
from mdistiller.errors import printable

from .find import FINISHED
from .plan import Grid
from .rows import Row, Table
from .statistics import Sample

UNKNOWN = "\N{EN DASH}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
NOT_KNOWN = "n/a"  # an error that one seed cannot tell
NOTES = (
    "Top-1 in percent on the test images, as the mean \N{PLUS-MINUS SIGN} the standard deviation over the seeds (n "
    "\N{MINUS SIGN} 1), at the best epoch and at the last. The epoch is the best one, chosen by the test images unless "
    "there are validation images.",
    "Differences of the best are in points, \N{PLUS-MINUS SIGN} their standard error; those to other rows are paired "
    "by seed. n/a: one seed tells no error. A star: so large by chance alone less than one time in 20 (Student's t), "
    "so that of 20 differences that are nothing one has a star. The spread of published numbers is in no error.",
    "Time is that of a run, training and evaluation; MiB the most memory that its process took on the host, where this "
    "tool started it.",
)


def header_of(table: Table) -> list[str]:
    """The titles of a table's columns."""
    published = ["published", "difference"] if has_published(table) else []
    against = [f"to {what}" for what in references_of(table)]
    pair = ["pair"] if len(pairs_of(table)) > 1 else []
    return [*pair, "method", "runs", "best", "last", "epoch", *published, *against, "time", "MiB"]


def cells_of(table: Table, row: Row) -> list[tuple[str, float | None]]:
    """The texts of a row's cells, and the numbers to sort them by, None for text."""
    best, last, epoch, seconds = row.best, row.last, row.epoch, row.seconds
    published = []
    if has_published(table):
        number = row.cell.published
        published = [(UNKNOWN if number is None else f"{number:.2f}", number), of_difference(row.to_published)]
    finished = len(row.outcomes)
    pair = [(row.cell.pair, None)] if len(pairs_of(table)) > 1 else []
    return [
        *pair,
        (row.cell.name, None),
        (f"{finished}" if finished == len(row.cell.runs) else f"{finished} of {len(row.cell.runs)}", finished),
        (spread(best), best and best.mean),
        (spread(last), last and last.mean),
        (f"{epoch.mean:.0f}" if epoch else UNKNOWN, epoch and epoch.mean),
        *published,
        *(of_difference(row.against[what]) for what in references_of(table)),
        (duration(seconds.mean) if seconds else UNKNOWN, seconds and seconds.mean),
        (f"{row.memory:.0f}" if row.memory else UNKNOWN, row.memory),
    ]


def pairs_of(table: Table) -> list[str]:
    return list(dict.fromkeys(row.cell.pair for row in table.rows))


def references_of(table: Table) -> list[str]:
    """What some row of the table is compared with."""
    return [what for what in table.part.references if any(row.against[what] for row in table.rows)]


def about(table: Table) -> str:
    """What all of a table's rows have in common."""
    pairs, seeds = pairs_of(table), [str(run.seed) for run in table.rows[0].cell.runs]
    pair = f"{pairs[0]}, " if len(pairs) == 1 else ""
    source = f" Published numbers: {table.part.source}." if table.part.source and has_published(table) else ""
    return f"{pair}seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}.{source}"


def has_published(table: Table) -> bool:
    return any(row.cell.published is not None for row in table.rows)


def spread(sample: Sample | None) -> str:
    """Mean and standard deviation."""
    if sample is None:
        return UNKNOWN
    return f"{sample.mean:.2f} {PLUS_MINUS} {NOT_KNOWN if sample.deviation is None else f'{sample.deviation:.2f}'}"


def of_difference(sample: Sample | None) -> tuple[str, float | None]:
    """A difference with its standard error, and its value."""
    if sample is None:
        return UNKNOWN, None
    error = NOT_KNOWN if sample.error is None else f"{sample.error:.2f}"
    return f"{sample.mean:+.2f} {PLUS_MINUS} {error}{'*' if sample.is_clear else ''}", sample.mean


def state_of(grid: Grid, tables: Sequence[Table]) -> str:
    """How many runs there are in which state, in words."""
    states = {run.words: each.state for table in tables for row in table.rows for run, each in zipped(row)}
    counted = Counter(states.values())
    parts = [f"{number} {state}" for state, number in counted.items() if state != FINISHED]
    return f"{counted[FINISHED]} of {count(len(states), 'run')} finished" + (f" ({', '.join(parts)})" if parts else "")


def zipped(row: Row) -> Iterable:
    return zip(row.cell.runs, row.found, strict=True)


def versions_of(tables: Sequence[Table]) -> list[str]:
    """The code that made the finished runs, and how many each version made."""
    versions = {
        found.files.name: found.config.EXPERIMENT.VERSIONS
        for table in tables
        for row in table.rows
        for found in row.found
        if found.state == FINISHED
    }
    return [f"{text or 'unknown code'} ({count(number, 'run')})" for text, number in Counter(versions.values()).items()]


def markdown(grid: Grid, tables: Sequence[Table], wrong: Iterable[str], figures: Sequence[Sequence[str]]) -> str:
    """The page results.md. figures: of each table the paths of its curves."""
    lines = [f"# {escaped(grid.title)}", "", f"{state_of(grid, tables)}.", ""]
    lines += [f"- {escaped(text)}" for text in (*NOTES, *(f"Made by {text}." for text in versions_of(tables)), *wrong)]
    for table, paths in zip(tables, figures, strict=True):
        header = header_of(table)
        texts = [[escaped(text) for text, _ in cells_of(table, row)] for row in table.rows]
        title = [] if table.part.title == grid.title else ["", f"## {escaped(table.part.title)}"]
        lines += [*title, "", escaped(about(table)), ""]
        lines += [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *texts)]
        lines += ["", *(f"![Top-1 by epoch]({path})" for path in paths)]
        lines += ["", "<details><summary>Commands, of the first seed</summary>", "", "```bash"]
        lines += [row.cell.runs[0].line() for row in table.rows]
        lines += ["```", "", "</details>"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """`text` where Markdown's tables and HTML would take it for theirs."""
    return printable(text).replace("|", "\\|").replace("<", "&lt;")


def write_rows(path: Path, tables: Sequence[Table]) -> None:
    """Write results.csv: a row a cell, unrounded."""
    references = list(dict.fromkeys(what for table in tables for what in table.part.references))
    names = [what.lower().replace(" ", "_") for what in references]
    header = "part,teacher_student,method,setting,seeds,runs,best,best_sd,last,last_sd,epoch,published".split(",")
    header += ["to_published", "to_published_se"]
    header += [f"to_{name}{end}" for name in names for end in ("", "_se", "_seeds")]
    header += ["seconds", "memory_mib", "versions", "command"]
    rows = []
    for table in tables:
        for row in table.rows:
            best, last, published, cell = row.best, row.last, row.to_published, row.cell
            numbers = [best and best.mean, best and best.deviation, last and last.mean, last and last.deviation]
            numbers += [row.epoch and row.epoch.mean, cell.published]
            numbers += [published and published.mean, published and published.error]
            for what in references:
                sample = row.against.get(what)
                numbers += [sample and sample.mean, sample and sample.error, sample and sample.count]
            setting = " ".join(f"{key} {value}" for key, value in cell.setting.items())
            seeds = " ".join(map(str, row.outcomes))
            versions = "; ".join(dict.fromkeys(each.versions for each in row.outcomes.values()))
            seconds = row.seconds and row.seconds.mean
            first = [table.part.title, cell.pair, cell.method, setting, seeds, len(row.outcomes)]
            rows.append([*first, *numbers, seconds, row.memory, versions, cell.runs[0].line()])
    write_csv(path, header, rows)
