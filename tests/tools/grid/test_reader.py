"""What a grid's file means, and what is wrong with one, in one line."""

import pytest

from mdistiller.engine.runs import CONFIGS, PROJECT
from mdistiller.errors import UserError
from tests.tools.conftest import GRID
from tools.grid.reader import read_grid

GRIDS = sorted((CONFIGS / "grids").glob("*.yaml"))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"method": ["KD"]}, ("unknown key 'method'", "nearest: 'methods'")),
        ({"methods": None}, ("methods in", "is missing", "[NONE, KD, SKD]")),
        ({"methods": []}, ("methods in", "is []")),
        ({"methods": ["KDD"]}, ("unknown distiller 'KDD'", "nearest: 'KD'")),
        ({"methods": ["KD", "kd"]}, ("two methods", "'KD'", "label")),
        ({"methods": [{"label": "mine"}]}, ("has no name",)),
        ({"methods": [{"name": "SKD", "preset": "SKD_papre"}]}, ("unknown preset", "nearest: 'SKD_paper'")),
        ({"methods": [{"name": "SKD", "preset": "../cifar100/SKD"}]}, ("unknown preset",)),
        ({"methods": [{"name": "KD", "key": {}}]}, ("unknown key 'key'", "nearest: 'keys'")),
        ({"methods": [{"name": "KD", "keys": {"SKD.FORM": "paper"}}]}, ("SKD.FORM has no effect on KD",)),
        ({"pairs": [{"teacher": "resnet14"}]}, ("has no student",)),
        ({"pairs": [{"student": "resnet8"}]}, ("KD in", "needs a teacher")),
        ({"pairs": [{"student": "resnet8", "teacher": "resnet15"}]}, ("resnet15", "nearest")),
        ({"pairs": "resnet8"}, ("an entry of pairs", "expected a mapping")),
        ({"seeds": [1, 1]}, ("one twice",)),
        ({"seeds": [-1]}, ("an entry of seeds", "whole number")),
        ({"seeds": ["one"]}, ("an entry of seeds", "whole number")),
        ({"seeds": {"a": 1}}, ("an entry of seeds", "whole number")),
        ({"keys": {"SOLVER.EPOCH": 1}}, ("unknown config key 'SOLVER.EPOCH'", "nearest: 'SOLVER.EPOCHS'")),
        ({"keys": [1]}, ("keys in", "expected a mapping")),
        ({"keys": {"SOLVER.EPOCHS": 0}}, ("SOLVER.EPOCHS is 0",)),
        ({"sweep": {"SOLVER.LR": []}}, ("no values for SOLVER.LR",)),
        ({"sweep": {"SOLVER.LRR": [1]}}, ("unknown config key 'SOLVER.LRR'",)),
        ({"sweep": {"SKD.LOSS.DIRECTION_WEIGHT": [0]}}, ("no effect on any method",)),
        ({"sweep": {"SOLVER.LR": [*range(99)], "SOLVER.MOMENTUM": [*range(99)]}}, ("more than 10,000 runs",)),
        ({"published": {"resnet14-resnet8": {"KD": 170}}}, ("KD of published.resnet14-resnet8", "170")),
        ({"published": {"resnet14-resnet8": 70}}, ("published.resnet14-resnet8", "expected a mapping")),
        ({"published": {"resnet14-resnet8": {"DKDD": 70}}}, ("unknown distiller 'DKDD'",)),
        ({"published": {"resnet14-resnet9": {"KD": 70}}}, ("resnet9",)),
        ({"benchmark": "cifar10"}, ("benchmark", "cifar100, imagenet")),
        ({"parts": []}, ("parts in", "expected a list")),
        ({"parts": [{"method": []}]}, ("part 1", "nearest: 'methods'")),
        ({"title": ["a"]}, ("title", "expected text")),
    ],
)
def test_a_mistake_in_a_grid_is_one_line(project, changes, parts):
    project.write(**changes)
    with pytest.raises(UserError) as error:
        project.read()
    assert all(part in str(error.value) for part in parts), error.value
    assert "\n" not in str(error.value)


