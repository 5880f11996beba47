"""Run a grid of methods, pairs of networks and seeds, each in a process of its own, and write its tables.

What has finished is recognised, what was stopped goes on, and killing this loses nothing. The runs are those of the
scripts, in the scripts' own folders; results.md, results.csv and results.html are written to --output.
"""

import sys
from pathlib import Path

if not __package__:  # run as a script, in which Python would look for modules first
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from mdistiller.checks import whole
from mdistiller.engine.cli import run_script
from mdistiller.engine.flags import PAIRS_HELP, FlagParser
from mdistiller.engine.launch import select_device
from mdistiller.engine.lines import count, duration
from mdistiller.engine.owner import owned
from mdistiller.engine.runs import PROJECT, make_folder
from mdistiller.engine.writing import atomic_write
from mdistiller.errors import UserError
from tools.grid.calibrate import Calibration
from tools.grid.find import FINISHED, MISSING, RUNNING, Finder
from tools.grid.jobs import Jobs, threads_of
from tools.grid.progress import Progress, run_all
from tools.grid.reader import read_grid
from tools.grid.report import write_report

JOBS = whole(1, 64)


def parse(arguments=None):
    parser = FlagParser(prog="results.py", description=__doc__)
    parser.add_argument("grid", metavar="GRID.yaml", help="methods, pairs and seeds, as those in configs/grids/")
    parser.add_argument("pairs", nargs="*", metavar="KEY VALUE", help=PAIRS_HELP)
    parser.add_argument("--output", metavar="FOLDER", help="of the tables (default output/GRID)")
    parser.add_argument("--jobs_per_device", metavar="K", type=int, default=1, help="runs at once (default 1)")
    parser.add_argument("--device", help="cpu, cuda:1 … (default all GPUs, else the CPU)")
    parser.add_argument("--gather", action="store_true", help="write the tables of what is there, and run nothing")
    parser.add_argument("--dry_run", action="store_true", help="list the runs and estimate their time, and stop")
    parser.add_argument("--commands", metavar="FILE", help="write the commands of what is left, one a line")
    flags = parser.parse(arguments)
    JOBS.require("--jobs_per_device", flags.jobs_per_device)
    if len(flags.pairs) % 2:
        raise UserError(f"{flags.pairs[-1]!r} has no value; expected KEY VALUE pairs such as SOLVER.EPOCHS 60")
    if sum([flags.gather, flags.dry_run, bool(flags.commands)]) > 1:
        raise UserError("--gather, --dry_run and --commands are three ways to run nothing; choose one")
    return flags


def devices_of(name):
    """What --device of each run may be; empty text leaves it to the script."""
    if name is not None:
        select_device(name)
        return [name]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{number}" for number in range(count)] if count > 1 else [""]


def main(arguments=None, project=PROJECT):
    flags = parse(arguments)
    devices = devices_of(flags.device)
    grid = read_grid(flags.grid, dict(zip(flags.pairs[::2], flags.pairs[1::2], strict=True)), project)
    finder, output = Finder(), Path(flags.output or f"output/{grid.name}")
    if flags.commands:
        write_commands(flags.commands, grid, finder)
    elif flags.dry_run:
        print_plan(grid, finder, devices, flags.jobs_per_device)
    elif flags.gather:
        gather(grid, finder, output)
    else:
        train(grid, finder, output, Jobs(devices, flags.jobs_per_device, output))


def train(grid, finder, output, jobs):
    """Have the grid's runs finished, and write its tables after each of them. Raises UserError where some failed."""
    make_folder(output)
    with owned(output):
        progress = Progress(grid.runs, finder, jobs)
        try:
            run_all(progress, lambda: write_report(grid, finder, output))
        finally:
            gather(grid, finder, output)
    if progress.elsewhere:
        runs = count(len(progress.elsewhere), "run")
        print(f"{runs} left to other processes, which have begun them; call this again when these have ended")
    if progress.failed:
        run, reason = progress.failed[0]
        others = f", and {len(progress.failed) - 1} more" if len(progress.failed) > 1 else ""
        raise UserError(f"{run.name} failed{others}: {reason} ({run.line()})")


def gather(grid, finder, output):
    """Write the tables of what is there."""
    for line in write_report(grid, finder, output):
        print(f"left out: {line}")
    print(f"tables in {output / 'results.html'}, results.md and results.csv")


def write_commands(path, grid, finder):
    """Write the commands of the runs that have not finished; one that was stopped goes on."""
    found = [(run, finder.look(run)) for run in grid.runs]
    lines = [run.line(each.files and each.files.name) for run, each in found if each.state not in (FINISHED, RUNNING)]
    with atomic_write(path) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    print(f"{count(len(lines), 'command')} of {count(len(found), 'run')} in {path}")


def print_plan(grid, finder, devices, on_each):
    """Print the runs, their states, and what those that are left will take, as far as that can be measured here."""
    slots = len(devices) * on_each
    torch.set_num_threads(threads_of(slots))
    calibration, known, total, reason = Calibration(select_device(devices[0] or None)), {}, 0.0, ""
    for run in grid.runs:
        found, key, cost = finder.look(run), run.words_of(None), ""
        if found.state != FINISHED and not reason:
            try:
                known[key] = known.get(key) or calibration.seconds(run)
            except UserError as error:
                reason = str(error)
            else:
                left = known[key] * (1 - found.epochs / run.config.SOLVER.EPOCHS)
                total, cost = total + left, duration(left)
        state = "new" if found.state == MISSING else found.state
        print(f"{state:<9} {cost:>9}  {run.name}", flush=True)
    if reason:
        print(f"no estimate: {reason}")
        return
    at_once = f"{slots} at once" if slots > 1 else "one after the other"
    print(f"about {duration(total / slots)} for what is left, {at_once}, by a few steps of each")


if __name__ == "__main__":
    sys.exit(run_script(main))
