"""The training loop: schedule, records, the best student, and stopping on a loss that is not finite."""

import csv
import math
import re

import pytest
import torch

from mdistiller.distillers import Vanilla
from mdistiller.engine import run as run_module
from mdistiller.engine import trainer as trainer_module
from mdistiller.engine.cfg import CFG
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100
from mdistiller.engine.metrics import Meter, NotFinite, Result, evaluate
from mdistiller.engine.solver import learning_rate
from mdistiller.models import build_model
from tests.engine.conftest import TINY


def only(folder, pattern):
    (path,) = folder.glob(pattern)
    return path


def train(script, *pairs):
    return script(training_main, "--selected_model", "resnet8", "--device", "cpu", *TINY, *pairs)


def rows(script):
    with only(script.utils, "*_log/*/metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_learning_rate_falls_after_each_stage():
    solver = CFG.SOLVER.clone()
    rates = [learning_rate(solver, epoch) for epoch in (1, 150, 151, 180, 181, 210, 211, 240)]
    assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5])


def test_meter_averages_over_images_not_batches():
    meter = Meter()
    logits = torch.eye(3)
    meter.update({"a": torch.tensor(1.0), "b": torch.tensor(0.5)}, logits, torch.tensor([0, 1, 2]))
    meter.update({"a": torch.tensor(5.0), "b": torch.tensor(0.5)}, logits[:1], torch.tensor([2]))
    result, terms = meter.read()
    assert terms == {"a": 2.0, "b": 0.5}
    assert result == Result(loss=2.5, top1=75.0, top5=100.0, images=4)


def test_meter_names_the_term_that_failed_first():
    meter, logits, target = Meter(), torch.eye(3), torch.arange(3)
    meter.update({"a": torch.tensor(1.0), "b": torch.tensor(1.0)}, logits, target)
    meter.update({"a": torch.tensor(1.0), "b": torch.tensor(torch.inf)}, logits, target)
    meter.update({"a": torch.tensor(torch.nan), "b": torch.tensor(torch.nan)}, logits, target)
    with pytest.raises(NotFinite, match="b"):
        meter.read()


def test_evaluation_does_not_depend_on_the_batches():
    torch.manual_seed(0)
    network, images, target = build_model("cifar100", "resnet8", 10), torch.randn(10, 3, 32, 32), torch.arange(10)
    whole = evaluate(network, [{"image": images, "target": target}])
    parts = evaluate(network, [{"image": images[i : i + 3], "target": target[i : i + 3]} for i in range(0, 10, 3)])
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert (parts.top1, parts.top5, parts.images) == (whole.top1, whole.top5, 10)
    assert network.training


def test_log_keeps_the_published_wording(script):
    train(script)
    lines = only(script.utils, "model_train_log/*.log").read_text().splitlines()
    number = r"\d+\.\d+"
    results = [
        rf"Train Loss: {number}, Top-1 Accuracy: {number}, Top-5 Accuracy: {number}",
        rf"Test Loss: {number}, Top-1 Accuracy: {number}, Top-5 Accuracy: {number}",
    ]
    head = [
        "===== New Logging Session Started =====",
        "Running main with student=resnet8, teacher=None, distiller=Vanilla",
        r"Data:      synthetic of seed 0, \d+ classes; 48 training, 32 test images.*",
    ]
    epochs = [
        *("Epoch: 1 / 2", *results, rf"Epoch 1 took {number} s, [\d,]+ images a second; \d+ s left"),
        *("Epoch: 2 / 2", *results, rf"Epoch 2 took {number} s, [\d,]+ images a second"),
        rf"Best Test Top-1 Accuracy: {number}, epoch [12], .*best\.pth",
        r"Learning Time: \d+m \d+s",
    ]
    for line, pattern in zip([*lines[:3], *lines[-10:]], [*head, *epochs], strict=True):
        assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}} - {pattern}", line), line


