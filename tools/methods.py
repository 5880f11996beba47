"""Write docs/methods.md: what each method transfers, its formula and settings, as its class says them.

The time of a step is kept as the page has it, and measured anew by --measure.
"""

import argparse
import inspect
import re
import sys
from pathlib import Path

if not __package__:  # run as a file, beside which Python would look for modules first
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from mdistiller.distillers import DISTILLERS, PLAIN_TRAINING
from mdistiller.engine.cfg import CFG, changed
from mdistiller.engine.cli import run_script
from mdistiller.engine.flags import FlagParser
from mdistiller.engine.index import CIFAR100
from mdistiller.engine.runs import PROJECT
from mdistiller.models import build_model
from tools.method_settings import meaning_of
from tools.pictures import cost

PAGE = PROJECT / "docs/methods.md"
METHODS = {method.__name__: method for name, method in DISTILLERS.items() if name != PLAIN_TRAINING}
PAIRS = ("resnet56", "resnet20"), ("resnet32x4", "ShuffleV1")
MEASURED_PAIR, BATCH_SIZE = ("resnet20", "resnet8"), 64
NEWLINE = "\n"
UNKNOWN = "\N{EN DASH}"
HEAD = """# Methods

Extra parameters are those trained beside the student's: resnet56 → resnet20 and resnet32x4 → ShuffleV1. A step
is that of resnet20 → resnet8 in batches of 64, on one core and relative to KD, by each method's preset. All of it is
what the classes say: `python tools/methods.py` writes it, and with `--measure` the time of a step too.

| method | venue | what it transfers | extra parameters | step |
|---|---|---|---|---|
"""
NOTES = """
AB, FT, FSP and SSKD begin with [an initial stage](recipes.md#an-initial-stage), whose steps are not those of the table.

A student of SimKD is one network with the teacher's classifier, called by both names: `test.py` evaluates it as
`resnet8x4+resnet32x4`.

Three switches combine with them: `DISTILLER.LOGIT_STANDARDIZATION True` (CVPR 2024) for every logit-based method,
`SOLVER.TRAINER dot` (DOT, ICCV 2023) for every method, and `SKD.FORM paper` for SKD by the paper's formulas instead of
the released code's ([what the two forms do](skd_forms.md)).

Below, the first line under a paper's name is what the student minimises: words in capitals are settings, and what each
function gives is said in the list. A setting is given with its section, as `KD.TEMPERATURE 2`; a [preset](presets.md)
may have another value than the default here.
"""


def main(arguments=None):
    parser = FlagParser(prog="methods.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="time a step of each method anew, which takes minutes")
    flags = parser.parse(arguments)
    steps = measured_steps() if flags.measure else {name: cells[-1] for name, cells in rows_of(PAGE).items()}
    cells = {name: (extra_parameters(method), steps.get(name, UNKNOWN)) for name, method in METHODS.items()}
    PAGE.write_text(page(cells), encoding="utf-8")
    print(f"Wrote {PAGE.relative_to(PROJECT)}")


def rows_of(path):
    """The cells of the page's table after a method's name, by that name."""
    lines = re.findall(r"^\| (\w+) \| (.+) \|$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: cells.split(" | ") for name, cells in lines if name in METHODS}


def page(cells):
    """The whole page. cells: of each method its extra parameters and the time of its step, as the table has them."""
    names = sorted(METHODS, key=place_of)
    rows = [(name, METHODS[name].venue or UNKNOWN, METHODS[name].transfers, *cells[name]) for name in names]
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return HEAD + table + NOTES + "".join(part_of(METHODS[name]) for name in names)


def place_of(name):
    """Where a method stands in the table: by its number on the benchmark of CIFAR-100, those without one last."""
    order = list(CIFAR100.distillers.values())
    return order.index(name) if name in order else len(order)


def part_of(method):
    """A method's part of the page: its paper, its formula, what the functions in it are, and its settings."""
    module = sys.modules[method.__module__]
    formula = escaped(inspect.getdoc(method))
    functions = "".join(
        f"- `{name}`: {escaped(text).replace(NEWLINE, NEWLINE + '  ').replace('  ' + NEWLINE, NEWLINE)}\n"
        for name, text in functions_of(module, method)
    )
    rows = "".join(
        f"| `{method.section()}.{key}` | `{value}` | {meaning_of(method, key)} | {values_of(method, key)} |\n"
        for key, value in flat(method.defaults)
    )
    settings = f"\n| setting | default | what it is | values |\n|---|---|---|---|\n{rows}" if rows else ""
    paper = escaped(" ".join(inspect.getdoc(module).split("\n\n")[0].split()))
    return f"\n## {method.__name__}\n\n{paper}\n\n{formula}\n" + (f"\n{functions}" if functions else "") + settings


def functions_of(module, method):
    """Names and docstrings of the functions that the docstring of `method` names, then of those that theirs name."""
    found, texts = {}, [inspect.getdoc(method)]
    while texts:
        for name in re.findall(r"\b[a-z_]\w+", texts.pop(0)):
            function = vars(module).get(name)
            if name not in found and inspect.isfunction(function) and function.__doc__ and belongs(function):
                found[name] = inspect.getdoc(function)
                texts.append(found[name])
    return found.items()


def belongs(function):
    return function.__module__.startswith("mdistiller.distillers.")


def flat(section, above=""):
    """Keys, dotted where sections are nested, and their values."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", list(value) if isinstance(value, tuple) else value


def values_of(method, key):
    if key in method.ignored:
        return "any"
    return escaped(method.checks[key].expected) if key in method.checks else "True or False"


def escaped(text):
    """`text` with what Markdown would take for signs of its own outside of code."""
    parts = text.split("`")
    return "`".join(re.sub(r"([*<|])", r"\\\1", part) if place % 2 == 0 else part for place, part in enumerate(parts))


def extra_parameters(method):
    """How many parameters a method adds, as the table has them: for each of PAIRS, or one number where all agree."""
    counts = []
    for teacher, student in PAIRS:
        networks = [build_model("cifar100", network, 100) for network in (student, teacher)]
        counts.append(method.build(*networks, CFG.clone(), num_data=10).get_extra_parameters())
    return ", ".join(rounded(count) for count in dict.fromkeys(counts))


def rounded(count):
    """A number of parameters in thousands or millions, to two digits or whole thousands."""
    if count < 1000:
        return str(count) if count else "none"
    if count < 10_000:
        return f"{count / 1000:.1f} k"
    return f"{count / 1000:.0f} k" if count < 10**6 else f"{count / 10**6:.1f} M"


def measured_steps():
    """The time of a step of each method over that of KD, as the table has it."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    configs = {name: cost.config_of_method(name, MEASURED_PAIR, BATCH_SIZE, device) for name in METHODS}
    for name, method in METHODS.items():
        configs[name] = changed(configs[name], "SOLVER.LR", 1e-6)  # at which no untrained network diverges
        if "INITIAL" in method.defaults:  # whose steps would come first
            configs[name] = changed(configs[name], f"{method.section()}.INITIAL.EPOCHS", 0)
    found = cost.measure({name: cost.training_of(cfg, device) for name, cfg in configs.items()}, device)
    least = {times.name: min(times.seconds) for times in found}
    return {
        name: f"{seconds / least['KD']:.2f}" + (f" ({1000 * seconds:.0f} ms)" if name == "KD" else "")
        for name, seconds in least.items()
    }


if __name__ == "__main__":
    sys.exit(run_script(main))
