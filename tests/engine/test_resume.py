"""Going on with a run: which one, whether it is the same, and what is said where it is not."""

import csv
import signal

import pytest
import torch
from PIL import Image

from mdistiller.distillers import Vanilla
from mdistiller.engine import provenance
from mdistiller.engine import run as run_module
from mdistiller.engine import trainer as trainer_module
from mdistiller.engine.checkpoint import Checkpointer
from mdistiller.engine.cli import distillation_main, training_main
from mdistiller.engine.owner import owned
from mdistiller.engine.signals import Stopped
from tests.engine.conftest import TINY
from tests.engine.test_identity import folder_of

TRAIN = ["--selected_model", "resnet8", "--device", "cpu", *TINY]  # three steps an epoch, two epochs


@pytest.fixture
def stop(monkeypatch):
    """Have the next run be stopped when it is to evaluate for the given time."""

    def at(call):
        real, calls = trainer_module.evaluate, []

        def evaluate(*arguments, **options):
            calls.append(1)
            if len(calls) == call:
                monkeypatch.setattr(trainer_module, "evaluate", real)
                raise Stopped(signal.SIGTERM)
            return real(*arguments, **options)

        monkeypatch.setattr(trainer_module, "evaluate", evaluate)

    return at


@pytest.fixture
def stopped(script, stop):
    """The weights' folder of a run that was stopped before it evaluated the second of two epochs."""
    stop(2)
    assert script(training_main, *TRAIN).status == 143, script.err
    return next(script.utils.glob("model_pth/*/"))


def epochs_of(script):
    (metrics,) = script.utils.glob("*_train_log/*/metrics.csv")
    with metrics.open() as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def test_the_newest_run_goes_on_in_its_own_folders(script, stopped):
    assert script(training_main, "--resume").status == 0, script.err
    assert [path.parent for path in script.utils.glob("model_pth/*/best.pth")] == [stopped]
    assert epochs_of(script) == ["1", "2"]
    (log,) = script.utils.glob("model_train_log/*.log")
    assert "Stopped: stopped by SIGTERM in epoch 2; 3 of its 3 steps" in log.read_text()
    assert "===== Logging Session Resumed in epoch 2 after 3 of 3 steps =====" in log.read_text()


@pytest.mark.parametrize("form", ["{0.name}", "{0}", "{0}/last.pth"])
def test_a_run_is_named_by_its_name_its_folder_or_its_state(script, stopped, form):
    assert script(training_main, "--resume", form.format(stopped)).status == 0, script.err
    assert epochs_of(script) == ["1", "2"]


def test_the_printed_command_resumes(script, stopped):
    flags = script.err.split("Resume:")[1].replace("\\\n", "").split()  # as a shell joins lines
    assert flags[0] == "python" and flags[1].endswith("train.py")
    assert script(training_main, *flags[2:]).status == 0 and epochs_of(script) == ["1", "2"]


def test_a_run_that_has_ended_says_so(script, stopped):
    script(training_main, "--resume")
    assert script(training_main, *TRAIN, "--resume").status == 0 and "has ended: 2 epochs" in script.out
    assert epochs_of(script) == ["1", "2"]


def test_a_run_that_has_ended_goes_on_with_more_epochs(script):
    script(training_main, *TRAIN)
    assert script(training_main, "--resume", "SOLVER.EPOCHS", "3").status == 0, script.err
    assert epochs_of(script) == ["1", "2", "3"]


def test_without_a_run_there_is_nothing_to_resume(script):
    script(training_main, "--resume").fails_with("no run to resume", "leave out --resume")


def test_a_run_that_is_not_there_is_one_line(script, stopped):
    script(training_main, "--resume", "mine").fails_with("no run 'mine'", f"as {stopped.name}")


def test_what_differs_is_listed(script, stopped):
    pairs = "SOLVER.BATCH_SIZE 8 EXPERIMENT.SEED 1 SOLVER.LR 0.2 LOG.SAVE_STEPS 1 DATASET.NUM_WORKERS 1".split()
    script(training_main, "--resume", *pairs)
    script.fails_with("SOLVER.BATCH_SIZE 8, was 16", "EXPERIMENT.SEED 1, was 2021", "SOLVER.LR 0.2, was 0.1")
    assert "LOG" not in script.err and "NUM_WORKERS" not in script.err


def test_stages_may_change_where_they_have_not_passed(script, stopped):
    script(training_main, "--resume", "SOLVER.LR_DECAY_STAGES", "[1,9]").fails_with("SOLVER.LR_DECAY_STAGES [1, 9]")
    assert script(training_main, "--resume", "SOLVER.LR_DECAY_STAGES", "[2,9]").status == 0, script.err


def test_fewer_epochs_than_are_done_are_refused(script):
    script(training_main, *TRAIN)
    script(training_main, "--resume", "SOLVER.EPOCHS", "1").fails_with("SOLVER.EPOCHS 1, and 2 are done")


