"""README's tables say what the code says."""

import re
from pathlib import Path

import pytest

from mdistiller.distillers import DISTILLERS
from mdistiller.engine.cfg import CFG
from mdistiller.engine.index import CIFAR100, IMAGENET
from mdistiller.models import build_model

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
METHODS = {method.__name__: method for name, method in DISTILLERS.items() if name != "NONE"}
EXTRA_PAIRS = [("resnet56", "resnet20"), ("resnet32x4", "ShuffleV1")]


def table_below(heading, first_column):
    """Rows, as lists of cells, of the first table with that first column after a heading."""
    lines = README[README.index(f"\n{heading}\n") :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_its_row(name):
    method = METHODS[name]
    rows = {row[0]: row for row in table_below("### Methods", "method")}
    assert name in rows, f"README's table of methods lacks | {name} | {method.venue} | {method.transfers} | none |"
    assert rows[name][1:3] == [method.venue or "\N{EN DASH}", method.transfers]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_s_row_counts_its_extra_parameters(name):
    cell = {row[0]: row for row in table_below("### Methods", "method")}[name][3]
    counts = []
    for teacher, student in EXTRA_PAIRS:
        networks = [build_model("cifar100", network, 100) for network in (student, teacher)]
        method = METHODS[name].build(*networks, CFG.clone(), num_data=10)
        counts.append(method.get_extra_parameters())
    assert [rounded(count) for count in dict.fromkeys(counts)] == cell.split(", ")


def rounded(count):
    """A number of parameters as the table has it: in thousands or millions, to two digits or whole thousands."""
    if count < 1000:
        return str(count) if count else "none"
    if count < 10_000:
        return f"{count / 1000:.1f} k"
    return f"{count / 1000:.0f} k" if count < 10**6 else f"{count / 10**6:.1f} M"


def test_the_indices_of_cifar100_are_those_of_the_code():
    rows = table_below("### Indices", "index")
    for column, names in enumerate((CIFAR100.students, CIFAR100.teachers), 1):
        assert [row[column] for row in rows if row[column]] == list(names)
    assert {int(row[0]): row[3] for row in rows if row[3]} == CIFAR100.distillers


def test_the_indices_of_imagenet_are_those_of_the_code():
    rows = table_below("## Train on ImageNet", "index")
    assert [row[1] for row in rows] == list(IMAGENET.students) and [row[2] for row in rows] == list(IMAGENET.teachers)
    rest = re.search(r"\nThen (.+?), from 6 on\.", README, re.DOTALL)[1]
    listed = [row[3] for row in rows] + re.split(r", | and ", " ".join(rest.split()))
    assert listed == list(IMAGENET.distillers.values())
