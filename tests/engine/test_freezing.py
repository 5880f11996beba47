"""Students that begin with weights of a file, and whose parts stay as they are."""

import pytest
import torch
from torch import nn

from mdistiller.distillers import find_method
from mdistiller.engine.cfg import TEXT_KEYS, config_for, merge, merge_pairs
from mdistiller.engine.cli import distillation_main, training_main
from mdistiller.engine.freezing import freeze
from mdistiller.engine.values import dump, read_layers
from mdistiller.errors import UserError
from mdistiller.models import build_model
from tests.engine.conftest import TINY

TRAIN = ["--selected_model", "resnet8", *TINY, "SOLVER.EPOCHS", "1"]


def saved(script, name="last.pth"):
    (path,) = script.utils.glob(f"model_pth/*/{name}")
    return torch.load(path, weights_only=True)


@pytest.fixture
def first(tmp_path):
    """A weight file of a resnet8 of the data's 36 classes, and its state dict."""
    torch.manual_seed(5)
    state = build_model("cifar100", "resnet8", 36).state_dict()
    torch.save(state, tmp_path / "first.pth")
    return tmp_path / "first.pth", state


def test_frozen_parts_and_their_statistics_stay_and_all_else_moves(script, first):
    path, state = first
    frozen = "DISTILLER.FREEZE", "[conv1,bn1,layer1,layer2.0.conv1]"
    assert script(training_main, *TRAIN, "DISTILLER.STUDENT_WEIGHTS", path, *frozen).status == 0, script.err
    parts = ("conv1.", "bn1.", "layer1.", "layer2.0.conv1.")
    for name, value in saved(script)["model"].items():
        assert torch.equal(value, state[name]) == name.startswith(parts), name


def test_a_frozen_part_is_no_parameter_of_the_optimiser(script):
    script(training_main, *TRAIN, "DISTILLER.FREEZE", "[layer1,layer2]")
    optimizer = saved(script)["training"]["optimizer"]["optimizer"]
    trained = [name for name, _ in build_model("cifar100", "resnet8", 36).named_parameters()]
    trained = [name for name in trained if not name.startswith(("layer1", "layer2"))]
    assert len(optimizer["state"]) == len(trained)


def test_methods_train_around_a_frozen_part(script, first):
    chosen = "--selected_student resnet8 --selected_teacher resnet8 --distiller FitNet --teacher_weights".split()
    tiny = [*TINY, "SOLVER.EPOCHS", "1", "SOLVER.TRAINER", "dot"]
    script(distillation_main, *chosen, first[0], *tiny, "DISTILLER.FREEZE", "[conv1,layer1]")
    assert script.status == 0, script.err


def test_what_a_network_keeps_frozen_itself_stays_so():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    network[0].weight.requires_grad_(False)
    freeze(network, ["1"], "net")
    assert [p.requires_grad for p in network.parameters()] == [False, True, False, False, True, True]


@pytest.mark.parametrize("name", ["layer", "layer4", "conv", "layer1.9", "layer1.0.conv1.weights", "."])
def test_a_part_that_there_is_not_is_one_line(name):
    with pytest.raises(UserError, match=f"DISTILLER.FREEZE has '{name}', which is no part of resnet8.*expected some"):
        freeze(build_model("cifar100", "resnet8", 5), ["conv1", name], "resnet8")


@pytest.mark.parametrize("name", ["layer1", "layer1.", "layer1.0", "layer1.0.conv1.weight"])
def test_a_part_may_be_a_module_or_one_weight(name):
    network = build_model("cifar100", "resnet8", 5)
    freeze(network, [name], "resnet8")
    frozen = [key for key, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen and all(key.startswith(name) for key in frozen)


PARTS = ["0", "1.10", "12.weight", "010", "nan"]


def test_parts_may_be_called_as_numbers_are(tmp_path):
    written = f"[{', '.join(PARTS)}]"
    cfg = config_for(find_method("NONE"))
    merge_pairs(cfg, ["DISTILLER.FREEZE", written])
    (tmp_path / "cfg.yaml").write_text(f"DISTILLER: {{FREEZE: {written}}}")
    (layer,) = read_layers(tmp_path / "cfg.yaml", TEXT_KEYS)
    assert cfg.DISTILLER.FREEZE == layer[1]["DISTILLER"]["FREEZE"] == PARTS


def test_a_saved_config_keeps_parts_called_as_numbers(tmp_path):
    cfg = config_for(find_method("NONE"))
    cfg.DISTILLER.FREEZE = PARTS
    (tmp_path / "saved.yaml").write_text(dump(cfg))
    again = config_for(find_method("NONE"))
    merge(again, read_layers(tmp_path / "saved.yaml", TEXT_KEYS)[0][1], "saved.yaml")
    assert again.DISTILLER.FREEZE == PARTS


def test_freezing_all_is_one_line(script):
    parts = "[conv1,bn1,layer1,layer2,layer3,fc]"
    script(training_main, *TRAIN, "DISTILLER.FREEZE", parts).fails_with("FREEZE freezes all of resnet8", "leave a part")


@pytest.mark.parametrize("form", ["bare", "model", "state_dict", "module", "student"])
def test_a_student_begins_with_a_file_of_any_published_form(script, first, tmp_path, form):
    _, state = first
    prefix = {"module": "module.", "student": "module.student."}.get(form, "")
    content = {f"{prefix}{name}": value for name, value in state.items()}
    torch.save({form: content} if form in ("model", "state_dict") else content, tmp_path / "form.pth")
    still = "SOLVER.LR 1e-30 SOLVER.WEIGHT_DECAY 0 SOLVER.FREEZE_BN True".split()
    script(training_main, *TRAIN, *still, "DISTILLER.STUDENT_WEIGHTS", tmp_path / "form.pth")
    assert script.status == 0, script.err
    torch.testing.assert_close(saved(script)["model"], dict(state), rtol=0, atol=1e-20)


def test_a_classifier_of_another_number_of_classes_is_left_out_and_the_log_says_so(script, tmp_path):
    torch.manual_seed(5)
    network = build_model("cifar100", "resnet8", 100)
    torch.save(network.state_dict(), tmp_path / "hundred.pth")
    still = "SOLVER.LR 1e-30 SOLVER.WEIGHT_DECAY 0 SOLVER.FREEZE_BN True".split()
    script(training_main, *TRAIN, *still, "DISTILLER.STUDENT_WEIGHTS", tmp_path / "hundred.pth")
    assert "The student's classifier is new" in script.out, script.err
    model = saved(script)["model"]
    assert model["fc.weight"].shape[0] == 36
    kept = {name: value for name, value in network.state_dict().items() if "fc" not in name}
    torch.testing.assert_close({name: model[name] for name in kept}, kept, rtol=0, atol=1e-20)


def test_weights_of_another_network_are_one_line(script, tmp_path):
    torch.save(build_model("cifar100", "resnet14", 36).state_dict(), tmp_path / "other.pth")
    script(training_main, *TRAIN, "DISTILLER.STUDENT_WEIGHTS", tmp_path / "other.pth").fails_with("are not resnet8's")
