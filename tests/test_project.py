"""What the files around the code say of it, and of each other."""

import re
from pathlib import Path

import pytest
import yaml

import mdistiller

PROJECT = Path(__file__).resolve().parents[1]
WORKFLOW, HOOKS = PROJECT / ".github/workflows/ci.yml", PROJECT / ".pre-commit-config.yaml"


def parse(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture
def pyproject():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer reads TOML")
    return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture
def citation():
    return parse(PROJECT / "CITATION.cff")


def packages_that_exist():
    """Folders of Python files in `mdistiller`, and of presets in `configs`, by the names they are installed as."""
    folders = {path.parent.relative_to(PROJECT) for path in (PROJECT / "mdistiller").rglob("*.py")}
    folders |= {"mdistiller" / path.parent.relative_to(PROJECT) for path in (PROJECT / "configs").rglob("*.yaml")}
    return sorted(".".join(folder.parts) for folder in folders)


def test_every_package_is_installed(pyproject):
    assert sorted(pyproject["tool"]["setuptools"]["packages"]) == packages_that_exist()


def test_the_version_has_one_source(pyproject):
    assert "version" not in pyproject["project"]
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "mdistiller.__version__"}


def test_the_newest_version_in_the_changelog_is_the_package_s():
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)[:2] == ["Unreleased", mdistiller.__version__]


def test_the_citation_is_of_this_version_and_licence(citation, pyproject):
    assert citation["cff-version"] == "1.2.0"
    assert str(citation["version"]) == mdistiller.__version__
    assert citation["license"] == pyproject["project"]["license"]


def test_the_readme_s_bibtex_is_the_citation_s_paper(citation):
    paper, readme = citation["preferred-citation"], (PROJECT / "README.md").read_text(encoding="utf-8")
    (entry,) = re.findall(r"^```bibtex\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)
    key = f"{paper['authors'][0]['family-names']}{paper['year']}{paper['title'].split()[0]}".lower()
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert entry.startswith(f"@inproceedings{{{key},\n")
    assert dict(re.findall(r"^  (\w+) += \{(.*)\}", entry, re.MULTILINE)) == {
        "title": paper["title"],
        "author": authors,
        "booktitle": paper["collection-title"],
        "year": str(paper["year"]),
    }


def test_the_workflow_tests_from_the_oldest_python_on(pyproject):
    versions = parse(WORKFLOW)["jobs"]["tests"]["strategy"]["matrix"]["python-version"]
    oldest = versions[0]
    assert pyproject["project"]["requires-python"] == f">={oldest}"
    assert pyproject["tool"]["mypy"]["python_version"] == oldest
    assert pyproject["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"


def test_the_workflow_may_only_read():
    workflow = parse(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())


def test_hooks_and_actions_have_a_version():
    steps = [step for job in parse(WORKFLOW)["jobs"].values() for step in job["steps"]]
    assert all(re.search(r"@v\d", step["uses"]) for step in steps if "uses" in step)
    assert all(re.fullmatch(r"v[\d.]+", repo["rev"]) for repo in parse(HOOKS)["repos"] if repo["repo"] != "local")
