"""Command lines of all kinds: each prints what it would run, or ends in one line.

The inputs are the same in every run. FUZZ=2000 tries as many, others every time.
"""

import contextlib
import io
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdistiller.engine.cfg import CFG, leaves
from mdistiller.engine.cli import distillation_main, evaluation_main, run_script, training_main
from mdistiller.engine.index import CIFAR100, IMAGENET
from tools.benchmark.__main__ import parse

FLAGS = [
    *("--list", "--cfg", "--fast", "--print_cfg", "--seed", "--resume", "--device", "--demo", "--teacher_weights"),
    *("--selected_student", "--selected_teacher", "--selected_distiller", "--distiller", "--selected_model"),
    *("--dataset", "--all", "--checkpoint", "--model", "--per_class", "--csv", "--part", "--batch_size", "--repeats"),
    *("--", "-", "---", "--selected", "--résumé", "--cfg=", "--seed=1", "--list=x", "-x", "@file"),
]
WORDS = [
    *("0", "1", "-1", "99", "1e3", "10" * 200, "+1", "0x1", "٣", "", " ", "\0", "\n", "a\x1b[31mb", "\udcff", "教師"),
    *("resnet20", "resnet56", "KD", "SKD", "kd", "resnet", "cpu", "cuda", "cuda:99", "cifar100", "synthetic", "folder"),
    *("/dev/zero", "/dev/null", ".", "/", "missing.pth", "x.py:K", ":", "a:b:c", "/etc/passwd", "../..", "~", "$HOME"),
    *(leaves(CFG)),
    *("True", "[1,2]", "[", "{a: b}", "nan", "SOLVER.EPOCHS=2", "solver.epochs", "KD", "X.Y", ".", "SOLVER.", ".LR"),
]
LINES = st.lists(st.one_of(st.sampled_from(FLAGS), st.sampled_from(WORDS), st.text(max_size=5)), max_size=8)
SCRIPTS = {"distil": distillation_main, "train": training_main, "test": evaluation_main, "benchmark": parse}


def by(examples):
    by_hand = os.environ.get("FUZZ")
    return settings(
        max_examples=int(by_hand or examples),
        derandomize=by_hand is None,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("name", SCRIPTS)
@by(60)
@given(words=LINES, is_imagenet=st.booleans())
def test_any_command_line_prints_or_ends_in_one_line(tmp_path_factory, name, words, is_imagenet):
    benchmark, project = IMAGENET if is_imagenet else CIFAR100, tmp_path_factory.getbasetemp()
    if name in ("distil", "train"):
        context = benchmark, project / "Utils", ["--print_cfg", *words]
    else:
        context = (project, words) if name == "test" else (words,)
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_script(SCRIPTS[name], *context)
    told = err.getvalue()
    assert status in (0, 2) and (status == 0) == (not told), told
    assert told == "" or (told.startswith("error: ") and told.count("\n") == 1), told
    assert all(c.isprintable() for c in told.rstrip("\n")), told
