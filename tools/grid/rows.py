"""The rows of a grid's tables: what the runs of each cell have reached."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from mdistiller.errors import UserError

from .find import FINISHED, Finder, Found, Outcome, outcome_of
from .plan import Cell, Grid, Part
from .statistics import Sample, paired


@dataclass
class Row:
    """A cell and its runs. outcomes: of the finished ones by seed; against: differences by the reference's name.

    best, last: top-1 in percent; epoch: of the best; seconds: of a run; memory: MiB at the peak of the largest.
    """

    cell: Cell
    found: list[Found]
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    against: dict[str, Sample | None] = field(default_factory=dict)
    memory: float | None = None

    @property
    def best_by_seed(self) -> dict[int, float]:
        return {seed: outcome.best for seed, outcome in self.outcomes.items()}

    @property
    def best(self) -> Sample | None:
        return Sample.of([*self.best_by_seed.values()])

    @property
    def last(self) -> Sample | None:
        return Sample.of([each.last for each in self.outcomes.values() if each.last is not None])

    @property
    def epoch(self) -> Sample | None:
        return Sample.of([each.epoch for each in self.outcomes.values()])

    @property
    def seconds(self) -> Sample | None:
        return Sample.of([each.seconds for each in self.outcomes.values()])

    @property
    def to_published(self) -> Sample | None:
        best, published = self.best, self.cell.published
        return None if best is None or published is None else best.minus(published)


@dataclass
class Table:
    """A part of a grid and its rows."""

    part: Part
    rows: list[Row]


def tables_of(grid: Grid, finder: Finder, memory: Mapping[str, float]) -> tuple[list[Table], list[str]]:
    """The grid's tables as its runs are now, and what is wrong with some of them. memory: MiB by a run's name."""
    tables, wrong = [], []
    for part in grid.parts:
        rows = []
        for cell in part.cells:
            row = Row(cell, [finder.look(run) for run in cell.runs])
            for run, found in zip(cell.runs, row.found, strict=True):
                if found.state != FINISHED or found.files is None:
                    continue
                try:
                    row.outcomes[run.seed] = outcome_of(found)
                except UserError as error:
                    wrong.append(str(error))
            known = [memory[each.files.name] for each in row.found if each.files and each.files.name in memory]
            row.memory = max(known, default=None)
            rows.append(row)
        for row in rows:
            for what in part.references:
                reference = part.reference_of(row.cell, what)
                other = next((each for each in rows if each.cell is reference), None)
                row.against[what] = paired(row.best_by_seed, other.best_by_seed) if other else None
        tables.append(Table(part, rows))
    return tables, list(dict.fromkeys(wrong))
