"""The check for numbers that are older than the code they measure."""

import contextlib
import io
import subprocess

import pytest

from mdistiller.engine.cli import run_script
from mdistiller.engine.runs import PROJECT
from tools import measured

PAGE = "# Page\n\n<!-- measures code.py -->\n| a |\n|---|\n| 1 |\n\n<!-- measures other -->\n![b](b.svg)\n"


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def commit(folder, **texts):
    """Write files, whose names have a dot for two underscores, and commit them."""
    for name, text in texts.items():
        path = folder / name.replace("__", ".").replace("docs_", "docs/").replace("other_", "other/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "A change")


@pytest.fixture
def project(tmp_path):
    git(tmp_path, "init", "-q")
    commit(tmp_path, code__py="1", other_a__py="1", README__md="", docs_page__md=PAGE, docs_b__svg="<svg/>")
    return tmp_path


def check(project):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = run_script(measured.main, [], project)
    return status, out.getvalue() + err.getvalue()


def test_numbers_as_old_as_their_code_are_not_listed(project):
    assert check(project) == (0, "0 of 2 tables and pictures are older than the code they measure\n")


def test_a_table_older_than_its_code_is_listed_until_it_changes(project):
    commit(project, code__py="2")
    status, out = check(project)
    assert status == 0 and out.startswith("docs/page.md:3: measured at ") and "1 of 2" in out
    commit(project, docs_page__md=PAGE.replace("| 1 |", "| 2 |"))
    assert "0 of 2" in check(project)[1]


def test_a_picture_older_than_its_code_is_listed(project):
    commit(project, other_a__py="2")
    assert check(project)[1].startswith("docs/page.md:8: measured at ")


@pytest.mark.parametrize(("old", "new"), [("code.py", "gone.py"), ("| a |", "a")])
def test_a_mark_that_is_wrong_is_one_line(project, old, new):
    commit(project, docs_page__md=PAGE.replace(old, new))
    status, out = check(project)
    assert status == 2 and out.startswith("error: docs/page.md:3") and out.count("\n") == 1


def test_a_folder_that_is_no_clone_is_one_line(tmp_path):
    status, out = check(tmp_path)
    assert status == 2 and "is no git clone" in out


def test_the_marks_of_this_project_are_right():
    pages = [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")]
    assert [each for page in pages for each in measured.measured_in(page, PROJECT)]
