"""Settings without an effect are one line of error, from wherever they come; MDistiller's files load as they are."""

import time

import pytest
import yaml

from mdistiller.distillers import DISTILLERS
from mdistiller.engine.cli import distillation_main, evaluation_main, training_main
from mdistiller.engine.effects import IGNORED
from tests.engine.conftest import TINY

PRINT = "--print_cfg"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ("--distiller KD SKD.TEMPERATURE 3", ["SKD.TEMPERATURE has no effect on KD", "section KD"]),
        ("--distiller KD CRD.NCE.K 4", ["CRD.NCE.K has no effect on KD"]),
        ("--distiller NONE KD.TEMPERATURE 3", ["KD.TEMPERATURE has no effect on Vanilla"]),
        ("--distiller AT DISTILLER.LOGIT_STANDARDIZATION True", ["no effect on AT", "compares no logits", "KD, MLKD"]),
        ("--distiller KD DATASET.AUGMENT two-view", ["two-view", "KD takes one view"]),
        ("--distiller MLKD DATASET.AUGMENT two-view", ["two-view", "MLKD takes one view"]),
        ("--distiller KD SOLVER.DOT.DELTA 0.1", ["SOLVER.DOT.DELTA has no effect with SOLVER.TRAINER base"]),
        ("--distiller KD DATASET.SYNTHETIC.SEED 1", ["no effect on DATASET.TYPE cifar100"]),
        ("--distiller KD EXPERIMENT.PROJECT mine", ["EXPERIMENT.PROJECT has no effect without LOG.WANDB True"]),
        ("--distiller NONE DISTILLER.TEACHER resnet56", ["DISTILLER.TEACHER has no effect on Vanilla", "no teacher"]),
        ("--distiller FitNet FITNET.INPUT_SIZE [64,64]", ["FITNET.INPUT_SIZE has no effect", "DATASET.IMAGE_SIZE"]),
        ("--distiller ReviewKD REVIEWKD.SHAPES [1,8]", ["REVIEWKD.SHAPES has no effect", "read off the networks"]),
        (
            "--distiller KD SOLVER.TYPE AdamW SOLVER.MOMENTUM 0.8",
            ["MOMENTUM has no effect with SOLVER.TYPE AdamW"],
        ),
        ("--distiller KD SOLVER.SCHEDULER cosine SOLVER.LR_DECAY_RATE 0.2", ["SOLVER.LR_DECAY_RATE has no effect"]),
        ("--distiller KD SOLVER.LABEL_SMOOTHING 0.1 KD.LOSS.CE_WEIGHT 0", ["LABEL_SMOOTHING", "CE_WEIGHT of KD is 0"]),
        ("--distiller DKD DATASET.MIXUP 0.2", ["DATASET.MIXUP gives an image two classes", "DKD asks for one", "KD, "]),
        ("--distiller CRD DATASET.CUTMIX 1", ["DATASET.CUTMIX gives", "CRD asks for one", "SKD"]),
        ("--distiller KD DATASET.RANDAUGMENT 9 DATASET.AUGMENT strong", ["RANDAUGMENT", "not strong", "AUGMENT weak"]),
        ("--distiller DeiT DEIT.FORM hard DEIT.TEMPERATURE 3", ["DEIT.TEMPERATURE", "FORM hard takes the teacher's"]),
        ("--distiller MLKD MLKD.FORM intended", ["MLKD.FORM has no effect", "of two views"]),
        ("--distiller DeiT DEIT.ALPHA 1 SOLVER.LABEL_SMOOTHING 0.1", ["LABEL_SMOOTHING", "CE_WEIGHT of DeiT is 0"]),
        ("--distiller KD LOG.PREFIX out", ["LOG.PREFIX has no effect", "below their own folder"]),
    ],
)
def test_a_typed_setting_without_an_effect_is_refused(script, arguments, parts):
    script(distillation_main, *arguments.split(), PRINT).fails_with(
        *parts, "leave it out" if "view" not in parts[0] else ""
    )


