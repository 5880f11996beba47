"""docs/python.md: its examples run, and the names that it lists are the package's."""

import importlib.resources
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mdistiller

TEXT = (Path(__file__).resolve().parents[1] / "docs/python.md").read_text(encoding="utf-8")


def test_the_examples_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 6
    namespace = {"__name__": "example"}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), namespace)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["distilled", "runs"]


def test_every_public_name_is_in_the_table():
    cells = re.findall(r"^\| (`.+?) \|", TEXT, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`(\w+)", cell)}
    others = set(re.findall(r"a `([A-Z]\w+)`", TEXT))
    assert named | others == set(mdistiller.__all__)


@pytest.mark.parametrize("name", mdistiller.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(mdistiller, name)
    assert name == "CFG" or value.__doc__
    assert name in dir(mdistiller)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mdistiller.nothing


def test_the_package_alone_loads_no_torch():
    code = "import sys, mdistiller; dir(mdistiller); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_package_says_that_it_is_typed():
    assert importlib.resources.files("mdistiller").joinpath("py.typed").is_file()