def test_metrics_have_a_row_an_epoch_and_a_column_a_loss_term(script):
    train(script, "SOLVER.LR_DECAY_STAGES", "[1]")
    first, second = rows(script)
    assert list(first) == [
        *("epoch", "lr", "train_loss", "train_top1", "train_top5", "test_loss", "test_top1", "test_top5"),
        *("images_per_second", "seconds", "teacher_top1", "best_top1", "loss_ce"),
    ]
    assert first["teacher_top1"] == "" and first["best_top1"] == first["test_top1"]
    assert float(second["best_top1"]) == max(float(row["test_top1"]) for row in (first, second))
    assert (first["epoch"], second["epoch"]) == ("1", "2")
    assert (float(first["lr"]), float(second["lr"])) == pytest.approx((0.1, 0.01))
    assert float(first["train_loss"]) == pytest.approx(float(first["loss_ce"]))


def test_metrics_have_six_significant_digits(script, monkeypatch):
    monkeypatch.setattr(trainer_module, "evaluate", lambda *_, **__: Result(0.0000123456789, 100 / 3, 200 / 3, 32))
    train(script, "SOLVER.LR", "0.012345678")
    for row in rows(script):
        assert (row["test_loss"], row["test_top1"], row["test_top5"]) == ("1.23457e-05", "33.3333", "66.6667")
        assert row["lr"] == "0.0123457"
        assert all(len(re.sub(r"e.*|\D|^[0.]+", "", value)) <= 6 for value in row.values())


def test_metrics_and_tensorboard_have_the_teachers_accuracy(script, monkeypatch):
    trainer = trainer_module.Trainer
    monkeypatch.setattr(run_module, "Trainer", lambda *args: trainer(*args[:5], args[5] | {"teacher_top1": 72.0}))
    train(script)
    assert [row["teacher_top1"] for row in rows(script)] == ["72.0", "72.0"]
    assert [value.value for value in events(script).Scalars("test/teacher_top1")] == [72.0, 72.0]


def test_best_that_lost_the_published_name_is_told_once(script, monkeypatch):
    top1 = iter([90.0, 50.0, 60.0, 70.0])
    monkeypatch.setattr(trainer_module, "evaluate", lambda *_, **__: Result(1.0, next(top1), 90.0, 32))
    train(script, "SOLVER.EPOCHS", "1")
    train(script, "SOLVER.EPOCHS", "3")
    assert script.out.count(" - Kept ") == 1 and "top-1 90.00" in script.out


