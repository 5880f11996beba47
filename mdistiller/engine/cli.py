"""The command lines of the scripts: flags to config, one call into the engine, errors to exit status 2."""

import argparse
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from mdistiller import distillers, models
from mdistiller.dataset import fill_defaults, lost_worker
from mdistiller.errors import UserError, nearest

from . import cfg as config
from .acceleration import fastest_settings
from .benchmarks import BENCHMARKS, Benchmark
from .demo import run_demo
from .experiment import PROJECT, run_experiment, select_device
from .pretrained import TORCHVISION_NAMES, fetch_pretrained, pretrained_file
from .tables import Evaluation, evaluate_files, find_students, format_table

EVALUATED = (*BENCHMARKS, "tiny_imagenet")
PAIRS_HELP = "config keys and values that override all else, such as SOLVER.EPOCHS 60"


class Parser(argparse.ArgumentParser):
    """Flags, then KEY VALUE pairs; what it cannot parse raises UserError."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False)
        self.add_argument("pairs", nargs="*", metavar="KEY VALUE", help=PAIRS_HELP)
        self.add_argument("--device", help="cpu, cuda, cuda:1 … (default: CUDA where there is a GPU, else the CPU)")

    def parse(self, arguments) -> argparse.Namespace:
        flags, unknown = self.parse_known_intermixed_args(arguments)
        if unknown:
            known = [option for action in self._actions for option in action.option_strings]
            raise UserError(f"unknown flag {unknown[0]!r}{nearest(unknown[0], known)}; type --help for all flags")
        return flags

    def error(self, message: str):
        raise UserError(f"{message}; type --help for all flags")


class TrainingParser(Parser):
    """The flags that both training scripts take."""

    def __init__(self, description: str):
        super().__init__(description)
        self.add_argument("--list", action="store_true", help="print the indices and names, and stop")
        self.add_argument("--cfg", metavar="FILE", help="YAML config, MDistiller's too, in place of the preset")
        self.add_argument(
            "--fast", action="store_true", help="the fastest precision and compilation that the device has"
        )
        self.add_argument("--seed", type=int, help="seed of everything random (default: EXPERIMENT.SEED, 2021)")


def run_script(main, *arguments) -> int:
    """Exit status of `main(*arguments)`: 2, and one line on stderr, for bad input."""
    try:
        main(*arguments)
    except (UserError, RuntimeError) as error:
        error = error if isinstance(error, UserError) else lost_worker(error)
        if error is None:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads our output, such as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted; finished epochs are kept", file=sys.stderr)
        return 130
    return 0


def distillation_main(benchmark: Benchmark, utils: Path, arguments=None) -> None:
    """`distillation_train.py`: distil a teacher into a student."""
    parser = TrainingParser(f"Distil a teacher into a student ({benchmark.label}).")
    parser.add_argument("--selected_student", metavar="STUDENT", help="index or name (default 0)")
    parser.add_argument("--selected_teacher", metavar="TEACHER", help="index or name (default 0)")
    parser.add_argument(
        *("--selected_distiller", "--distiller"),
        metavar="DISTILLER",
        help="index, name, or path/to/file.py:ClassName of your own (default 0)",
    )
    parser.add_argument("--teacher_weights", metavar="FILE", help="the teacher's weights, in any published form")
    demo = PROJECT / "configs" / benchmark.models / "demo.yaml"
    if demo.is_file():
        parser.add_argument("--demo", action="store_true", help="all three trainings on small synthetic images")
    parser.set_defaults(demo=False)
    flags = parser.parse(arguments)
    if flags.list:
        print_index({"student": benchmark.students, "teacher": benchmark.teachers, "distiller": benchmark.distillers})
        return
    if flags.demo:
        if flags.cfg or flags.teacher_weights:
            raise UserError("--demo trains its own teacher by its own config; leave out --cfg and --teacher_weights")
        flags.cfg = demo
    device = select_device(flags.device)
    cfg = distillation_config(benchmark, flags, device)
    if flags.demo:
        run_demo(cfg, benchmark, device, utils)
        return
    run_experiment(cfg, benchmark, device, utils)


def training_main(benchmark: Benchmark, utils: Path, arguments=None) -> None:
    """`train.py`: train one network without a teacher."""
    parser = TrainingParser(f"Train one network without a teacher ({benchmark.label}): teachers and baselines.")
    parser.add_argument("--selected_model", metavar="MODEL", help="index or name, as of students (default 0)")
    flags = parser.parse(arguments)
    if flags.list:
        print_index({"model": benchmark.students})
        return
    device = select_device(flags.device)
    cfg = baseline_config(benchmark, flags, device)
    run_experiment(cfg, benchmark, device, utils, baseline=True)


def evaluation_main(project: Path, arguments=None) -> None:
    """`test.py`: evaluate the students found below `project`, or one weight file."""
    parser = Parser("Evaluate every distilled student, or one weight file. Writes nothing.")
    parser.add_argument(
        "--dataset", choices=EVALUATED, help="only this one's students; the data of a file without meta"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="weights to evaluate, in any published form")
    parser.add_argument("--model", metavar="NAME", help="the file's network; alone: pretrained, on ImageNet")
    flags = parser.parse(arguments)
    if flags.checkpoint:
        files = [Path(flags.checkpoint)]
    elif flags.model:
        files = [pretrained_teacher(flags.model, flags.dataset)]
    else:
        files = find_students(project, flags.dataset)
    if not files:
        folder = BENCHMARKS["imagenet" if flags.dataset == "imagenet" else "cifar100"].folder
        demo = "" if flags.dataset in ("imagenet", "tiny_imagenet") else " --demo"
        raise UserError(
            f"no students{f' on {flags.dataset}' if flags.dataset else ''} in {project}; distil one "
            f"(python {folder}/Utils/distillation_train.py{demo}) or name a file with --checkpoint"
        )
    results = evaluate_files(files, flags.model, flags.dataset, flags.pairs, select_device(flags.device))
    if evaluations := [result for result in results if isinstance(result, Evaluation)]:
        print(format_table(evaluations))
    errors = [result for result in results if isinstance(result, UserError)]
    if errors:
        raise UserError("; ".join(map(str, errors)))


def pretrained_teacher(name: str, dataset: str | None) -> Path:
    """The pretrained weights of an ImageNet network, downloaded where they are missing."""
    if dataset != "imagenet":
        raise UserError(
            f"--model {name} needs --checkpoint FILE, the weights to evaluate, or --dataset imagenet for its own"
        )
    name = models.canonical_name("imagenet", name)
    path = pretrained_file(name)
    if path is None:
        raise UserError(
            f"{name} has no pretrained weights (these do: {', '.join(TORCHVISION_NAMES)}); add --checkpoint"
        )
    fetch_pretrained(path, name)
    return path


def distillation_config(benchmark: Benchmark, flags, device):
    """The config of a distillation run: defaults, preset or --cfg, flags, KEY VALUE pairs, in that order."""
    given = chosen_in_file(flags) | chosen_in_pairs(flags)
    by_name, by_method = canonical_network(benchmark), distillers.canonical_name
    method = pick("distiller", flags.selected_distiller, given.get("TYPE"), benchmark.distillers, by_method)
    student = pick("student", flags.selected_student, given.get("STUDENT"), benchmark.students, by_name)
    teacher = pick("teacher", flags.selected_teacher, given.get("TEACHER"), benchmark.teachers, by_name)
    cfg = merged_config(flags, find_preset(benchmark, method, teacher, student), distillers.is_file_reference(method))
    cfg.DISTILLER.TYPE, cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER = method, student, teacher
    if flags.teacher_weights:
        cfg.DISTILLER.TEACHER_WEIGHTS = flags.teacher_weights
    return finished(cfg, benchmark, flags, device)


def baseline_config(benchmark: Benchmark, flags, device):
    """The config of plain training of one network, by the same order of precedence."""
    given = chosen_in_file(flags) | chosen_in_pairs(flags)
    network = pick(
        "model", flags.selected_model, given.get("STUDENT"), benchmark.students, canonical_network(benchmark)
    )
    cfg = merged_config(flags, find_preset(benchmark, "NONE", None, network))
    cfg.DISTILLER.STUDENT = network
    cfg = finished(cfg, benchmark, flags, device)
    cfg.DISTILLER.TYPE = "NONE"
    return cfg


def chosen_in_file(flags) -> dict:
    """The DISTILLER section of the --cfg file, if any."""
    section = config.read_yaml(flags.cfg).get("DISTILLER") if flags.cfg else None
    return section if isinstance(section, dict) else {}


def chosen_in_pairs(flags) -> dict:
    """What KEY VALUE pairs say of the DISTILLER section."""
    prefix = "DISTILLER."
    pairs = zip(flags.pairs[::2], flags.pairs[1::2], strict=False)
    return {key.removeprefix(prefix): value for key, value in pairs if key.startswith(prefix)}


def find_preset(benchmark: Benchmark, method: str, teacher: str | None, student: str) -> Path:
    """The YAML of a method and pair, else of the method, else (a user's own method) of plain training."""
    folder = PROJECT / "configs" / benchmark.models
    name = distillers.label_of(method)
    candidates = [folder / f"{name}-{teacher}-{student}.yaml", folder / f"{name}.yaml", folder / "Vanilla.yaml"]
    return next((path for path in candidates if path.is_file()), candidates[-1])


def merged_config(flags, preset: Path, allow_new_sections: bool = False):
    source = flags.cfg or preset
    cfg = config.CFG.clone()
    config.merge(cfg, config.read_yaml(source), f"config {source}", allow_new_sections)
    return cfg


def finished(cfg, benchmark: Benchmark, flags, device):
    """Add the last overrides to `cfg`; make names canonical and paths absolute."""
    if flags.seed is not None:
        cfg.EXPERIMENT.SEED = flags.seed
    if flags.fast:
        cfg.SOLVER.update(fastest_settings(device))
    config.merge_pairs(cfg, flags.pairs, distillers.is_file_reference(cfg.DISTILLER.TYPE))
    cfg.DISTILLER.TYPE = distillers.canonical_name(cfg.DISTILLER.TYPE)
    by_name = canonical_network(benchmark)
    cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER = by_name(cfg.DISTILLER.STUDENT), by_name(cfg.DISTILLER.TEACHER)
    fill_defaults(cfg.DATASET)
    cfg.DATASET.ROOT = str(Path(cfg.DATASET.ROOT).resolve())
    if cfg.DISTILLER.TEACHER_WEIGHTS:
        cfg.DISTILLER.TEACHER_WEIGHTS = str(Path(cfg.DISTILLER.TEACHER_WEIGHTS).resolve())
    if distillers.is_file_reference(cfg.DISTILLER.TYPE):
        cfg.DISTILLER.TYPE = str(Path(cfg.DISTILLER.TYPE).resolve())
    return cfg


def canonical_network(benchmark: Benchmark):
    return lambda name: models.canonical_name(benchmark.models, name)


def pick(role: str, flag: str | None, otherwise: object, choices, by_name) -> str:
    """The name that a flag (index or name) selects; without one what --cfg or a pair says, else index 0's.

    choices: names by index. Raises UserError, listing the valid ones, for an index or name out of them.
    """
    by_index = choices if isinstance(choices, Mapping) else dict(enumerate(choices))
    flag = str(flag if flag is not None else 0 if otherwise in (None, "") else otherwise)
    if not re.fullmatch(r"[+-]?[0-9]+", flag):
        return by_name(flag)
    if int(flag) not in by_index:
        valid = ", ".join(f"{index} {name}" for index, name in by_index.items())
        raise UserError(f"unknown {role} index {flag}; valid: {valid}")
    return by_name(by_index[int(flag)])


def print_index(columns: dict) -> None:
    """Print names by index, a column for each role."""
    tables = {role: names if isinstance(names, Mapping) else dict(enumerate(names)) for role, names in columns.items()}
    print("index  " + "".join(f"{role:<14}" for role in tables).rstrip())
    for index in sorted(set().union(*tables.values())):
        print(f"{index:<7}" + "".join(f"{names.get(index, ''):<14}" for names in tables.values()).rstrip())
