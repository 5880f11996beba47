"""The embedded default: distillation on synthetic images, end to end, in minutes on a CPU."""

from functools import partial
from pathlib import Path

import torch
from yacs.config import CfgNode as CN

from mdistiller.distillers import PLAIN_TRAINING, find_method
from mdistiller.errors import UserError

from .cfg import changed
from .describe import print_commands
from .distributed import ONE, Processes
from .identity import with_variant
from .index import Benchmark
from .lines import command
from .metrics import Result
from .networks import SEPARATOR, label_of
from .places import runs_of
from .resolve import baseline_config, distillation_config
from .resume import SavedRun, find_same, with_found
from .run import run_experiment
from .runs import BASELINE_FOLDERS, PROJECT, RunFiles, folders_of, shown
from .tables import align

SUBFOLDER = "demo"  # keeps the demo's teacher apart from real ones
PLOT = PROJECT / "tools/plot.py"  # which a clone has


def run_demo(
    cfg: CN, benchmark: Benchmark, device: torch.device, utils: Path, resume: bool = False, processes: Processes = ONE
) -> None:
    """Train a teacher where there is none, the student alone and distilled; print what they reach, and what draws it.

    cfg: that of the distillation; the other two networks are trained by the same, without a teacher. resume: go on with
    the newest of those runs where there are some.
    """

    def run(cfg: CN, baseline: bool) -> tuple[Result, RunFiles]:
        subfolder = SUBFOLDER if baseline else ""
        saved = processes.first(lambda: find_saved(cfg, benchmark, device, utils, baseline) if resume else None)
        cfg = with_found(cfg, saved.config) if saved else cfg
        return run_experiment(cfg, benchmark, device, utils, baseline, subfolder, saved=saved, processes=processes)

    if SEPARATOR in cfg.DISTILLER.TEACHER:
        raise UserError("--demo trains one teacher; name one with --selected_teacher")
    teacher = baseline_of(cfg, "TEACHER")
    saved = processes.first(lambda: find_saved(teacher, benchmark, device, utils, baseline=True))
    done = processes.first(lambda: saved.result(teacher) if saved else None)
    result, of_teacher = done if done else run(teacher, baseline=True)
    cfg = changed(cfg, "DISTILLER.TEACHER_WEIGHTS", str(of_teacher.best))
    distilled, files = run(cfg, baseline=False)
    alone, of_alone = run(baseline_of(cfg, "STUDENT"), baseline=True)
    method = find_method(cfg.DISTILLER.TYPE)
    label = with_variant(method.__name__, cfg, method)
    rows = [
        ("teacher", label_of(cfg, "TEACHER"), result.top1),
        ("student alone", label_of(cfg, "STUDENT"), alone.top1),
        (f"student distilled by {label}", label_of(cfg, "STUDENT"), distilled.top1),
    ]
    print(f"\n{align([(role, network, f'top-1 {top1:.2f}') for role, network, top1 in rows])}")
    processes.first(lambda: print_commands(files, processes.share))
    if PLOT.is_file():
        folders = [shown(each.folder) for each in (of_teacher, of_alone, files)]
        picture = shown(files.folder / "curves.svg")
        print(*command("Curves:", "python", shown(PLOT), "curves", *folders, "--output", picture), sep="\n")


def find_saved(cfg: CN, benchmark: Benchmark, device: torch.device, utils: Path, baseline: bool) -> SavedRun | None:
    """The newest run that `cfg` would have started, if there is one, for as many epochs."""
    logs, weights = BASELINE_FOLDERS if baseline else folders_of(find_method(cfg.DISTILLER.TYPE))
    folders = utils / logs, utils / weights / (SUBFOLDER if baseline else "")
    config_of = partial(baseline_config if baseline else distillation_config, benchmark, device=device)
    found = find_same(cfg, runs_of([folders], benchmark.label), config_of)
    return found if found and found.config.SOLVER == cfg.SOLVER else None


def baseline_of(cfg: CN, role: str) -> CN:
    """The config that trains the network of `role`, STUDENT or TEACHER, alone as `cfg` trains its student."""
    network, arguments = cfg.DISTILLER[role], cfg.DISTILLER[f"{role}_ARGS"]
    values = {"TYPE": PLAIN_TRAINING, "STUDENT": network, "STUDENT_ARGS": arguments, "TEACHER_WEIGHTS": ""}
    for key, value in values.items():
        cfg = changed(cfg, f"DISTILLER.{key}", value)
    return cfg
