"""README and docs say what the code says, and what they name is there."""

import contextlib
import functools
import io
import re
import shlex
from pathlib import Path

import pytest

from mdistiller.distillers import DISTILLERS
from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100, IMAGENET
from mdistiller.models import build_model

PROJECT = Path(__file__).resolve().parents[1]
README, TABLE = (PROJECT / name for name in ("README.md", "docs/methods.md"))
PAGES = [README, PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
METHODS = {method.__name__: method for name, method in DISTILLERS.items() if name != "NONE"}
EXTRA_PAIRS = [("resnet56", "resnet20"), ("resnet32x4", "ShuffleV1")]
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


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_its_row(name):
    method = METHODS[name]
    rows = {row[0]: row for row in table_of(TABLE, "method ")}
    assert name in rows, f"docs/methods.md lacks | {name} | {method.venue} | {method.transfers} | none |"
    assert rows[name][1:3] == [method.venue or "\N{EN DASH}", method.transfers]


@pytest.mark.parametrize("name", METHODS)
def test_each_method_s_row_counts_its_extra_parameters(name):
    cell = {row[0]: row for row in table_of(TABLE, "method ")}[name][3]
    counts = []
    for teacher, student in EXTRA_PAIRS:
        networks = [build_model("cifar100", network, 100) for network in (student, teacher)]
        method = METHODS[name].build(*networks, CFG.clone(), num_data=10)
        counts.append(method.get_extra_parameters())
    assert [rounded(count) for count in dict.fromkeys(counts)] == cell.split(", ")


def rounded(count):
    """A number of parameters as the table has it: in thousands or millions, to two digits or whole thousands."""
    if count < 1000:
        return str(count) if count else "none"
    if count < 10_000:
        return f"{count / 1000:.1f} k"
    return f"{count / 1000:.0f} k" if count < 10**6 else f"{count / 10**6:.1f} M"


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
