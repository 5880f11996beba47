"""A method is one file: added to a copy of the project, it is found, listed, configured and checked."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mdistiller.distillers import DISTILLERS

PROJECT = Path(__file__).resolve().parents[2]
FREE = 1 + max(method.index or 0 for method in DISTILLERS.values())  # index of a new method
METHOD = f'''
"""Mean squared error of the logits."""

from typing import Any

import torch.nn.functional as F
from torch import nn

from mdistiller.checks import ABOVE_ZERO

from ._logit import LogitDistiller


class Mse(LogitDistiller):
    """CE_WEIGHT · cross-entropy + MSE_WEIGHT · mean squared error of the logits over SCALE."""

    defaults = {{"SCALE": 2.0, "LOSS": {{"CE_WEIGHT": 1.0, "MSE_WEIGHT": 0.5}}}}
    checks = {{"SCALE": ABOVE_ZERO, "LOSS.MSE_WEIGHT": ABOVE_ZERO}}
    venue = "nowhere 2026"
    transfers = "logits"
    index = {FREE}

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any):
        super().__init__(student, teacher, cfg)
        self.mse_weight = cfg.MSE.LOSS.MSE_WEIGHT
        self.scale = cfg.MSE.SCALE

    def distillation_losses(self, logits_student, logits_teacher, target, **kwargs):
        return {{"loss_kd": self.mse_weight * F.mse_loss(logits_student / self.scale, logits_teacher / self.scale)}}
'''
ROW_TEST = "tests/test_docs.py::test_each_method_s_row_counts_its_extra_parameters[Mse]"
IMPORT = "import mdistiller.distillers"
BUILD = """
import json
import torch
from yacs.config import CfgNode
from mdistiller import distillers
from mdistiller.errors import UserError
from mdistiller.models import build_model

networks = [build_model("cifar100", name, 10) for name in ("resnet8", "resnet14")]
method = distillers.find_method("mse")
cfg = CfgNode({"DISTILLER": {"LOGIT_STANDARDIZATION": False}, method.section(): method.defaults})
distiller = distillers.build_distiller("mse", *networks, cfg).train()
_, losses = distiller(image=torch.randn(2, 3, 32, 32), target=torch.arange(2), epoch=1, index=torch.arange(2))
messages = []
for key in ("SCALE", "LOSS.MSE_WEIGHT"):
    bad = cfg.clone()
    bad.merge_from_list([f"MSE.{key}", 0.0])
    try:
        distillers.build_distiller("mse", *networks, bad)
    except UserError as error:
        messages.append(str(error))
print(json.dumps({
    "names": list(distillers.DISTILLERS),
    "is_attribute": distillers.Mse is method,
    "section": method.section(),
    "losses": {name: loss.item() for name, loss in losses.items()},
    "messages": messages,
}))
"""


@pytest.fixture
def project(tmp_path):
    """Path of a copy of the project, with the method Mse as a file of its own."""
    root = tmp_path / "project"
    for folder in ("mdistiller", "configs"):
        shutil.copytree(PROJECT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for scripts in ("CIFAR-100/Utils", "ImageNet/Utils"):
        (root / scripts).mkdir(parents=True)
        for script in (PROJECT / scripts).glob("*.py"):
            shutil.copy(script, root / scripts)
    add_method(root, "Mse", METHOD)
    return root


def add_method(project, name, source):
    (project / "mdistiller/distillers" / f"{name}.py").write_text(source)


def run(project, *arguments):
    """Python with `arguments` in `project`, whose package it imports."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
    )


def test_method_is_found_listed_configured_and_checked(project):
    result = run(project, "-c", BUILD)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert "MSE" in found["names"] and found["is_attribute"] and found["section"] == "MSE"
    assert list(found["losses"]) == ["loss_ce", "loss_kd"] and all(loss > 0 for loss in found["losses"].values())
    assert found["messages"] == [
        "MSE.SCALE is 0.0; expected a number above 0 to 1,000,000",
        "MSE.LOSS.MSE_WEIGHT is 0.0; expected a number above 0 to 1,000,000",
    ]


def test_method_is_listed_chosen_and_set_by_the_scripts(project):
    script = "CIFAR-100/Utils/distillation_train.py"
    listed = [line.split() for line in run(project, script, "--list").stdout.splitlines()]
    assert [line[-1] for line in listed if line[:1] == [str(FREE)]] == ["Mse"]
    chosen = "--selected_distiller", str(FREE), "MSE.SCALE", "3", "--print_cfg"
    printed = yaml.safe_load(run(project, script, *chosen).stdout)
    assert printed["DISTILLER"]["TYPE"] == "MSE" and printed["SOLVER"]["EPOCHS"] == 240
    assert printed["MSE"] == {"SCALE": 3.0, "LOSS": {"CE_WEIGHT": 1.0, "MSE_WEIGHT": 0.5}}
    bad = run(project, script, "--selected_distiller", "mse", "MSE.SCALE", "0")
    assert (bad.returncode, bad.stderr) == (2, "error: MSE.SCALE is 0.0; expected a number above 0 to 1,000,000\n")
    unknown = run(project, script, "--selected_distiller", "mse", "MSE.SCALES", "1")
    assert unknown.returncode == 2 and "nearest: 'MSE.SCALE'" in unknown.stderr


def test_method_without_an_index_is_listed_by_name(project):
    add_method(project, "Mse", METHOD.replace(f"index = {FREE}", ""))
    script = "ImageNet/Utils/distillation_train.py"
    assert run(project, script, "--list").stdout.splitlines()[-1] == "by name: distiller Mse"
    chosen = run(project, script, "--selected_distiller", "Mse", "--print_cfg").stdout
    assert yaml.safe_load(chosen)["DISTILLER"]["TYPE"] == "MSE"


def test_method_is_seen_by_the_tests_of_every_method_and_of_the_page(project):
    for name in ("tests", "tools"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml", "docs/methods.md"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, project / name)
    tests = "tests/distillers", "tests/engine/test_methods.py", "tests/engine/test_cli.py", "tests/test_docs.py"
    chosen = "Mse or MSE and (resnet20 or not step) or every_published_method or methods_that_have"
    result = run(project, "-m", "pytest", "-q", "-k", chosen, *tests)
    failed = re.findall(r"^FAILED (\S+)", result.stdout, re.MULTILINE)
    assert failed == [ROW_TEST], result.stdout
    assert "docs/methods.md lacks Mse; type python tools/methods.py" in result.stdout
    assert "test_pairs" not in result.stdout and result.stdout.split("[100%]")[0].count(".") > 15


def test_file_without_the_class_of_its_name_does_not_import(project):
    add_method(project, "Lost", METHOD.replace("Mse", "Found").replace(f"index = {FREE}", f"index = {FREE + 1}"))
    error = run(project, "-c", IMPORT).stderr
    assert "ImportError: Lost.py must hold the class Lost, derived from mdistiller.distillers.Distiller" in error


@pytest.mark.parametrize(("index", "owner"), [(FREE, "Mse"), (19, "CTKD"), (3, "a published method")])
def test_index_that_is_taken_does_not_import(project, index, owner):
    add_method(project, "Mse2", METHOD.replace("Mse", "Mse2").replace(f"index = {FREE}", f"index = {index}"))
    error = run(project, "-c", IMPORT).stderr
    assert f"ImportError: Mse2.index is {index}, which belongs to {owner}; take a free number" in error
