"""README and docs say what the code says, and what they name is there."""

import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest

from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100, IMAGENET
from tools import method_settings, methods

PROJECT = Path(__file__).resolve().parents[1]
README = PROJECT / "README.md"
PAGES = [README, PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
PUBLISHED = 9  # indices of each column


def table_of(page, first_column):
    """Rows, as lists of cells, of the first table of a page with that first column."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_column}|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_page_of_methods_is_what_the_classes_say():
    kept = {name: cells[-2:] for name, cells in methods.rows_of(methods.PAGE).items()}
    missing = {name: ["none", methods.UNKNOWN] for name in methods.METHODS if name not in kept}
    written = methods.PAGE.read_text(encoding="utf-8")
    assert methods.page(kept | missing) == written, "docs/methods.md is old; type python tools/methods.py"


@pytest.mark.parametrize("name", methods.METHODS)
def test_each_method_s_row_counts_its_extra_parameters(name):
    rows = methods.rows_of(methods.PAGE)
    assert name in rows, f"docs/methods.md lacks {name}; type python tools/methods.py"
    assert rows[name][-2] == methods.extra_parameters(methods.METHODS[name])


def test_words_are_kept_for_settings_that_are_there_alone():
    keys = {f"{each.section()}.{key}" for each in methods.METHODS.values() for key, _ in methods.flat(each.defaults)}
    assert {*method_settings.OWN} <= keys


def test_the_published_indices_are_those_of_the_code():
    rows = table_of(README, "")
    for start, benchmark in ((1, CIFAR100), (4, IMAGENET)):
        tables = benchmark.students, benchmark.teachers, list(benchmark.distillers.values())
        for column, names in enumerate(tables, start):
            found = [row[column] for row in rows if row[column]]
            assert len(found) in (2, PUBLISHED) and found == list(names)[: len(found)]
    assert [int(row[0]) for row in rows] == list(range(PUBLISHED))


def test_the_first_page_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings], target


@functools.cache
def help_of(script):
    """What a script says of its flags."""
    benchmark = IMAGENET if script.startswith("ImageNet") else CIFAR100
    mains = {"distillation_train.py": distillation_main, "train.py": training_main, "test.py": evaluation_main}
    main = mains[Path(script).name]
    context = (PROJECT,) if main is evaluation_main else (benchmark, PROJECT / benchmark.folder / "Utils")
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.suppress(SystemExit):
        main(*context, ["--help"])
    return output.getvalue()


def commands_of(page):
    """The words of each command of this project's scripts in the page's shell blocks."""
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split(" && "):
                words = shlex.split(re.sub(r"\$\{\w+:\+(.*?)\}", r"\1", command), comments=True)
                scripts = [i for i, word in enumerate(words) if word.endswith(("train.py", "test.py"))]
                if scripts and "..." not in words:
                    yield words[scripts[0] :]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_scripts_flags_and_keys_that_are_there(page):
    for script, *arguments in commands_of(page):
        assert (PROJECT / script).is_file(), script
        for word in arguments:
            if word.startswith("--"):
                assert re.search(rf"{word}\b", help_of(script)), f"{script} {word}"
            elif re.fullmatch(r"[A-Z]+(\.[A-Z_]+)+", word) and word.split(".")[0] in CFG:
                section = CFG
                for key in word.split("."):
                    assert key in section, word
                    section = section[key]