def test_the_newest_run_of_the_same_settings_is_found_among_others(script, stopped):
    script(training_main, *TRAIN, "SOLVER.LR", "0.2")
    assert script(training_main, *TRAIN, "--resume").status == 0, script.err
    assert (stopped / "best.pth").exists() and "Resumed in epoch 2" in script.out


def test_other_networks_are_another_run(script, stopped):
    script(training_main, "--selected_model", "resnet14", *TINY, "--resume").fails_with("STUDENT resnet14, was resnet8")


def test_other_images_are_another_run(script, stop, tmp_path):
    data = folder_of(tmp_path / "data", 0)
    stop(1)
    script(training_main, "--selected_model", "resnet8", *data, "SOLVER.EPOCHS", "1")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "data/test/cat/more.png")
    script(training_main, "--resume").fails_with("the images have changed", "start a new run")


def test_images_that_moved_are_the_same_run(script, stop, tmp_path):
    data = folder_of(tmp_path / "data", 0)
    stop(1)
    script(training_main, "--selected_model", "resnet8", *data, "SOLVER.EPOCHS", "1")
    (tmp_path / "data").rename(tmp_path / "moved")
    assert script(training_main, "--resume", "DATASET.ROOT", tmp_path / "moved").status == 0, script.err


def test_another_teacher_is_another_run(script, stop):
    script(training_main, *TRAIN)
    (teacher,) = script.utils.glob("model_pth/*/best.pth")
    stop(1)
    pair = "--selected_student resnet8 --selected_teacher resnet8 --selected_distiller KD".split()
    script(distillation_main, *pair, *TINY, "--teacher_weights", teacher)
    content = torch.load(teacher, weights_only=True)
    content["model"]["fc.bias"] += 1
    torch.save(content, teacher)
    script(distillation_main, "--resume").fails_with("the teacher's file has changed")


def test_a_run_that_goes_on_elsewhere_is_one_line(script, stopped, monkeypatch):
    monkeypatch.setattr("fcntl.lockf", lambda *_: (_ for _ in ()).throw(BlockingIOError()))
    script(training_main, "--resume").fails_with(f"run {stopped.name} goes on in", "stop that process")


def test_no_other_process_can_take_a_run_while_it_is_resumed(script, stopped, monkeypatch):
    folders = []
    monkeypatch.setattr(run_module, "owned", lambda folder: (folders.append(folder), owned(folder))[1])
    script(training_main, "--resume")
    assert folders == [stopped]


def test_a_damaged_state_falls_back_to_the_one_before(script, stopped):
    last = stopped / "last.pth"
    last.write_bytes(last.read_bytes()[:-100])
    assert script(training_main, "--resume").status == 0, script.err
    told = " ".join(line.partition(" - ")[2].strip() for line in script.out.splitlines())
    assert "Warning: weights" in told and "going on from the one before it" in told
    assert "Resumed in epoch 2 after 0 of 3 steps" in script.out and epochs_of(script) == ["1", "2"]


def test_states_that_are_all_damaged_are_one_line(script, stopped):
    for path in (stopped / "last.pth", stopped / "previous.pth"):
        path.write_bytes(b"PK")
    script(training_main, "--resume").fails_with("last.pth", "the run cannot go on, start a new one")


def test_weights_are_no_state(script, stopped):
    for path in (stopped / "last.pth", stopped / "previous.pth"):
        torch.save({"model": {"a": torch.ones(1)}}, path)
    script(training_main, "--resume").fails_with("hold no state of a training")


@pytest.mark.parametrize("part", ["distiller", "optimizer", "generators", "meter", "best"])
def test_a_state_of_another_form_is_one_line(script, stopped, part):
    content = torch.load(stopped / "last.pth", weights_only=True)
    content["training"][part] = {"other": 1}
    torch.save(content, stopped / "last.pth")
    script(training_main, "--resume").fails_with(f"the state of run {stopped.name} does not fit it", "start a new run")


def test_a_run_that_saved_nothing_begins_anew(script, stopped):
    for path in (stopped / "last.pth", stopped / "previous.pth"):
        path.unlink()
    assert script(training_main, "--resume").status == 0, script.err
    assert "New Logging Session Started" in script.out and epochs_of(script) == ["1", "2"]


def test_other_code_is_a_warning(script, stopped, monkeypatch):
    versions = run_module.describe_versions()
    changed = {"versions": versions["versions"] | {"torch": "9.9"}}
    for module in (run_module, provenance):
        monkeypatch.setattr(module, "describe_versions", lambda: changed)
    assert script(training_main, "--resume").status == 0
    assert "Warning: the code has changed since the run was stopped: torch 9.9, was" in script.out


