"""The commands of docs/export.md are those that the tools take."""

import shlex
from pathlib import Path

import pytest

from tools import export, predict

TEXT = (Path(__file__).resolve().parents[2] / "docs/export.md").read_text(encoding="utf-8")
COMMANDS = [line for line in TEXT.replace("\\\n", "").splitlines() if line.startswith("python tools/")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_docs_is_one_that_is_taken(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export.importlib, "import_module", lambda name: None)
    _, tool, *words = shlex.split(command)
    flags = {"tools/export.py": export, "tools/predict.py": predict}[tool].parse(words)
    assert flags.checkpoint.endswith(".pth")


def test_the_docs_show_every_format():
    assert all(any(f"--format {form} " in command for command in COMMANDS) for form in export.FORMATS)
