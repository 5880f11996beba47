"""Where runs lie, and which of them is meant."""

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mdistiller.errors import UserError

from .launch import Launch
from .runs import RunFiles, published_weights, shown
from .weights import read_meta

NEWEST = "newest"  # in the place of a run's name
RUN = re.compile(r"(\d{4}(?:-\d\d){5})(?:-(\d+))?_.+")  # its start, and a number where several started at once


@dataclass(frozen=True)
class Place:
    """Where a run lies: its name and the folders, of all runs, of its log and of its weights."""

    name: str
    log_folder: Path
    weights_folder: Path
    label: str

    def files(self, *published: str) -> RunFiles:
        """The run's paths. published: names in that of its published weights."""
        stem = f"experiment_{self.label}_{self.name}"
        return RunFiles(
            name=self.name,
            log=self.log_folder / f"{stem}.log",
            folder=self.log_folder / stem,
            weights=self.weights_folder / self.name,
            published=published_weights(self.weights_folder, *published),
        )

    @property
    def started(self) -> tuple[str, int]:
        match = RUN.fullmatch(self.name)
        return (match[1], int(match[2] or 1)) if match else ("", 0)


def runs_of(folders: Iterable[tuple[Path, Path]], label: str) -> list[Place]:
    """The runs in pairs of a folder of logs and one of weights, the newest first."""
    found = []
    for log_folder, weights_folder in folders:
        for folder in weights_folder.glob("*/"):
            place = Place(folder.name, log_folder, weights_folder, label)
            if RUN.fullmatch(folder.name) and place.files().config.exists():
                found.append(place)
    return sorted(found, key=lambda place: place.started, reverse=True)


def find_run(wanted: str, runs: list[Place], utils: Path) -> Place:
    """The one of `runs` that `wanted`, a name, a folder or a file of it, means; for NEWEST the newest.

    Raises UserError where there is none.
    """
    if not runs:
        raise UserError(f"no run to resume below {shown(utils)}; leave out --resume to start one")
    if wanted == NEWEST:
        return runs[0]
    path = Path(wanted).resolve()
    for place in runs:
        files = place.files()
        theirs = {files.weights, files.last, files.previous, files.best, files.log, files.folder, files.config}
        if wanted == place.name or path in {each.resolve() for each in theirs}:
            return place
    raise UserError(
        f"no run {wanted!r} below {shown(utils)}; expected a run's name, folder or last.pth, as {runs[0].name}"
    )


def run_of(launch: Launch, runs: Iterable[Place]) -> str | None:
    """The name of the newest of `runs` that `launch` began before; None where it began none, or has just begun."""
    if not (launch.restarts and launch.name):
        return None
    for place in runs:
        for path in (place.files().last, place.files().previous):
            with contextlib.suppress(UserError):
                if path.is_file() and read_meta(path).get("launch") == launch.name:
                    return place.name
    return None
