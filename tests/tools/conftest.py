"""Runs a tool's main function as its script does; weights of a few networks."""

import contextlib
import io

import pytest
import torch
from torch import nn

from mdistiller.engine.cli import run_script
from tests.engine.test_networks import SOURCE
from tests.engine.test_students import save


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
