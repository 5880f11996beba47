"""Curves: which runs are one line, what the bands are, what lines are called."""

import numpy as np
import pytest

from mdistiller.errors import UserError
from tools.pictures.curves import band, group, label_of, names_of, read_run
from tools.pictures.inputs import metrics_at
from tools.plot import main

TIMES = [f"2026-01-01-00-00-0{number}" for number in range(9)]


@pytest.fixture
def runs(project):
    """Two seeds of KD, one of SKD, and one of SKD with another batch."""
    kinds = [("KD", 1, {}), ("KD", 2, {}), ("SKD", 1, {}), ("SKD", 1, {"TYPE": "other"})]
    folders = []
    for time, (method, seed, keys) in zip(TIMES, kinds, strict=False):
        values = np.random.default_rng(len(folders)).normal(50, 5, 4).round(3)
        folders.append(project.write_metrics(f"{time}_resnet20_resnet8_{method}", values, seed, **keys))
    return folders


def test_a_band_is_mean_and_deviation_of_a_sample():
    values = np.array([[1.0, 4.0, 9.0], [2.0, 8.0, 3.0], [6.0, 5.0, 5.0]])
    epochs, mean, deviation = band([dict(enumerate(row, 1)) for row in values])
    assert epochs == [1, 2, 3]
    np.testing.assert_allclose(mean, np.mean(values, 0))
    np.testing.assert_allclose(deviation, np.sqrt(((values - values.mean(0)) ** 2).sum(0) / 2))


def test_a_band_ends_where_the_first_of_its_runs_does():
    epochs, mean, _ = band([{1: 2.0, 2: 4.0}, {1: 4.0, 2: 8.0, 3: 100.0}])
    assert epochs == [1, 2] and mean.tolist() == [3.0, 6.0]


def test_runs_that_differ_in_their_seeds_are_one_line(runs):
    groups = group([read_run(folder / "metrics.csv") for folder in runs])
    assert [len(members) for members in groups] == [2, 1, 1]


def test_lines_are_called_by_what_differs(runs):
    groups = group([read_run(folder / "metrics.csv") for folder in runs])
    assert names_of(groups) == ["KD", "SKD, TYPE unset", "SKD, TYPE other"]


def test_a_run_is_found_by_its_name_and_by_each_of_its_folders(project, runs):
    name = f"{TIMES[0]}_resnet20_resnet8_KD"
    weights = project.utils / "model_distillation_pth" / name
    weights.mkdir(parents=True)
    expected = runs[0] / "metrics.csv"
    assert {metrics_at(str(text), project.root) for text in (name, runs[0], expected, weights)} == {expected}


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_sheet_is_the_same_file_each_time(project, runs, suffix, tmp_path):
    written = []
    for name in ("first", "second"):
        path = tmp_path / f"{name}.{suffix}"
        assert project.run(main, "curves", *runs, "--output", path) == 0, project.err
        written.append(path.read_bytes())
    assert written[0] == written[1] and len(written[0]) > 1000


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "does not begin with names of columns"),
        ("a,b\n1,2\n", "does not begin with names of columns"),
        ("epoch,epoch\n1,2\n", "does not begin with names of columns"),
        ("epoch,test_top1\n", "has no epoch yet"),
        ("epoch,test_top1\n1,2\n2\n", "line 3 of"),
        ("epoch,test_top1\n1,many\n", "line 2 of"),
        ("epoch,test_top1\n,3\n", "line 2 of"),
        ("epoch,test_top1\n1,\n", "no values of test_top1"),
    ],
)
def test_a_table_that_is_none_is_one_line(project, tmp_path, text, part):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    project.fails_with(part, main, "curves", path, "--output", "a.png")


def test_a_table_of_bytes_is_one_line(project, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"\xff\xfe\0")
    project.fails_with("is not text in UTF-8", main, "curves", path, "--output", "a.png")


def test_an_unknown_run_names_the_nearest(project, runs):
    with pytest.raises(UserError, match="nearest: '2026-01-01-00-00-02_resnet20_resnet8_SKD'"):
        metrics_at("2026-01-01-00-00-02_resnet20_resnet8_SK", project.root)


def test_an_unknown_column_names_the_nearest(project, runs):
    project.fails_with("nearest: 'test_top1'", main, "curves", runs[0], "--metric", "test_top", "--output", "a.png")


def test_axes_have_units():
    assert [label_of(name) for name in ("test_top1", "validation_loss", "loss_kd")] == [
        "test top-1 accuracy, %",
        "validation loss, nats",
        "loss_kd",
    ]