def events(script):
    """What TensorBoard reads of the one run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(only(script.utils, "model_train_log/*/")))
    found.Reload()
    return found


def test_tensorboard_shows_the_config_and_hyper_parameters_without_another_folder(script):
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG, parse_session_start_info_plugin_data

    train(script)
    folder = only(script.utils, "model_train_log/*/")
    assert sorted(path.name.split(".")[0] for path in folder.iterdir()) == ["events", "metrics"]
    (text,) = events(script).Tensors("config/text_summary")
    assert "    BATCH_SIZE: 16\n" in text.tensor_proto.string_val[0].decode()
    content = events(script).SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    values = parse_session_start_info_plugin_data(content).hparams
    assert values["SOLVER.BATCH_SIZE"].number_value == 16
    assert values["DISTILLER.STUDENT"].string_value == "resnet8"
    assert values["SOLVER.COMPILE"].string_value == "False"


def test_tensorboard_events_hold_every_scalar(script):
    train(script)
    assert set(events(script).Tags()["scalars"]) == {
        *("train/loss", "train/top1", "train/top5", "test/loss", "test/top1", "test/top5", "test/best_top1"),
        *("train/lr", "train/images_per_second", "train/seconds", "train/loss_ce"),
    }


def test_same_seed_gives_the_same_numbers_and_another_seed_others(script, tmp_path):
    def losses(seed):
        script.utils = tmp_path / str(seed)
        train(script, "EXPERIMENT.SEED", seed.split("-")[0])
        return [(row["train_loss"], row["test_loss"]) for row in rows(script)]

    assert losses("1-a") == losses("1-b") != losses("2-a")


def test_best_is_the_best_of_the_whole_run(script, monkeypatch):
    top1 = iter([50.0, 40.0, 45.0, 50.0])
    monkeypatch.setattr(trainer_module, "evaluate", lambda *_, **__: Result(1.0, next(top1), 90.0, 32))
    assert train(script, "SOLVER.EPOCHS", "4").status == 0
    run = only(script.utils, "model_pth/*/")
    best = torch.load(run / "best.pth", weights_only=True)
    last = torch.load(run / "last.pth", weights_only=True)
    assert (best["meta"]["epoch"], best["meta"]["top1"]) == (1, 50.0)
    assert last["meta"]["epoch"] == 4 and last["training"]["best"]["epoch"] == 1
    assert (script.utils / "model_pth" / "best_model_weights_resnet8.pth").read_bytes() == (
        run / "best.pth"
    ).read_bytes()


def test_last_checkpoint_holds_what_the_next_epoch_depends_on(script):
    train(script)
    last = torch.load(only(script.utils, "model_pth/*/last.pth"), weights_only=True)
    parts = "finished initial_finished best kept distiller optimizer average generators meter seconds untold log"
    assert set(last["training"]) == set(parts.split())
    momenta = last["training"]["optimizer"]["optimizer"]["state"]
    assert len(momenta) == len(list(build_model("cifar100", "resnet8", 9).parameters()))
    student = {f"student.{name}": value for name, value in last["model"].items()}
    assert list(last["training"]["distiller"]) == list(student)
    assert all(torch.equal(value, student[name]) for name, value in last["training"]["distiller"].items())


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_epoch(script, monkeypatch):
    forward = Vanilla.forward_train

    def explode(self, image, target, epoch, **kwargs):
        logits, losses = forward(self, image, target)
        return logits, losses | {"loss_extra": losses["loss_ce"] * (float("nan") if epoch == 2 else 1.0)}

    monkeypatch.setattr(Vanilla, "forward_train", explode)
    train(script, "SOLVER.EPOCHS", "3").fails_with(
        "loss_extra at step 1 (largest logit ", "is not finite in epoch 2", "last.pth"
    )
    last = torch.load(only(script.utils, "model_pth/*/last.pth"), weights_only=True)
    assert last["meta"]["epoch"] == 1 and all(value.isfinite().all() for value in last["model"].values())
    assert "Stopped: " in only(script.utils, "model_train_log/*.log").read_text()


def judged_by(losses, monkeypatch):
    """Have the epochs of a run be judged by results of these losses, and of higher accuracy from one to the next."""
    results = iter([Result(loss, 10.0 * place, 90.0, 32) for place, loss in enumerate(losses, 1)])
    monkeypatch.setattr(trainer_module, "evaluate", lambda *_, **__: next(results))


def test_a_test_loss_that_is_not_finite_is_a_warning_and_never_the_best(script, monkeypatch):
    judged_by([math.inf, 1.0, math.nan], monkeypatch)
    assert train(script, "SOLVER.EPOCHS", "3").status == 0, script.err
    assert script.out.count("Warning: the test loss is not finite") == 2
    assert torch.load(only(script.utils, "model_pth/*/best.pth"), weights_only=True)["meta"]["epoch"] == 2
    assert [(row["test_loss"], row["best_top1"]) for row in rows(script)] == [
        *(("inf", ""), ("1.0", "20.0"), ("nan", "20.0")),
    ]


def test_a_run_without_any_finite_test_loss_says_so_and_keeps_the_last(script, monkeypatch):
    judged_by([math.inf, math.inf], monkeypatch)
    train(script).fails_with("the test loss was finite after none of 2 epochs", "last.pth", "lower SOLVER.LR")
    assert only(script.utils, "model_pth/*/last.pth") and not list(script.utils.rglob("best*.pth"))


def test_weights_that_are_not_finite_are_not_saved(script, monkeypatch):
    def diverge(network, *_, **__):
        network.fc.weight.data.fill_(math.nan)
        return Result(math.nan, 1.0, 5.0, 32)

    monkeypatch.setattr(trainer_module, "evaluate", diverge)
    train(script).fails_with("the student's fc.weight is not finite in epoch 1", "lower SOLVER.LR")
    assert not list(script.utils.rglob("best*.pth"))
    last = torch.load(only(script.utils, "model_pth/*/last.pth"), weights_only=True)
    assert last["meta"]["epoch"] == 0 and last["model"]["fc.weight"].isfinite().all()


@pytest.fixture
def exploding(monkeypatch):
    """A learning rate beyond what a config may hold."""
    monkeypatch.setattr(trainer_module, "learning_rate", lambda *_: 1e30)


def test_learning_rate_that_explodes_stops_the_run(script, exploding):
    train(script, "SOLVER.EPOCHS", "5").fails_with("not finite in epoch", "lower SOLVER.LR")


@pytest.mark.parametrize("method", list(CIFAR100.distillers.values()))
def test_method_that_diverges_stops_in_one_line(script, exploding, method):
    teacher = script.utils / "teacher.pth"
    torch.save(build_model("cifar100", "resnet8", 36).state_dict(), teacher)
    flags = "--selected_student resnet8 --selected_teacher resnet8 --selected_distiller".split()
    script(distillation_main, *flags, method, "--teacher_weights", teacher, *TINY)
    script.fails_with("not finite in ", "lower SOLVER.LR")


def test_meter_takes_loss_terms_that_come_later():
    meter, logits, target = Meter(), torch.eye(3), torch.arange(3)
    meter.update({"a": torch.tensor(1.0)}, logits, target)
    meter.update({"b": torch.tensor(2.0), "a": torch.tensor(3.0)}, logits, target)
    assert meter.read()[1] == {"a": 2.0, "b": 1.0}


def test_metrics_take_a_column_that_comes_later(script, monkeypatch):
    forward = Vanilla.forward_train

    def more(self, image, target, epoch, **kwargs):
        logits, losses = forward(self, image, target)
        return logits, losses if epoch == 1 else losses | {"loss_late": 0.5 * losses["loss_ce"]}

    monkeypatch.setattr(Vanilla, "forward_train", more)
    assert train(script, "SOLVER.EPOCHS", "3").status == 0, script.err
    first, second, third = rows(script)
    assert first["loss_late"] == "" and float(second["loss_late"]) > 0 and float(third["loss_late"]) > 0


def test_distillation_leaves_out_the_teacher_from_the_checkpoint(script, tmp_path):
    train(script)
    teacher = script.utils / "model_pth" / "best_model_weights_resnet8.pth"
    pair = "--selected_student resnet8 --selected_teacher resnet8 --selected_distiller KD".split()
    assert script(distillation_main, *pair, "--teacher_weights", teacher, *TINY).status == 0
    last = torch.load(only(script.utils, "model_distillation_pth/*/last.pth"), weights_only=True)
    assert {name.split(".")[0] for name in last["training"]["distiller"]} == {"student"}
    assert last["meta"]["teacher"] == "resnet8"


def distilled(script, method, pairs, epochs, state=None, monkeypatch=None):
    """The state after training a distiller up to `epochs`, from `state` where there is one."""
    states = []

    class Recording(trainer_module.Trainer):
        def fit(self):
            if state is not None:
                self.load_state_dict(state)
            result = super().fit()
            states.append({key: value for key, value in self.state_dict().items() if key not in LEFT_OUT})
            return result

    monkeypatch.setattr(run_module, "Trainer", Recording)
    flags = ["--selected_student", "resnet8", "--selected_teacher", "resnet8", "--selected_distiller", method]
    weights = ["--teacher_weights", script.utils / "teacher.pth"]
    script(distillation_main, *flags, *weights, *TINY, "SOLVER.EPOCHS", epochs, "SOLVER.LR_DECAY_STAGES", "[1]", *pairs)
    assert script.status == 0, script.err
    return states[0]


LEFT_OUT = "seconds", "log", "kept"  # of a state, which differ between runs of the same training


def flat(node, prefix=""):
    """The leaves of nested dicts, lists and tuples by their paths, tensors as lists."""
    if isinstance(node, (dict, list, tuple)):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        return {path: leaf for key, value in items for path, leaf in flat(value, f"{prefix}/{key}").items()}
    return {prefix: node.tolist() if isinstance(node, torch.Tensor) else node}


@pytest.mark.parametrize(
    ("method", "pairs"),
    [
        ("SKD", []),
        ("CRD", ["CRD.NCE.K", "4"]),
        ("OFD", []),
        ("CTKD", ["SOLVER.TRAINER", "dot"]),
        ("KD", ["SOLVER.AMP", "fp16"]),
    ],
)
def test_training_goes_on_from_a_state_as_if_it_had_never_stopped(script, monkeypatch, tmp_path, method, pairs):
    torch.manual_seed(0)
    torch.save(build_model("cifar100", "resnet8", 36).state_dict(), script.utils / "teacher.pth")
    whole = distilled(script, method, pairs, 3, monkeypatch=monkeypatch)
    part = distilled(script, method, pairs, 2, monkeypatch=monkeypatch)
    torch.save(part, tmp_path / "state.pth")
    unread = {"kept": None, "seconds": {"epoch": 0.0, "run": 0.0}}
    state = torch.load(tmp_path / "state.pth", weights_only=True) | unread
    assert flat(distilled(script, method, pairs, 3, state, monkeypatch)) == flat(whole)


def weights_of(script, *arguments):
    """The last state of a run of resnet8 whose batch norms keep their statistics."""
    still = "SOLVER.FREEZE_BN True DATASET.SYNTHETIC.TRAIN_IMAGES 44 SOLVER.WEIGHT_DECAY 0.01".split()
    assert script(training_main, "--selected_model", "resnet8", *TINY, *still, *arguments).status == 0, script.err
    last = max(script.utils.glob("model_pth/*/last.pth"), key=lambda path: path.stat().st_mtime_ns)
    return torch.load(last, weights_only=True)


@pytest.mark.parametrize("settings", ["SOLVER.TYPE SGD", "SOLVER.TYPE AdamW SOLVER.LR 0.001", "SOLVER.CLIP_GRAD 0.5"])
def test_batches_that_a_step_joins_are_one_of_all_their_images(script, settings):
    large = weights_of(script, *settings.split())
    small = weights_of(script, *settings.split(), "SOLVER.BATCH_SIZE", "8", "SOLVER.ACCUMULATE", "2")
    torch.testing.assert_close(small["model"], large["model"], rtol=1e-3, atol=1e-5)


def test_metrics_count_the_images_of_joined_batches_once(script):
    weights_of(script, "SOLVER.BATCH_SIZE", "8", "SOLVER.ACCUMULATE", "3")
    assert "Train Loss: " in script.out and "nan" not in script.out
    rows = list(csv.DictReader(only(script.utils, "model_train_log/*/metrics.csv").open()))
    assert all(abs(float(row["train_top1"]) * 44 / 100 % 1 - 0.5) > 0.49 for row in rows)


def test_the_average_is_what_is_evaluated_and_saved(script):
    last = weights_of(script, "SOLVER.EMA", "0.9")
    average = {name.removeprefix("module."): value for name, value in last["training"]["average"].items()}
    trained = {name.removeprefix("student."): value for name, value in last["training"]["distiller"].items()}
    assert all(torch.equal(value, average[name]) for name, value in last["model"].items())
    assert not torch.equal(trained["fc.weight"], average["fc.weight"])
    assert script(evaluation_main, "--checkpoint", only(script.utils, "model_pth/*/best.pth")).status == 0