def test_a_variable_that_is_not_set_is_named(project, monkeypatch):
    monkeypatch.delenv("TEACHER")
    with pytest.raises(UserError, match=r"\$TEACHER, and TEACHER is not set; export it, or type DISTILLER.TEACHER_WEI"):
        project.read()


def test_a_typed_key_needs_no_variable(project, monkeypatch, teacher):
    monkeypatch.delenv("TEACHER")
    *_, run = project.read(**{"DISTILLER.TEACHER_WEIGHTS": str(teacher)}).runs
    assert run.config.DISTILLER.TEACHER_WEIGHTS == str(teacher)


@pytest.mark.parametrize("key", ["SOLVER.EPOCH", "SKD.T", "NO.SUCH"])
def test_a_typed_key_that_no_method_reads_is_refused(project, key):
    with pytest.raises(UserError, match=key):
        project.read(**{key: "1"})


def test_keys_go_over_each_other_from_the_grid_to_the_command_line(project):
    keys = [{"SOLVER.EPOCHS": epochs} for epochs in (3, 4, 5, 6)]
    pair = GRID["pairs"][0]
    values = {"keys": GRID["keys"] | keys[0], "methods": ["NONE"], "parts": [{}]}

    def epochs(**changes):
        project.write(**(values | changes))
        return project.read().runs[0].config.SOLVER.EPOCHS

    assert epochs() == 3
    values["parts"] = [{"keys": keys[1]}]
    assert epochs() == 4
    values["pairs"] = [pair | {"keys": keys[2]}]
    assert epochs() == 5
    values["methods"] = [{"name": "NONE", "keys": keys[3]}]
    assert epochs() == 6
    assert project.read(**{"SOLVER.EPOCHS": "7"}).runs[0].config.SOLVER.EPOCHS == 7


def test_an_axis_is_swept_for_the_methods_that_read_it(project):
    project.write(methods=["NONE", "KD", "SKD"], sweep={"SKD.LOSS.DIRECTION_WEIGHT": [0, 0.01], "SOLVER.LR": [0.1]})
    (part,) = project.read().parts
    assert [cell.name for cell in part.cells] == [
        "plain student LR 0.1",
        "KD LR 0.1",
        "SKD DIRECTION_WEIGHT 0 LR 0.1",
        "SKD DIRECTION_WEIGHT 0.01 LR 0.1",
    ]
    assert [cell.runs[0].config.SKD.LOSS.DIRECTION_WEIGHT for cell in part.cells[2:]] == [0, 0.01]
    assert part.reference_of(part.cells[3], "KD") is part.cells[1]


def test_a_run_that_two_parts_share_is_one(project):
    project.write(parts=[{"methods": ["NONE", "KD"]}, {"methods": ["KD"], "seeds": [2, 3]}])
    grid = project.read()
    assert len(grid.runs) == 5 and [run.seed for run in grid.runs] == [1, 1, 2, 2, 3]


def test_published_numbers_find_their_cells(project):
    assert [cell.published for cell in project.read().parts[0].cells] == [None, 70.5]


def test_a_grid_begins_with_another(project):
    other = project.folder / "other.yaml"
    other.write_text("_BASE_: grid.yaml\nmethods: [SKD]\n", encoding="utf-8")
    (run, _) = read_grid(other, {}, project.folder).runs
    assert run.config.DISTILLER.TYPE == "SKD" and run.config.SOLVER.EPOCHS == 2


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_a_grid_that_ships_resolves(path, monkeypatch):
    monkeypatch.setenv("SHARED_DIR", "shared")
    grid = read_grid(path, {}, PROJECT)
    assert all(cell.runs for part in grid.parts for cell in part.cells)
    if path.stem == "cifar100":
        check_published(grid)


def check_published(grid):
    """Whether the numbers of the published table are README's."""
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    cells = {(cell.pair, cell.method): cell.published for cell in grid.parts[1].cells}
    pairs = list(dict.fromkeys(pair for pair, _ in cells))
    for method in ("FitNet", "RKD", "CRD", "OFD", "ReviewKD", "KD", "CLKD", "DKD", "MLKD", "SDD"):
        assert f"| {method} | {' | '.join(f'{cells[pair, method]:.2f}' for pair in pairs)} |" in readme
