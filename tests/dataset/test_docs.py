"""The tables of docs/data.md say what the code says."""

from pathlib import Path

import pytest

from mdistiller.dataset import DATASETS
from mdistiller.dataset.torchvision_sets import IMAGENET_STATISTICS, TORCHVISION_SETS

TEXT = (Path(__file__).resolve().parents[2] / "docs/data.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]
PUBLISHED = {row[0].strip("`"): row[1:] for row in ROWS if len(row) > 2}


def numbers(values):
    return ", ".join(f"{value:g}" for value in values)


@pytest.mark.parametrize("name", TORCHVISION_SETS)
def test_each_published_set_has_its_row(name):
    row = TORCHVISION_SETS[name]
    statistics = [numbers(row.mean), numbers(row.std)]
    if not row.image_size:
        assert (row.mean, row.std) == IMAGENET_STATISTICS
        statistics = ["ImageNet's"] * 2
    places = [f"`{row.folder}/`"] if row.folder else [f"`{name}`" for name in row.archives]
    side = str(row.image_size or "photographs")
    expected = [row.title, str(row.num_classes), side, *statistics, ", ".join(places), row.package]
    assert PUBLISHED[name] == expected, f"| `{name}` | {' | '.join(expected)} |"


def test_every_type_is_named_and_no_other():
    others = {name.strip(" `") for row in ROWS if len(row) == 2 for name in row[0].removesuffix("…").split(",")}
    assert others | {*PUBLISHED} == {*DATASETS}