@pytest.mark.parametrize(
    "arguments",
    [
        "--distiller KD KD.TEMPERATURE 3 DISTILLER.LOGIT_STANDARDIZATION True",
        "--distiller DeiT DEIT.TEMPERATURE 3 DISTILLER.LOGIT_STANDARDIZATION True",
        "--distiller SDD DISTILLER.LOGIT_STANDARDIZATION True",
        "--distiller AT DISTILLER.LOGIT_STANDARDIZATION False",
        "--distiller MLKD MLKD.VIEWS 2 DATASET.AUGMENT two-view MLKD.FORM intended",
        "--distiller AT SOLVER.TRAINER dot SOLVER.DOT.DELTA 0.09",
        "--distiller KD DATASET.TYPE synthetic DATASET.SYNTHETIC.SEED 1",
    ],
)
def test_a_setting_with_an_effect_is_taken(script, arguments):
    assert script(distillation_main, *arguments.split(), PRINT).status == 0, script.err


@pytest.mark.parametrize("main", [distillation_main, training_main])
def test_a_file_may_hold_what_mdistiller_s_hold(script, tmp_path, main):
    ignored = [*IGNORED, *(f"{m.section()}.{key}" for m in DISTILLERS.values() for key in m.ignored)]
    values = {"SOLVER": {"EPOCHS": 7}, "KD": {"TEMPERATURE": 4}}
    for key in ignored:
        *sections, last = key.split(".")
        node = values
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = "./elsewhere" if last == "PREFIX" else 3 if last.endswith(("FREQ", "DIM")) else [3, 3]
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(values))
    assert script(main, "--cfg", tmp_path / "m.yaml", PRINT).status == 0, script.err
    assert yaml.safe_load(script.out)["SOLVER"]["EPOCHS"] == 7


def test_a_file_with_settings_of_another_method_is_refused(script, tmp_path):
    path = tmp_path / "m.yaml"
    path.write_text("DISTILLER: {TYPE: KD}\nDKD: {BETA: 2.0, ALPHA: 1.0}")
    script(distillation_main, "--cfg", path, PRINT).fails_with("section DKD", "no effect on KD", "choose DKD")


@pytest.mark.parametrize("how", ["file", "pair", "index"])
def test_plain_training_refuses_a_config_of_distillation(script, tmp_path, how):
    (tmp_path / "m.yaml").write_text("DISTILLER: {TYPE: DKD}")
    arguments = {"file": ["--cfg", tmp_path / "m.yaml"], "pair": ["DISTILLER.TYPE", "KD"]}
    arguments["index"] = ["DISTILLER.TYPE", "1"]
    script(training_main, *arguments[how], PRINT).fails_with(
        "DISTILLER.TYPE is", "CIFAR-100/Utils/distillation_train.py"
    )


def test_name_and_tag_end_the_run_s_name(script):
    tags = ["EXPERIMENT.NAME", "first", "EXPERIMENT.TAG", "kd,res56"]
    script(training_main, "--selected_model", "resnet8", *TINY, "SOLVER.EPOCHS", "1", *tags)
    assert script.status == 0, script.err
    (run,) = script.utils.glob("model_pth/*/best.pth")
    assert run.parent.name.endswith("_resnet8+first+kd,res56")
    (log,) = script.utils.glob("model_train_log/*.log")
    assert log.stem == f"experiment_cifar-100_{run.parent.name}"


@pytest.mark.parametrize("key", ["SOLVER.LR", "EXPERIMENT.SEED", "KD.TEMPERATURE", "DATASET.AUGMENT", "DATASET.MIXUP"])
def test_evaluation_refuses_what_it_does_not_read(script, key):
    script(training_main, "--selected_model", "resnet8", *TINY, "SOLVER.EPOCHS", "1")
    (best,) = script.utils.glob("model_pth/*/best.pth")
    value = "weak" if key == "DATASET.AUGMENT" else "2"
    script(evaluation_main, "--checkpoint", best, key, value).fails_with(f"{key} has no effect on an evaluation")


def test_wandb_gets_a_row_an_epoch_offline(script, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    script(training_main, "--selected_model", "resnet8", *TINY, "LOG.WANDB", "True", "EXPERIMENT.PROJECT", "mine")
    assert script.status == 0, script.err
    (folder,) = script.utils.glob("model_train_log/*/wandb/offline-run-*")
    for _ in range(200):  # wandb writes from a process of its own, after `finish` has returned
        content = b"".join(path.read_bytes() for path in folder.glob("*.wandb"))
        if content.count(b"test_top1") >= 2:
            break
        time.sleep(0.1)
    assert content.count(b"test_top1") >= 2 and b"mine" in content


def test_wandb_that_is_missing_is_one_line(script, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    script(training_main, "--selected_model", "resnet8", *TINY, "LOG.WANDB", "True")
    script.fails_with("LOG.WANDB True needs the package wandb", "pip install wandb")
    assert not list(script.utils.iterdir())
