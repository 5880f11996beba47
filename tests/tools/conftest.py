"""A small grid on synthetic images, and its runs, trained here."""

from pathlib import Path

import pytest
import torch
import yaml

from mdistiller.engine.cli import distillation_main, training_main
from mdistiller.models import build_model
from tests.engine.conftest import Script
from tools.grid.reader import read_grid

GRID = {
    "title": "Tiny & <small>",
    "keys": {
        "DATASET": {"TYPE": "synthetic", "AUGMENT": "weak", "SYNTHETIC": {"TRAIN_IMAGES": 48, "TEST_IMAGES": 32}},
        "SOLVER": {"BATCH_SIZE": 16, "EPOCHS": 2},
    },
    "pairs": [{"teacher": "resnet14", "student": "resnet8", "teacher_weights": "$TEACHER"}],
    "methods": ["NONE", "KD"],
    "seeds": [1, 2],
    "published": {"source": "a paper", "resnet14-resnet8": {"KD": 70.5}},
}


class Project:
    """A folder with the scripts' own, and a grid's file beside it."""

    def __init__(self, folder: Path):
        self.folder, self.script, self.file = folder, Script(folder), folder / "grid.yaml"
        self.write()

    def write(self, **changes):
        """The grid's file, with other values, or without those that are None."""
        values = {key: value for key, value in (GRID | changes).items() if value is not None}
        self.file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return self.file

    def read(self, **typed):
        return read_grid(self.file, typed, self.folder)

    def train(self, run, *arguments):
        """Train a run in this process, by its command."""
        main = training_main if run.is_plain else distillation_main
        self.script(main, *run.words[1:], "--device", "cpu", *arguments)
        assert self.script.status == 0, self.script.err


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """Weights of a teacher, untrained."""
    path = tmp_path_factory.mktemp("teacher") / "resnet14.pth"
    torch.manual_seed(0)
    torch.save(build_model("cifar100", "resnet14", 36).state_dict(), path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch, teacher):
    monkeypatch.setenv("TEACHER", str(teacher))
    return Project(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory, teacher):
    """A project in which all runs of the grid have finished; only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEACHER", str(teacher))
        project = Project(tmp_path_factory.mktemp("trained"))
        for run in project.read().runs:
            project.train(run)
        yield project
