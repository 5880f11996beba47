"""The benchmark with little to do, and its output read; no clock is looked at."""

import re

import pytest

from tools.benchmark import equality, limits, settings, timing
from tools.benchmark.__main__ import main
from tools.benchmark.parts import crd, losses

PAIR = "--teacher resnet8 --student resnet8 --batch_size 4 --steps 2 --repeats 1 --workers 0 --device cpu".split()
FAST = {"AMP": "bf16", "CHANNELS_LAST": True, "COMPILE": True}
SMALL = {
    losses: {"SKD_BATCHES": (4, 8), "RKD_BATCHES": (4, 8), "NST_BATCH": 2, "NST_MAPS": ((3, 4, 4), (5, 2, 2))},
    crd: {"CRD_IMAGES": 200, "CRD_NEGATIVES": 16},
    limits: {"MATRIX_SIDE": {"cpu": 16}, "COPIED_BYTES": {"cpu": 1024}},
    timing: {"SECONDS_A_MEASUREMENT": 0.01},
    equality: {"EQUAL_STEPS": 3},
    settings: {"fastest_settings": lambda device: FAST},
}


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    for module, values in SMALL.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)


@pytest.fixture
def run(capsys):
    def run(part, *arguments):
        main(["--part", part, *PAIR, "--no_compile", *arguments])
        lines = capsys.readouterr().out.splitlines()[1:]
        header = re.split(r"\s{2,}", lines[0])
        assert header == ["what", "way", "images/s", "ms a step", "peak MiB", "ratio"]
        starts = [lines[0].index(name) for name in header]
        rows, notes = [], []
        for line in lines[1:]:
            cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
            is_row = not notes and re.fullmatch(r"\d+\.\d\d", cells[-1])
            rows.append(dict(zip(header, cells, strict=True))) if is_row else notes.append(line)
        return rows, notes

    return run
