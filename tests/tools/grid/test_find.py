"""Which runs are recognised as a grid's, and what is read of them."""

import csv

import pytest
import torch

from mdistiller.models import build_model
from tools.grid.find import FINISHED, MISSING, RUNNING, STOPPED, Finder, outcome_of
from tools.grid.rows import tables_of


def states(project, **typed):
    finder = Finder()
    return [finder.look(run).state for run in project.read(**typed).runs]


def test_finished_runs_are_recognised(trained):
    assert states(trained) == [FINISHED] * 4


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.EPOCHS", "3"),
        ("SOLVER.LR", "0.01"),
        ("SOLVER.BATCH_SIZE", "8"),
        ("DATASET.SYNTHETIC.TEST_IMAGES", "40"),
        ("DATASET.SYNTHETIC.SEED", "1"),
        ("DATASET.AUGMENT", "strong"),
        ("EXPERIMENT.TAG", "mine"),
    ],
)
def test_runs_of_other_settings_are_not_taken_for_them(trained, key, value):
    assert states(trained, **{key: value}) == [MISSING] * 4


def test_runs_of_another_teacher_s_weights_are_not_taken_for_them(trained, tmp_path, monkeypatch):
    torch.manual_seed(1)
    torch.save(build_model("cifar100", "resnet14", 36).state_dict(), tmp_path / "other.pth")
    monkeypatch.setenv("TEACHER", str(tmp_path / "other.pth"))
    assert states(trained) == [FINISHED, MISSING] * 2


def test_what_does_not_change_a_run_is_free(trained):
    assert states(trained, **{"LOG.SAVE_MINUTES": "3", "DATASET.NUM_WORKERS": "1"}) == [FINISHED] * 4


def test_an_outcome_is_what_metrics_csv_says(trained):
    finder, run = Finder(), trained.read().runs[1]
    found = finder.look(run)
    outcome = outcome_of(found)
    rows = list(csv.DictReader(found.files.metrics.open(encoding="utf-8")))
    curve = [float(row["test_top1"]) for row in rows]
    assert (outcome.curve, outcome.best, outcome.last) == (curve, max(curve), curve[-1])
    assert outcome.epoch == 1 + curve.index(max(curve)) and outcome.seconds is not None


def test_with_validation_images_the_test_images_tell_the_best(project):
    (run, *_) = project.read(**{"DATASET.VAL_FRACTION": "0.25"}).runs
    project.train(run)
    outcome = outcome_of(Finder().look(run))
    *_, line = (line for line in project.script.out.splitlines() if " - Test Loss: " in line)
    assert f"Top-1 Accuracy: {outcome.best:.2f}," in line
    assert outcome.last is None and len(outcome.curve) == 2


def test_a_run_without_its_log_s_last_line_is_stopped_or_under_way(project, monkeypatch):
    (run, *_) = project.read().runs
    project.train(run)
    files = Finder().look(run).files
    log = files.log.read_text(encoding="utf-8").splitlines()
    files.log.write_text("\n".join(line for line in log if "Learning Time" not in line), encoding="utf-8")
    found = Finder().look(run)
    assert (found.state, found.epochs, found.files.name) == (STOPPED, 2, files.name)
    monkeypatch.setattr("tools.grid.find.is_owned", lambda folder: True)
    assert Finder().look(run).state == RUNNING


def test_a_damaged_file_of_a_run_does_not_stop_the_others(project):
    run, other = project.read().runs[:2]
    project.train(run)
    metrics = Finder().look(run).files.metrics
    for text in ("", "epoch\n1\n", "\0\0", "epoch,test_top1\n1,x\n2,y\n"):
        metrics.write_text(text, encoding="utf-8")
        tables, wrong = tables_of(project.read(), Finder(), {})
        states = [found.state for found in tables[0].rows[0].found]
        assert (states[0] == STOPPED and not wrong) or (states[0] == FINISHED and "is damaged" in wrong[0])
    metrics.unlink()
    assert Finder().look(run).state == STOPPED and Finder().look(other).state == MISSING
