"""Configs, runs and distillation from Python."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from mdistiller import UserError, distill, evaluate, load_student, make_config, start_run
from mdistiller.dataset import build_data
from mdistiller.engine.cfg import CFG

IMAGES, LABELS = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 4


def network(width=4, classes=4):
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)),
    )


def loader(*tensors, batch_size=8):
    return DataLoader(TensorDataset(*(tensors or (IMAGES, LABELS))), batch_size=batch_size)


@pytest.fixture
def run(tmp_path):
    """Distils a small network into a smaller one, with other arguments where these are given."""

    def call(method="KD", student=None, teacher=None, train=None, test=None, **options):
        loaders = [loader() if given is None else given for given in (train, test)]
        networks = student or network(), teacher or network(8)
        return distill(*networks, *loaders, method, 1, folder=tmp_path / "out", **options)

    return call


def test_the_student_alone_changes_and_stays_what_it_is(run):
    student, teacher = network(), network(8)
    before = [{key: value.clone() for key, value in each.state_dict().items()} for each in (student, teacher)]
    result = run(student=student, teacher=teacher)
    assert type(student) is type(teacher) is nn.Sequential and student(IMAGES).shape == (24, 4)
    assert not torch.equal(student[0].weight, before[0]["0.weight"])
    assert all(torch.equal(value, before[1][key]) for key, value in teacher.state_dict().items())
    assert student.training and student[0].weight.requires_grad and teacher[0].weight.requires_grad
    hits = student.eval()(IMAGES).argmax(1) == LABELS
    assert result.top1 == pytest.approx(100 * hits.float().mean().item())


def test_a_run_has_its_log_and_curves_below_the_folder(run, tmp_path):
    run(settings={"SOLVER.LR": 0.01, "KD.TEMPERATURE": 2})
    (log,) = tmp_path.glob("out/distiller_train_log/*.log")
    (config,) = tmp_path.glob("out/distiller_train_log/*.yaml")
    assert "Best Test Top-1 Accuracy" in log.read_text() and "TEMPERATURE: 2" in config.read_text()
    assert len(list(tmp_path.glob("out/distiller_train_log/*/metrics.csv"))) == 1


@pytest.mark.parametrize("method", ["FitNet", "CRD", "SKD", "DKD", "RKD", "CTKD"])
def test_methods_of_logits_features_and_memories_run(run, method):
    train = loader(IMAGES, LABELS, torch.arange(24))
    train.dataset.targets = LABELS
    settings = {"CRD": {"CRD.NCE.K": 4}, "FitNet": {"FITNET.HINT_LAYER": 1}}
    assert run(method, train=train, settings=settings.get(method)).images == 24


class Dict(nn.Module):
    def forward(self, image):
        return {"scores": image}


BAD = {
    "classes": ({"teacher": network(classes=5)}, "the student scores 4 classes and the teacher 5"),
    "no logits": ({"student": Dict()}, "the student makes dict of one image"),
    "no maps": ({"student": nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))}, "no maps of features"),
    "other images": ({"teacher": nn.Linear(3, 4)}, "the teacher"),
    "bytes": ({"train": loader(IMAGES.byte(), LABELS)}, "torch.uint8"),
    "doubles": ({"test": loader(IMAGES.double(), LABELS)}, "test loader gives no batches of torch.float32"),
    "float labels": ({"train": loader(IMAGES, LABELS.float())}, "int64 classes"),
    "no labels": ({"train": loader(IMAGES)}, "not enough values"),
    "no loader": ({"train": 5}, "no batches"),
    "empty": ({"train": loader(IMAGES[:0], LABELS[:0])}, "training loader is empty"),
    "no length": ({"train": iter([(IMAGES, LABELS)])}, "no attribute 'dataset'"),
    "unknown method": ({"method": "KDD"}, "unknown distiller 'KDD'"),
    "no teacher": ({"method": "USKD"}, "has no teacher"),
    "another student": ({"method": "SimKD"}, "SimKD, which makes another network"),
    "no index": ({"method": "CRD", "settings": {"CRD.NCE.K": 4}}, "(image, label, index)"),
    "a key of images": ({"settings": {"DATASET.TYPE": "synthetic"}}, "DATASET.TYPE has no effect on distill"),
    "a size of batches": ({"settings": {"SOLVER.BATCH_SIZE": 4}}, "SOLVER.BATCH_SIZE has no effect"),
    "an unknown key": ({"settings": {"KD.TEMPERATUR": 4}}, "KD.TEMPERATURE"),
    "a key of another method": ({"settings": {"DKD.ALPHA": 4}}, "DKD.ALPHA has no effect"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_line(run, name):
    options, part = BAD[name]
    with pytest.raises(UserError) as error:
        run(**options)
    assert part in str(error.value) and "\n" not in str(error.value)


def test_a_loader_that_leaves_out_its_only_batch_is_called_empty(run):
    train = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=64, drop_last=True)
    with pytest.raises(UserError, match=r"the training loader is empty; .*drop_last"):
        run(train=train)


@pytest.mark.parametrize("is_ours", [True, False])
def test_any_network_is_evaluated_on_any_batches(is_ours):
    student = network().train()
    student[1].momentum = None
    tuples = loader(IMAGES, LABELS, torch.arange(24))
    found = evaluate(student, [{"image": IMAGES, "target": LABELS}] if is_ours else tuples)
    assert student.training and student[1].num_batches_tracked == 0
    logits = student.eval()(IMAGES)
    assert found.images == 24 and found.top1 == pytest.approx(100 * (logits.argmax(1) == LABELS).float().mean().item())
    assert found.loss == pytest.approx(nn.functional.cross_entropy(logits, LABELS).item(), abs=1e-6)


def test_settings_may_be_values_of_python(tmp_path):
    settings = {"DATASET.ROOT": tmp_path, "SOLVER.LR": torch.tensor(0.25), "SOLVER.LR_DECAY_STAGES": (1, 2)}
    cfg = make_config("KD", settings={**settings, "SOLVER.NESTEROV": True})
    assert cfg.DATASET.ROOT == str(tmp_path) and cfg.SOLVER.LR == 0.25 and cfg.SOLVER.NESTEROV is True
    assert cfg.SOLVER.LR_DECAY_STAGES == [1, 2]


def test_a_config_is_that_of_the_scripts():
    cfg = make_config("DKD", "3", "resnet56", {"SOLVER.EPOCHS": 7, "SOLVER.LR_DECAY_STAGES": [2, 5], "SOLVER.LR": 1e-5})
    assert (cfg.DISTILLER.STUDENT, cfg.DISTILLER.TEACHER) == ("ShuffleV1", "resnet56") and cfg.is_frozen()
    assert (cfg.SOLVER.EPOCHS, cfg.SOLVER.LR_DECAY_STAGES, cfg.SOLVER.LR) == (7, [2, 5], 1e-5)
    assert make_config("KD", benchmark="imagenet").SOLVER.BATCH_SIZE == 64 != CFG.SOLVER.BATCH_SIZE * 2


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ({"benchmark": "cifar10"}, "nearest: 'cifar100'"),
        ({"settings": {"SOLVER.EPOCHS": "x"}}, "SOLVER.EPOCHS"),
        ({"student": "resnet99"}, "unknown network 'resnet99'"),
        ({"cfg": "nosuch.yaml"}, "nosuch.yaml"),
    ],
)
def test_a_config_that_no_run_can_use_is_one_line(arguments, part):
    with pytest.raises(UserError, match=part):
        make_config("KD", **arguments)


def test_a_run_that_fails_leaves_its_reason_in_the_log(tmp_path):
    cfg = make_config("KD", "resnet8", "resnet14", {"DATASET.TYPE": "synthetic", "DATASET.SYNTHETIC.TRAIN_IMAGES": 36})
    data = build_data(cfg, "cpu", 0)
    with pytest.raises(ZeroDivisionError), start_run(tmp_path, cfg, data, teacher_top1=50.0) as run:
        assert run.meta["teacher_top1"] == 50 and run.meta["dataset"]["classes"] == data.classes
        raise ZeroDivisionError
    assert "Stopped: ZeroDivisionError" in run.files.log.read_text()
    with pytest.raises(UserError):
        load_student(run.files.best)
