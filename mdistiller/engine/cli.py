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

from yacs.config import CfgNode as CN

from mdistiller import models
from mdistiller.dataset import DATASETS
from mdistiller.distillers import DISTILLERS
from mdistiller.errors import UserError

from .demo import run_demo
from .describe import print_commands
from .distributed import join
from .ending import end, open_streams, tell
from .evaluate import Evaluator, find_weights
from .flags import Parser, TrainingParser
from .index import BENCHMARKS, Benchmark
from .launch import Launch, select_device
from .lines import count
from .listing import print_config, print_names
from .networks import NO_ARGUMENTS
from .places import run_of, runs_of
from .resolve import Choices, baseline_config, distillation_config
from .resume import SavedRun
from .resume import resolve as resume
from .run import run_experiment
from .runs import BASELINE_FOLDERS, CONFIGS, folders_of
from .signals import end_later, stoppable
from .students import WeightFile, weight_file
from .tables import format_classes, format_table, place, write_classes, write_table
from .teachers import fetch_pretrained, pretrained_teacher

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
    """`distillation_train.py`: distil a teacher into a student."""
    parser = TrainingParser(f"Distil a teacher into a student ({benchmark.label}).")
    parser.add_argument("--selected_student", metavar="STUDENT", help=f"{NETWORK} (default 0)")
    parser.add_argument("--selected_teacher", metavar="TEACHER", help="the same; several by commas (default 0)")
    parser.add_argument(
        *("--selected_distiller", "--distiller"),
        metavar="DISTILLER",
        help="index, name, or path/to/file.py:ClassName of your own (default 0)",
    )
    parser.add_argument(
        "--teacher_weights", metavar="FILE", help="the teacher's weights, in any published form, or pretrained"
    )
    demo = CONFIGS / benchmark.models / "demo.yaml"
    if demo.is_file():
        parser.add_argument("--demo", action="store_true", help="all three trainings on small synthetic images")
    parser.set_defaults(demo=False)
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
    """`train.py`: train one network without a teacher."""
    parser = TrainingParser(f"Train one network without a teacher ({benchmark.label}): teachers and baselines.")
    parser.add_argument("--selected_model", metavar="MODEL", help=f"{NETWORK} (default 0)")
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
    kinds = ", ".join(DATASETS)
    parser.add_argument(
        "--dataset",
        choices=tuple(DATASETS),
        metavar="TYPE",
        help=f"only what was trained on such data ({kinds}); the data of a file without meta",
    )
    parser.add_argument("--all", action="store_true", help="teachers and baselines as well, those of train.py")
    parser.add_argument("--checkpoint", metavar="FILE", help="weights to evaluate, in any published form")
    parser.add_argument("--model", metavar="NAME", help="the file's network; alone: pretrained, on ImageNet")
    parser.add_argument("--per_class", action="store_true", help="of one file: each class, and the worst confusions")
    parser.add_argument("--csv", metavar="FILE", help="write the table to a CSV file too; with --per_class the classes")
    flags = parser.parse(arguments)
    if Launch().share.size > 1:
        raise UserError("evaluation takes one process; type python, not torchrun")
    evaluator = Evaluator(flags.model, flags.pairs, select_device(flags.device), project)
    files = files_to_evaluate(project, flags, evaluator)
    if flags.per_class and len(files) > 1:
        raise UserError(f"--per_class takes one file and there are {len(files)}; name one with --checkpoint")
    evaluations, errors = [], []
    for number, file in enumerate(files, 1):
        try:
            evaluations.append(evaluator.evaluate(file, f"Evaluating {number}/{len(files)}", flags.per_class))
        except UserError as error:
            errors.append(error)
    if evaluations:
        evaluations.sort(key=place)
        print(format_table(evaluations))
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


def files_to_evaluate(project: Path, flags: argparse.Namespace, evaluator: Evaluator) -> list[WeightFile]:
    """The one file that `flags` name, else all below `project` that they ask for. Raises UserError for none."""
    if flags.checkpoint or flags.model:
        if flags.all:
            raise UserError("--all has no effect on one file; leave it out")
        path = Path(flags.checkpoint) if flags.checkpoint else pretrained_network(flags.model, flags.dataset)
        file = weight_file(path, flags.dataset or BENCHMARKS["cifar100"].models)
        if flags.dataset not in (None, file.dataset):
            raise UserError(
                f"{path} was trained on data of type {file.dataset}, not {flags.dataset}; leave out --dataset, or type "
                f"DATASET.TYPE {flags.dataset} to evaluate it there"
            )
        return [file]
    files = find_weights(project, flags.dataset, flags.all)
    found = len(files)
    if flags.dataset and (left_out := found - len(files := evaluator.of_same_data(files))):
        tell(f"{count(left_out, 'file')} of other images left out")
    if not files:
        kind = flags.dataset or "synthetic"
        folder = BENCHMARKS[kind if kind in BENCHMARKS else "cifar100"].folder
        root = " DATASET.ROOT FOLDER" if kind == "folder" else ""
        example = {"synthetic": " --demo"}.get(kind, "" if kind in BENCHMARKS else f" DATASET.TYPE {kind}{root}")
        on = f" on {flags.dataset}" if flags.dataset else ""
        if others := sorted({file.dataset for file in find_weights(project)}):
            on += f" (there are some on {', '.join(others)})"
        raise UserError(
            f"no students{on} in {project}; distil one (python {folder}/Utils/distillation_train.py{example}) or name "
            "a file with --checkpoint"
        )
    return files


def pretrained_network(name: str, dataset: str | None) -> Path:
    """The pretrained weights of an ImageNet network, downloaded where they are missing."""
    if dataset != "imagenet":
        raise UserError(
            f"--model {name} needs --checkpoint FILE, the weights to evaluate, or --dataset imagenet for its own"
        )
    name = models.canonical_name("imagenet", name)
    path = pretrained_teacher(name, NO_ARGUMENTS, dataset)
    fetch_pretrained(path, name)
    return path


def choices_of(flags: argparse.Namespace) -> Choices:
    names = {field.name for field in dataclasses.fields(Choices)}
    return Choices(**{name: value for name, value in vars(flags).items() if name in names})
