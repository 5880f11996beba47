"""Every method of the index, from flags to an evaluated student."""

import pytest
import torch

from mdistiller.distillers import find_method
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.index import CIFAR100
from mdistiller.engine.runs import PROJECT
from tests.engine.conftest import TINY, Script

ONE_EPOCH = [*TINY, "SOLVER.EPOCHS", "1"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Weights of resnet8, trained for an epoch on the tiny images."""
    script = Script(tmp_path_factory.mktemp("teacher"))
    script(training_main, "--selected_model", "resnet8", *ONE_EPOCH)
    return script.utils / "model_pth" / "best_model_weights_resnet8.pth"


@pytest.mark.parametrize("index", list(CIFAR100.distillers), ids=CIFAR100.distillers.get)
def test_method_trains_and_its_student_is_found(script, teacher, index):
    name = CIFAR100.distillers[index]
    ends = [*ONE_EPOCH]
    flags, pair = ["--selected_student", "resnet8", "--selected_distiller", index], "none_resnet8"
    if "INITIAL" in find_method(name).defaults:
        ends += [f"{name.upper()}.INITIAL.EPOCHS", "1"]
    if find_method(name).needs_teacher:
        flags, pair = [*flags, "--selected_teacher", "resnet8", "--teacher_weights", teacher], "resnet8_resnet8"
    assert script(distillation_main, *flags, *ends).status == 0, script.err
    prefix = ("SDD_train_log", "SDD_model_pth") if name == "SDD" else ("distiller_train_log", "model_distillation_pth")
    (log,) = script.utils.glob(f"{prefix[0]}/*_{pair}_{name}.log")
    (best,) = script.utils.glob(f"{prefix[1]}/*_{pair}_{name}/best.pth")
    assert {path.parts[-2] for path in script.utils.rglob("*.log")} == {prefix[0]}
    assert "Test Loss" in log.read_text()
    assert script(evaluation_main).status == 0, script.err
    assert all(name in line.split() for line in script.out.splitlines()[1::2])  # each row's file stands below it
    last = torch.load(best.with_name("last.pth"), weights_only=True)
    assert last["meta"]["distiller"] == name


@pytest.mark.parametrize(
    "preset",
    [
        *("KD_standardised", "DKD_standardised", "CTKD_standardised", "MLKD_standardised", "MLKD_two_view"),
        *("KD_dot", "SKD_paper", "SDD_cvpr2024", "RLD_standardised", "WKD_logits", "WKD_features"),
    ],
)
def test_variant_preset_trains(script, teacher, preset):
    flags = "--selected_student resnet8 --selected_teacher resnet8 --teacher_weights".split()
    cfg = PROJECT / "configs" / "cifar100" / f"{preset}.yaml"
    augment = ["DATASET.AUGMENT", "two-view"] if "MLKD" in preset else []
    assert script(distillation_main, *flags, teacher, "--cfg", cfg, *ONE_EPOCH, *augment).status == 0, script.err
