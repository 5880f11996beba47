"""What a grid is: tables of cells, each the runs of a method, a pair and a setting."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .run import Run


@dataclass
class Cell:
    """Runs that differ in their seeds alone.

    pair: teacher and student, as a table shows them; setting: of the swept keys those that the method reads, as typed;
    published: the top-1 that others report, in percent.
    """

    pair: str
    method: str
    setting: dict[str, str]
    runs: list[Run]
    published: float | None = None

    @property
    def name(self) -> str:
        """The method and the setting."""
        return " ".join([self.method, *(f"{key} {value}" for key, value in short(self.setting).items())])


@dataclass
class Part:
    """One table of a grid.

    references: labels of the methods that the others are compared with, by what a table calls them; source: of the
    published numbers.
    """

    title: str
    cells: list[Cell]
    references: dict[str, str]
    source: str = ""

    def reference_of(self, cell: Cell, what: str) -> Cell | None:
        """The cell of the reference `what` on the pair of `cell`, and in its setting as far as that reads it."""
        same = [each for each in self.cells if (each.pair, each.method) == (cell.pair, self.references.get(what))]
        fitting = [each for each in same if each.setting.items() <= cell.setting.items()]
        return fitting[0] if len(fitting) == 1 and fitting[0] is not cell else None


@dataclass
class Grid:
    """name: of its file, without the suffix."""

    name: str
    title: str
    parts: list[Part] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """Each run once: of a part all cells by their first seed, then by the next."""
        found: dict[tuple[str, ...], Run] = {}
        for part in self.parts:
            for number in range(max(len(cell.runs) for cell in part.cells)):
                for run in (cell.runs[number] for cell in part.cells if number < len(cell.runs)):
                    found.setdefault(run.words, run)
        return [*found.values()]


def short(keys: Mapping[str, str]) -> dict[str, str]:
    """`keys` by the last parts of their names, where these tell them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return {part if last.count(part) == 1 else key: keys[key] for key, part in zip(keys, last, strict=True)}
