"""Flags of the benchmark that cannot be are one line and status 2."""

import contextlib
import io

import pytest

from mdistiller.engine.cli import run_script
from tools.benchmark.__main__ import main, parse


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ("--part all", "invalid choice: 'all'"),
        ("--parts step", "unknown flag '--parts' (nearest: '--part')"),
        ("step", "unknown flag 'step'"),
        ("--batch_size 0", "--batch_size is 0; expected a whole number from 1"),
        ("--batch_size 64 99999999999999999999", "--batch_size is 99999999999999999999"),
        ("--batch_size 1e3", "invalid int value: '1e3'"),
        ("--images 0", "--images is 0"),
        ("--steps -1", "--steps is -1"),
        ("--repeats 0", "--repeats is 0"),
        ("--workers -1", "--workers is -1"),
        ("--threads 1000000", "--threads is 1000000"),
        ("--image_size 1", "--image_size is 1"),
        ("--root=", "--root has an empty value"),
        ("--device tpu", "device 'tpu' is not available"),
    ],
)
def test_a_bad_flag_is_one_line(arguments, part):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        assert run_script(main, arguments.split()) == 2
    assert err.getvalue().count("\n") == 1 and part in err.getvalue()


def test_flags_that_are_left_out_depend_on_the_part():
    assert (parse([]).batch_size, parse([]).repeats) == ([64], 5)
    assert (parse(["--part", "epoch"]).batch_size, parse(["--part", "epoch"]).repeats) == ([64, 512], 3)
