"""Runs tools as their scripts do; weights of a few networks; a small grid of runs on synthetic images."""

import contextlib
import io
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from mdistiller.engine.cli import distillation_main, run_script, training_main
from mdistiller.models import build_model
from tests.engine.conftest import Script
from tests.engine.test_networks import SOURCE
from tests.engine.test_students import save
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


class Tool:
    """Status and output of the last call of a tool's `main`."""

    def __init__(self, main):
        self.main = main

    def __call__(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            self.status = run_script(self.main, list(map(str, arguments)))
        self.out, self.err = out.getvalue(), err.getvalue()
        return self

    def fails_with(self, *parts):
        """Whether it ended with status 2 and one line on stderr that holds `parts`."""
        assert self.status == 2, self.err
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        assert all(part in self.err for part in parts), self.err


def save_trained(path, name, arguments="{}", image_size=32):
    """As `save`, of a network whose batch norms have seen images; returns its flags."""
    network = save(path, name, arguments=arguments, image_size=image_size)
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"model": network.state_dict()}, path)
    return ["--model", name] if ".py:" in name else []


@pytest.fixture(scope="session")
def network_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "net.py"
    path.write_text(SOURCE)
    return f"{path}:make_net"


@pytest.fixture
def checkpoint(tmp_path):
    save_trained(tmp_path / "student.pth", "resnet8")
    return tmp_path / "student.pth"


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
