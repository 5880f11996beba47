"""The command lines of the scripts: flags to config, one call into the engine, errors to exit status 2."""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from yacs.config import CfgNode as CN

from mdistiller.dataset import DATASETS
from mdistiller.distillers import DISTILLERS
from mdistiller.errors import UserError

from .agreement import RECORDED
from .demo import run_demo
from .describe import print_commands
from .distributed import join
from .ending import end, open_streams, tell
from .evaluate import Evaluator
from .flags import Parser, TrainingParser
from .found import files_to_evaluate
from .index import Benchmark
from .launch import Launch, select_device
from .listing import print_config, print_names
from .overview import print_overview
from .places import run_of, runs_of
from .resolve import Choices, baseline_config, distillation_config
from .resume import SavedRun
from .resume import resolve as resume
from .run import run_experiment
from .runs import BASELINE_FOLDERS, CONFIGS, DEMO, folders_of
from .signals import end_later, stoppable
from .tables import format_classes, format_comparison, format_table, place, write_classes, write_table
from .views import views_of

CPU = torch.device("cpu")
NETWORK = "index, name, torchvision:NAME, timm:NAME or path/net.py:NAME of your own"


def run_script(main: Callable[..., None], *arguments: Any) -> int:
    """Exit status of `main(*arguments)`: 2, and one line on stderr, for bad input; 128 and its number for a signal.

    Of several processes the first alone writes to stdout.
    """
    open_streams()
    is_several = os.environ.get("WORLD_SIZE", "1") != "1"
    is_other = is_several and os.environ.get("RANK") != "0"
    if is_other:
        sys.stdout = open(os.devnull, "w")
        end_later()
    with contextlib.nullcontext() if is_other else stoppable():
        try:
            main(*arguments)
        except BaseException as error:
            status = end(error)
        else:
            status = end(None)
    if is_several:  # whose exchanges, taken apart while others still wait for them, would abort the process
        sys.stderr.flush()
        os._exit(status)
    return status


def distillation_main(benchmark: Benchmark, utils: Path, arguments: Sequence[str] | None = None) -> None:
    """`distillation_train.py`: distil a teacher into a student; without words, print what that would be."""
    parser = TrainingParser(f"Distil a teacher into a student ({benchmark.label}).")
    parser.choose.add_argument("--selected_student", metavar="STUDENT", help=f"{NETWORK} (default 0)")
    parser.choose.add_argument("--selected_teacher", metavar="TEACHER", help="the same; several by commas (default 0)")
    parser.choose.add_argument(
        *("--selected_distiller", "--distiller"),
        metavar="DISTILLER",
        help="index, name, or path/to/file.py:ClassName of your own (default 0)",
    )
    parser.choose.add_argument(
        "--teacher_weights", metavar="FILE", help="the teacher's weights, in any published form, or pretrained"
    )
    demo = CONFIGS / benchmark.models / DEMO
    if demo.is_file():
        parser.run.add_argument("--demo", action="store_true", help="all three trainings on small synthetic images")
    parser.set_defaults(demo=False)
    if not words_of(arguments):
        print_overview(distillation_config(benchmark, Choices(), CPU), benchmark, utils)
        return
    flags = parser.parse(arguments)
    if flags.list is not None:
        columns = {"student": benchmark.students, "teacher": benchmark.teachers, "distiller": benchmark.distillers}
        print_names(flags.list, columns, benchmark)
        return
    if flags.demo:
        if flags.cfg or flags.teacher_weights:
            raise UserError("--demo trains its own teacher by its own config; leave out --cfg and --teacher_weights")
        flags.cfg = demo
    device = select_device(flags.device)
    processes = join(device)
    config_of = partial(distillation_config, benchmark, device=device)
    folders = sorted({folders_of(method) for method in DISTILLERS.values()})
    cfg, saved = processes.first(lambda: choose(flags, benchmark, utils, folders, config_of))
    if flags.print_cfg:
        print_config(cfg)
    elif flags.demo:
        run_demo(cfg, benchmark, device, utils, flags.resume is not None or Launch().restarts > 0, processes)
    else:
        _, files = run_experiment(cfg, benchmark, device, utils, source=flags.cfg, saved=saved, processes=processes)
        processes.first(lambda: print_commands(files, processes.share))
    processes.leave()


def training_main(benchmark: Benchmark, utils: Path, arguments: Sequence[str] | None = None) -> None:
    """`train.py`: train one network without a teacher; without words, print what that would be."""
    parser = TrainingParser(f"Train one network without a teacher ({benchmark.label}): teachers and baselines.")
    parser.choose.add_argument("--selected_model", metavar="MODEL", help=f"{NETWORK} (default 0)")
    if not words_of(arguments):
        print_overview(baseline_config(benchmark, Choices(), CPU), benchmark, utils)
        return
    flags = parser.parse(arguments)
    if flags.list is not None:
        print_names(flags.list, {"model": benchmark.students})
        return
    device = select_device(flags.device)
    processes = join(device)
    config_of = partial(baseline_config, benchmark, device=device)
    cfg, saved = processes.first(lambda: choose(flags, benchmark, utils, [BASELINE_FOLDERS], config_of))
    if flags.print_cfg:
        print_config(cfg)
    else:
        _, files = run_experiment(cfg, benchmark, device, utils, baseline=True, saved=saved, processes=processes)
        processes.first(lambda: print_commands(files, processes.share))
    processes.leave()