def test_the_state_is_saved_as_often_as_asked(script, monkeypatch):
    places, save = [], Checkpointer.save

    def remember(self, trainer):
        save(self, trainer)
        places.append(self.place)

    monkeypatch.setattr(Checkpointer, "save", remember)
    script(training_main, *TRAIN, "LOG.SAVE_STEPS", "2")
    assert places == [(0, 0, 0), (0, 0, 2), (0, 1, 0), (0, 1, 2), (0, 2, 0)]
    places.clear()
    script(training_main, *TRAIN, "LOG.SAVE_MINUTES", "1e-9")
    assert places == [(0, epoch, step) for epoch in (0, 1) for step in range(4)] + [(0, 2, 0)]


def test_the_demo_goes_on_where_it_was_stopped(script, stop):
    flags = ["--demo", *TINY, "DISTILLER.TEACHER", "resnet14", "DISTILLER.STUDENT", "resnet8"]
    stop(4)  # the second epoch of the distillation
    assert script(distillation_main, *flags).status == 143
    assert script(distillation_main, *flags, "--resume").status == 0, script.err
    assert "Resumed in epoch 2" in script.out and "student distilled by SKD" in script.out
    assert len(list(script.utils.glob("*_log/*/metrics.csv"))) == 3
    assert script(distillation_main, *flags, "--resume").status == 0 and script.out.count("has ended") == 2
    assert len(list(script.utils.glob("*_log/*/metrics.csv"))) == 3


def poison(monkeypatch, *steps):
    """Have the losses of the given steps, from 1, be not a number, and the batch norms see numbers that are not."""
    forward, calls = Vanilla.forward_train, []

    def forward_train(self, image, target, **kwargs):
        calls.append(1)
        bad = len(calls) in steps
        logits, losses = forward(self, image * (float("nan") if bad else 1.0), target, **kwargs)
        return logits, losses

    monkeypatch.setattr(Vanilla, "forward_train", forward_train)


def test_a_gradient_that_is_not_finite_stops_the_run_with_its_step(script, monkeypatch):
    poison(monkeypatch, 5)
    script(training_main, *TRAIN).fails_with(
        "loss_ce at step 2 (largest logit", "not finite in epoch 2", "epoch 1 is kept"
    )
    (last,) = script.utils.glob("model_pth/*/last.pth")
    content = torch.load(last, weights_only=True)
    assert content["meta"]["epoch"] == 1 and all(value.isfinite().all() for value in content["model"].values())


def test_steps_that_are_not_finite_are_skipped_up_to_a_number_in_a_row(script, monkeypatch):
    poison(monkeypatch, 2, 3, 5)
    assert script(training_main, *TRAIN, "SOLVER.SKIP_NONFINITE", "2").status == 0, script.err
    (last,) = script.utils.glob("model_pth/*/last.pth")
    assert all(value.isfinite().all() for value in torch.load(last, weights_only=True)["model"].values())


def test_more_steps_in_a_row_stop_the_run(script, monkeypatch):
    poison(monkeypatch, 1, 2, 3)
    script(training_main, *TRAIN, "SOLVER.SKIP_NONFINITE", "2").fails_with(
        "loss_ce at step 3", "is not finite in epoch 1"
    )


def test_skipping_has_no_effect_where_fp16_skips_by_itself(script):
    script(training_main, *TRAIN, "SOLVER.AMP", "fp16", "SOLVER.SKIP_NONFINITE", "2").fails_with(
        "SKIP_NONFINITE", "fp16"
    )


def test_what_the_student_began_with_is_not_needed_to_go_on(script, stop, tmp_path):
    script(training_main, *TRAIN)
    (best,) = script.utils.glob("model_pth/*/best.pth")
    first = best.rename(tmp_path / "first.pth")
    stop(1)
    assert script(training_main, *TRAIN, "DISTILLER.STUDENT_WEIGHTS", first).status == 143, script.err
    first.unlink()
    assert script(training_main, "--resume").status == 0, script.err


def test_another_file_than_the_student_began_with_is_another_run(script, stop, tmp_path):
    script(training_main, *TRAIN)
    (best,) = script.utils.glob("model_pth/*/best.pth")
    stop(1)
    script(training_main, *TRAIN, "DISTILLER.STUDENT_WEIGHTS", best)
    content = torch.load(best, weights_only=True)
    content["model"]["fc.bias"] += 1
    torch.save(content, tmp_path / "other.pth")
    script(training_main, "--resume", "DISTILLER.STUDENT_WEIGHTS", tmp_path / "other.pth")
    script.fails_with("the file that the student begins with has changed", "start a new run")


def test_a_cosine_falls_over_the_epochs_that_a_run_began_with(script, stop):
    stop(2)
    script(training_main, *TRAIN, "SOLVER.SCHEDULER", "cosine")
    script(training_main, "--resume", "SOLVER.EPOCHS", "3").fails_with("SOLVER.EPOCHS 3, was 2", "learning rate falls")
