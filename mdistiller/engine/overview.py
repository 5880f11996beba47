"""What a training script says where nothing was asked of it: what it would run, what is missing, how to start it."""

import textwrap
from pathlib import Path

from yacs.config import CfgNode as CN

from mdistiller.dataset import DATASETS
from mdistiller.dataset.torchvision_sets import TORCHVISION_SETS
from mdistiller.distillers import find_method
from mdistiller.errors import UserError

from .index import Benchmark
from .lines import COLUMNS, command, count, shortened
from .networks import label_of
from .runs import CONFIGS, DEMO, shown
from .teachers import fetching_command, find_teacher_weights, training_command

TITLE = 13  # columns, as those of `command`
LONGEST = 60  # columns of a path


def print_overview(cfg: CN, benchmark: Benchmark, utils: Path) -> None:
    """Print in about ten lines what the resolved `cfg`, that of no flags at all, would train, and how to start it."""
    is_taught = find_method(cfg.DISTILLER.TYPE).needs_teacher
    script = "distillation_train.py" if is_taught else "train.py"
    start = ["python", shown(utils / script)]
    student, solver = label_of(cfg, "STUDENT"), cfg.SOLVER
    training = f"{count(solver.EPOCHS, 'epoch')} in batches of {solver.BATCH_SIZE}"
    if is_taught:
        what = f"{student} taught by {label_of(cfg, 'TEACHER')}, method {find_method(cfg.DISTILLER.TYPE).__name__}"
        flags = ["--selected_distiller", "0"]
    else:
        what, flags = f"{student} without a teacher", ["--selected_model", "0"]
    lines = ["Nothing is trained without flags. With those of index 0 this would be:", ""]
    lines += entry("Training:", f"{what}; {training}")
    lines += entry("Data:", where_data_is(cfg))
    if is_taught:
        lines += where_teacher_is(cfg, benchmark, utils)
    lines += ["", *command("Start:", *start, *flags)]
    if is_taught and (CONFIGS / benchmark.models / DEMO).is_file():
        lines += command("Try:", *start, "--demo") + entry("", "on small images that come with it, in minutes")
    lines += entry("More:", "--list prints all indices and names, --help all flags")
    print("\n".join(lines))


def entry(title: str, text: str) -> list[str]:
    """Lines of a title and what stands beside it."""
    return textwrap.wrap(text, COLUMNS, initial_indent=f"{title:<{TITLE}}", subsequent_indent=" " * TITLE)


def where_data_is(cfg: CN) -> str:
    """Whether the images of `cfg` are there, and what to do where they are not."""
    kind, root = cfg.DATASET.TYPE, Path(cfg.DATASET.ROOT)
    place = shortened(shown(root), LONGEST)
    if kind in TORCHVISION_SETS:
        is_there = (root / TORCHVISION_SETS[kind].folder).is_dir()
        return f"{kind} in {place}{'' if is_there else ', downloaded there on first use'}"
    is_there = (root / "train").is_dir()
    return f"{kind} in {place}{'' if is_there else ', where it is not; add DATASET.ROOT FOLDER'}"


def where_teacher_is(cfg: CN, benchmark: Benchmark, utils: Path) -> list[str]:
    """Where the teacher's weights are, or the commands that bring them, as lines."""
    name = cfg.DISTILLER.TEACHER
    try:
        path, _ = find_teacher_weights(benchmark, cfg, utils, {"classes": list(DATASETS[cfg.DATASET.TYPE].classes)})
    except UserError:
        lines = entry("Teacher:", f"the weights of {name} are missing; one of these brings them")
        if fetching := fetching_command(cfg):
            lines += command("", *fetching.split())
        return lines + command("", *training_command(benchmark, cfg, name, utils).split())
    there = "in" if path.is_file() else "downloaded on first use to"
    return entry("Teacher:", f"weights of {name} {there} {shortened(shown(path), LONGEST)}")