def choose(
    flags: argparse.Namespace,
    benchmark: Benchmark,
    utils: Path,
    folders: Sequence[tuple[str, str]],
    config_of: Callable[[Choices], CN],
) -> tuple[CN, SavedRun | None]:
    """The config that `flags` mean, and the run to go on with where they ask for one or torchrun has started anew.

    folders: names of those of logs and of weights in which runs are looked for; config_of: a script's way to a config.
    """
    choices = choices_of(flags)
    runs = runs_of([(utils / logs, utils / weights) for logs, weights in folders], benchmark.label)
    wanted = run_of(Launch(), runs) or flags.resume
    if wanted is None or getattr(flags, "demo", False):  # which looks for its runs by itself
        return config_of(choices), None
    return resume(choices, wanted, runs, utils, config_of)


def evaluation_main(project: Path, arguments: Sequence[str] | None = None) -> None:
    """`test.py`: evaluate the students found below `project`, or one weight file."""
    parser = Parser("Evaluate every distilled student, or one weight file.")
    choose, run, look = parser.choose, parser.run, parser.look
    kinds = ", ".join(DATASETS)
    choose.add_argument(
        "--dataset",
        choices=tuple(DATASETS),
        metavar="TYPE",
        help=f"only what was trained on such data ({kinds}); the data of a file without meta",
    )
    choose.add_argument("--all", action="store_true", help="teachers and baselines as well, those of train.py")
    choose.add_argument(
        "--checkpoint",
        action="append",
        metavar="FILE",
        help="weights to evaluate, in any published form; repeatable",
    )
    choose.add_argument("--model", metavar="NAME", help="the files' network; alone: pretrained, on ImageNet")
    look.add_argument("--per_class", action="store_true", help="of one row: each class, and the worst confusions")
    look.add_argument("--csv", metavar="FILE", help="write the table to a CSV file too; with --per_class the classes")
    run.add_argument("--flip", action="store_true", help="mean logits of each image and its mirror image")
    run.add_argument("--ten_crop", action="store_true", help="mean logits of five crops and their mirror images")
    run.add_argument("--ensemble", action="store_true", help="one row of all files: the mean of their probabilities")
    look.add_argument(
        "--agreement",
        nargs="?",
        const=RECORDED,
        metavar="FILE",
        help="compare with the teacher's weights FILE (default: those that each run had)",
    )
    parser.epilog = "SOLVER.AMP bf16 or fp16 tests in half precision, DATASET.IMAGE_SIZE N at another resolution."
    flags = parser.parse(arguments)
    if Launch().share.size > 1:
        raise UserError("evaluation takes one process; type python, not torchrun")
    views = views_of(flags.flip, flags.ten_crop)
    evaluator = Evaluator(flags.model, flags.pairs, select_device(flags.device), project, views, flags.agreement)
    files = files_to_evaluate(project, flags, evaluator)
    rows = [files] if flags.ensemble else [[file] for file in files]
    if flags.ensemble and len(files) == 1:
        raise UserError("--ensemble has no effect on one file; name more, each by a --checkpoint, or leave it out")
    if flags.per_class and len(rows) > 1:
        raise UserError(f"--per_class takes one file and there are {len(rows)}; name one with --checkpoint")
    evaluations, errors = [], []
    for number, row in enumerate(rows, 1):
        try:
            evaluations.append(evaluator.evaluate(row, f"Evaluating {number}/{len(rows)}", flags.per_class))
        except UserError as error:
            errors.append(error)
    if flags.agreement and evaluations and all(item.agreement is None for item in evaluations):
        errors.append(UserError("--agreement has no effect, as none of these had a teacher; type --agreement FILE"))
    if evaluations:
        evaluations.sort(key=place)
        print(format_table(evaluations, evaluator.title(evaluations[0])))
        if flags.agreement:
            print(f"\n{format_comparison(evaluations)}")
        if flags.per_class:
            print(f"\n{format_classes(evaluations[0])}")
        sys.stdout.flush()
        try:
            if flags.csv and flags.per_class:
                write_classes(flags.csv, evaluations[0])
            elif flags.csv:
                write_table(flags.csv, evaluations)
        except UserError as error:
            errors.append(error)
    if errors:  # what is wrong with the data is so for every file on it
        *others, last = {str(error): error for error in errors}.values()
        for other in others:
            tell(f"error: {other}")
        raise last


def choices_of(flags: argparse.Namespace) -> Choices:
    names = {field.name for field in dataclasses.fields(Choices)}
    return Choices(**{name: value for name, value in vars(flags).items() if name in names})


def words_of(arguments: Sequence[str] | None) -> Sequence[str]:
    return sys.argv[1:] if arguments is None else arguments
