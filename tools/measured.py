"""List the tables and pictures of README and docs that are older than the code they measure.

The line before each says of which code it is: <!-- measures mdistiller/distillers mdistiller/engine/trainer.py -->. It
is as old as the last commit that changed it, and is listed where a later one changed its code. Rewording counts as
measuring, so reword and measure together.
"""

import re
import sys
from pathlib import Path

if not __package__:  # run as a script, in which Python would look for modules first
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mdistiller.engine.cli import run_script
from mdistiller.engine.flags import FlagParser
from mdistiller.engine.lines import count
from mdistiller.engine.provenance import ask_git
from mdistiller.engine.runs import PROJECT
from mdistiller.errors import UserError

MARK = re.compile(r"<!-- measures (.+) -->")
PICTURE = re.compile(r"!\[.*?\]\((\S+?)\)")


def main(arguments=None, project=PROJECT):
    parser = FlagParser(prog="measured.py", description=__doc__)
    parser.parse(arguments)
    if ask_git(project, "rev-parse", "HEAD") is None:
        raise UserError(f"{project} is no git clone; the ages of numbers are those of their commits")
    pages = [project / "README.md", *sorted((project / "docs").glob("*.md"))]
    measured = [each for page in pages if page.is_file() for each in measured_in(page, project)]
    older = 0
    for where, lines, paths in measured:
        *_, commit = ["", *(ask_git(project, "log", "-1", "-s", "--format=%h", *lines) or "").split()]
        later = (
            (ask_git(project, "log", "--format=%h", f"{commit}..HEAD", "--", *paths) or "").split() if commit else []
        )
        if later:
            older += 1
            print(
                f"{where}: measured at {commit}, {count(len(later), 'commit')} before the newest of {' '.join(paths)}"
            )
    print(f"{older} of {len(measured)} tables and pictures are older than the code they measure")


def measured_in(page, project):
    """What is marked in a page: where, git's arguments for its last change, and the paths that it measures.

    Raises UserError for a path that is not there, and for a mark before neither a table nor a picture.
    """
    lines, name = page.read_text(encoding="utf-8").splitlines(), page.relative_to(project).as_posix()
    for number, line in enumerate(lines, 1):
        if not (mark := MARK.fullmatch(line)):
            continue
        where, paths = f"{name}:{number}", mark[1].split()
        if missing := [path for path in paths if not (project / path).exists()]:
            raise UserError(f"{where} measures {missing[0]}, which is not there; name a path of the project")
        below = lines[number:]
        rows = next((row for row, text in enumerate(below) if not text.startswith("|")), len(below))
        if rows:
            yield where, [f"-L{number + 1},{number + rows}:{name}"], paths
        elif below and (picture := PICTURE.search(below[0])):
            yield where, ["--", (page.parent / picture[1]).relative_to(project).as_posix()], paths
        else:
            raise UserError(f"{where} stands before neither a table nor a picture; move it to the line before one")


if __name__ == "__main__":
    sys.exit(run_script(main))
