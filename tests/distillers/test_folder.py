"""What a distiller file may import from its own folder, and what nobody else sees of it."""

import os
import sys

import pytest
import torch

import mdistiller
from mdistiller.distillers import Distiller, find_method
from mdistiller.errors import UserError

METHOD = """
from ._base import Distiller


class Mine(Distiller):
    value = VALUE
"""


@pytest.fixture
def load(tmp_path):
    """Loads the class Mine of files, {path: text}, the first of which is the distiller file."""

    def load(files, folder="fork"):
        for name, text in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return find_method(f"{tmp_path / folder / next(iter(files))}:Mine")

    return load


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("from .helper import f", "f"),
        ("from helper import f", "f"),
        ("from . import helper", "helper.f"),
        ("import helper", "helper.f"),
        ("from helper import *", "f"),
        ("from utils.loss import f", "f"),
        ("import utils.loss", "utils.loss.f"),
        ("import utils.loss as loss", "loss.f"),
        ("from .utils import loss", "loss.f"),
        ("import importlib", "importlib.import_module('.helper', __package__).f"),
    ],
)
def test_a_file_imports_what_lies_beside_it(load, statement, value):
    helpers = {"helper.py": "f = 7\n", "utils/loss.py": "from helper import f\n"}
    assert load({"mine.py": statement + METHOD.replace("VALUE", value), **helpers}).value == 7


def test_a_file_imports_at_run_time_too(load):
    method = load(
        {"mine.py": METHOD.replace("VALUE", "staticmethod(lambda: __import__('late').f)"), "late.py": "f = 3"}
    )
    assert method.value() == 3


@pytest.mark.parametrize(
    ("files", "value"),
    [
        ({"_common.py": "mine = 1"}, "from ._common import mine"),
        ({"KD.py": "mine = 1"}, "from .KD import mine"),
        ({"sub/a.py": "from ..helper import mine", "helper.py": "mine = 1"}, "from .sub.a import mine"),
    ],
)
def test_the_folder_comes_before_our_package(load, files, value):
    assert load({"mine.py": value + METHOD.replace("VALUE", "mine"), **files}).value == 1


@pytest.mark.parametrize("statement", ["from ._base import Distiller", "from _base import Distiller"])
def test_the_base_class_is_ours_whatever_the_folder_has(load, statement):
    base = "class Distiller: pass\n"
    method = load({"mine.py": f"{statement}\nclass Mine(Distiller): pass\n", "_base.py": base})
    assert issubclass(method, Distiller)


@pytest.mark.parametrize("statement", ["from ..losses import f", "from mdistiller.losses import f"])
def test_a_file_of_a_fork_imports_what_the_fork_adds_to_mdistiller(load, statement):
    source = f"{statement}\nfrom mdistiller.distillers.helper import g" + METHOD.replace("VALUE", "f + g")
    others = {"mdistiller/losses.py": "f = 1", "mdistiller/distillers/helper.py": "g = 2"}
    assert load({"mdistiller/distillers/mine.py": source, **others}).value == 3


def test_what_lies_in_the_folder_hides_nothing_of_the_standard_library_or_ours(load):
    bad = "raise RuntimeError('hidden')\n"
    source = "import types, random\nfrom mdistiller.errors import UserError" + METHOD.replace(
        "VALUE", "types, UserError"
    )
    folder = dict.fromkeys(("types.py", "random.py", "errors.py", "models.py", "mdistiller/__init__.py"), bad)
    assert load({"mine.py": source, **folder}).value == (sys.modules["types"], UserError)


def test_equally_named_helpers_of_two_folders_stay_apart(load):
    source = "from helper import f\nfrom .helper import f as g" + METHOD.replace("VALUE", "f, g")
    values = [load({"mine.py": source, "helper.py": f"f = {n}\n"}, str(n)).value for n in (1, 2)]
    assert values == [(1, 1), (2, 2)]


def test_a_helper_is_read_anew_with_its_file(load):
    source = "from helper import f" + METHOD.replace("VALUE", "f")
    assert load({"mine.py": source, "helper.py": "f = 1\n"}).value == 1
    assert load({"mine.py": f"{source}\n", "helper.py": "f = 2\n"}).value == 2


def test_a_file_leaves_the_process_as_it_was(load, tmp_path):
    source = """
import os, sys, torch
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "elsewhere"))
from late import f
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
os.chdir("/")
"""
    before = [*sys.path], {*sys.modules}, torch.get_default_dtype(), os.getcwd()
    assert load({"mine.py": source + METHOD.replace("VALUE", "f"), "elsewhere/late.py": "f = 5"}).value == 5
    known = {name for name in sys.modules if not name.startswith("mdistiller._file_")} | before[1]
    assert (sys.path, known, torch.get_default_dtype(), os.getcwd()) == before and torch.is_grad_enabled()
    assert not [*tmp_path.rglob("__pycache__")] and not hasattr(mdistiller, "helper")


def test_a_class_may_come_from_a_helper(load):
    assert load({"mine.py": "from .impl import Mine\n", "impl.py": METHOD.replace("VALUE", "4")}).value == 4


@pytest.mark.parametrize("name", ["my.v2-a b.py", "_base.py", "__init__.py", "2nd.py", "mdistiller.py"])
def test_a_file_may_have_any_name(load, name):
    source = "from .helper import f" + METHOD.replace("VALUE", "f")
    assert load({name: source, "helper.py": "f = 1\n"}).value == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"mine.py": "x = 1\ndef f(:\n"}, r"SyntaxError: .* \(.*mine\.py, line 2\)"),
        ({"mine.py": "from helper import f\n", "helper.py": "\n\ndef f(:\n"}, r"SyntaxError: .*helper\.py, line 3\)"),
        ({"mine.py": "\n1 / 0\n"}, r"ZeroDivisionError: .*mine\.py, line 2\)"),
        ({"mine.py": "import helper\n", "helper.py": "\n1 / 0\n"}, r"ZeroDivisionError: .*helper\.py, line 2\)"),
        ({"mine.py": "import sys\nsys.exit(3)\n"}, r"SystemExit: 3 \(.*mine\.py, line 2\)"),
        ({"mine.py": "def f(): f()\nf()\n"}, r"RecursionError: .*mine\.py, line 1\)"),
        ({"mine.py": "from .absent import f\n"}, r"No module named '\.absent'"),
        ({"mine.py": "from ..absent import f\n"}, r"No module named 'mdistiller\.absent'"),
        ({"mine.py": "from . import absent\n"}, r"cannot import name 'absent'"),
        ({"mine.py": "x = '\0'\n"}, r"null bytes"),
        ({"mine.py": "from torch import nn\nclass Mine(nn.Module): pass\n"}, r"none that derives from mdistiller"),
        ({"mine.py": "def Mine(student, teacher, cfg): pass\n"}, r"no distiller class 'Mine'"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line_with_the_place(load, files, message):
    with pytest.raises(UserError, match=message) as error:
        load(files)
    assert "\n" not in str(error.value) and "mine.py" in str(error.value)


def test_a_name_too_long_for_a_file_is_a_user_error():
    with pytest.raises(UserError, match="no distiller file"):
        find_method(f"{'a' * 300}.py:Mine")
