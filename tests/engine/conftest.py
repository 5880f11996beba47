"""A tiny run on synthetic images, cheap enough to train in every test."""

import contextlib
import io

import pytest

from mdistiller.engine.cli import evaluation_main, run_script
from mdistiller.engine.index import CIFAR100

TINY = (
    "DATASET.TYPE synthetic DATASET.SYNTHETIC.TRAIN_IMAGES 48 DATASET.SYNTHETIC.TEST_IMAGES 32 "
    "SOLVER.BATCH_SIZE 16 SOLVER.EPOCHS 2 DATASET.AUGMENT weak"
).split()


class Script:
    """Runs a script's main function with a benchmark's folder below `project` for its own; keeps what it printed."""

    def __init__(self, project, benchmark=CIFAR100):
        self.benchmark, self.utils = benchmark, project / benchmark.folder / "Utils"
        self.utils.mkdir(parents=True)

    def __call__(self, main, *arguments):
        self.out, self.err = io.StringIO(), io.StringIO()
        context = (self.utils.parents[1],) if main is evaluation_main else (self.benchmark, self.utils)
        with contextlib.redirect_stdout(self.out), contextlib.redirect_stderr(self.err):
            self.status = run_script(main, *context, list(map(str, arguments)))
        self.out, self.err = self.out.getvalue(), self.err.getvalue()
        return self

    def fails_with(self, *parts):
        """Whether it ended with status 2 and one line on stderr that holds `parts`."""
        assert self.status == 2, self.err
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        assert all(part in self.err for part in parts), self.err


@pytest.fixture
def script(tmp_path):
    return Script(tmp_path)
