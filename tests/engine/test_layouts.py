"""State dicts in the layouts of others, found by the names of the network; and what a file says of itself."""

import re

import numpy as np
import pytest
import torch

from mdistiller.engine.weights import load_weights, read_meta
from mdistiller.errors import UserError
from mdistiller.models import build_model


def weights_of(name="resnet8", seed=0, classes=10):
    torch.manual_seed(seed)
    return build_model("cifar100", name, classes).state_dict()


RIGHT, OTHER = weights_of(), weights_of(seed=1)
WIDE = weights_of("resnet8x4")


def prefixed(prefix, weights):
    return {prefix + key: value for key, value in weights.items()}


LAYOUTS = {
    **{key: {key: RIGHT} for key in ("net", "network", "student", "teacher", "ema", "model_ema", "state_dict_ema")},
    **{prefix: prefixed(prefix, RIGHT) for prefix in ("model.", "net.", "backbone.", "module.model.", "a.b.c.d.")},
    "nested": {"checkpoint": {"epoch": 3, "model": RIGHT}},
    "nested deep": {"a": {"b": {"c": {"d": prefixed("module.", RIGHT)}}}},
    "beside an optimizer": {"net": RIGHT, "optimizer": {"state": {0: {"momentum": torch.ones(3)}}, "groups": [{}]}},
    "beside numbers": {**RIGHT, "epoch": 3, "best": np.float64(71.0)},
    "5000 prefixes": prefixed("module." * 5000, RIGHT),
    "without counters": {key: value for key, value in RIGHT.items() if not key.endswith("num_batches_tracked")},
    "parameters": {key: torch.nn.Parameter(v) if v.is_floating_point() else v for key, v in RIGHT.items()},
    "half": {key: value.half() for key, value in RIGHT.items()},
    "double": {key: value.double() for key, value in RIGHT.items()},
    "bfloat16": {key: value.bfloat16() for key, value in RIGHT.items()},
    "average after the plain": {"model_ema": OTHER, "net": RIGHT},
    "average beside the documented": {"state_dict_ema": OTHER, "state_dict": RIGHT},
    "prefixed average": prefixed("ema.", OTHER) | prefixed("net.", RIGHT),
    "documented before others": {"best_net": OTHER, "model": RIGHT},
    "student before teacher": {"teacher": OTHER, "student": RIGHT},
    "prefixed student": prefixed("module.teacher.", OTHER) | prefixed("module.student.", RIGHT),
    "student of a distiller with parts": prefixed("student.", RIGHT) | {"regressor.weight": torch.ones(3)},
    "the teacher alone fits": {"student": WIDE, "teacher": RIGHT},
    "the prefixed teacher alone fits": prefixed("student.", WIDE) | prefixed("teacher.", RIGHT),
    "twice the same": {"net": RIGHT, "best_net": {key: value.clone() for key, value in RIGHT.items()}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_dict_is_found(layout, tmp_path):
    torch.save(LAYOUTS[layout], tmp_path / "w.pth")
    network = build_model("cifar100", "resnet8", 10)
    load_weights(network, tmp_path / "w.pth", "resnet8")
    tolerance = 1e-2 if layout in ("half", "bfloat16") else 0
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, RIGHT[key], rtol=tolerance, atol=tolerance)


def test_a_densenet_loads_from_torchvision_s_old_names(tmp_path):
    torch.manual_seed(0)
    network, other = (build_model("imagenet", "torchvision:densenet121", 5) for _ in range(2))
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): v for key, v in network.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save({"state_dict": prefixed("module.", old)}, tmp_path / "old.pth")
    load_weights(other, tmp_path / "old.pth", "densenet121")
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())


def test_two_that_fit_equally_and_differ_are_named(tmp_path):
    torch.save({"net": RIGHT, "best": {"net": OTHER}}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"2 state dicts that fit and differ, 'net' and 'best\.net'"):
        load_weights(build_model("cifar100", "resnet8", 10), tmp_path / "w.pth", "resnet8")


def test_a_part_of_a_larger_network_is_not_taken_for_a_smaller_one(tmp_path):
    torch.save({"net": weights_of("resnet14")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="0 entries missing, 36 unknown"):
        load_weights(build_model("cifar100", "resnet8", 10), tmp_path / "w.pth", "resnet8")


def deepened(depth):
    content = RIGHT
    for _ in range(depth):
        content = {"a": content}
    return content


@pytest.mark.parametrize("depth", [100, 300])
def test_dicts_nested_deeply_are_one_line(depth, tmp_path):
    torch.save(deepened(depth), tmp_path / "w.pth")
    with pytest.raises(UserError, match="no state dict of plain tensors"):
        load_weights(build_model("cifar100", "resnet8", 10), tmp_path / "w.pth", "resnet8")


def repeated():
    values = ["a"]
    for _ in range(60):
        values = [values, values]
    return values


METAS = {
    "no dict": 5,
    "numbers as text": {"epoch": "3", "top1": "95"},
    "tensors in the data": {"dataset": {"type": torch.ones(3), "image_size": torch.ones(3)}},
    "a list of itself": {"dataset": {"fingerprints": repeated()}},
    "accuracy out of range": {"run": "a", "top1": 1e300},
    "long text": {"teacher": "a" * 10**6, "config": "a" * 10**6},
}


@pytest.mark.parametrize("name", METAS)
def test_what_is_not_as_ours_is_left_out_of_meta(name, tmp_path):
    torch.save({"model": RIGHT, "meta": METAS[name]}, tmp_path / "w.pth")
    assert read_meta(tmp_path / "w.pth") == {}


def changed(name, value):
    return RIGHT | {name: value}


def with_one(name, number):
    value = RIGHT[name].clone()
    value.view(-1)[0] = number
    return changed(name, value)


WRONG_NUMBERS = {
    "NaN": (with_one("conv1.weight", float("nan")), "'conv1.weight' has numbers that are not finite"),
    "infinite": (with_one("fc.bias", float("inf")), "'fc.bias' has numbers that are not finite"),
    "both infinities": (changed("bn1.bias", torch.tensor([float("inf"), -float("inf")] * 8)), "'bn1.bias' has numbers"),
    "too large for float32": (
        changed("bn1.bias", torch.full((16,), 1e300, dtype=torch.float64)),
        "'bn1.bias' has numbers",
    ),
    "negative variance": (with_one("bn1.running_var", -1), "'bn1.running_var' is a variance below 0"),
    **{
        str(dtype): (changed("bn1.bias", torch.ones(16).to(dtype)), "'bn1.bias' as")
        for dtype in (torch.bool, torch.uint8, torch.uint16, torch.uint64, torch.int32, torch.int64, torch.complex64)
    },
    "float8": (changed("bn1.bias", torch.ones(16).to(torch.float8_e4m3fn)), "'bn1.bias' as float8_e4m3fn"),
    "bits8": (changed("bn1.bias", torch.ones(16, dtype=torch.uint8).view(torch.bits8)), "'bn1.bias' as bits8"),
    "counter of bools": (changed("bn1.num_batches_tracked", torch.tensor(True)), "num_batches_tracked' as bool"),
    "counter of the wrong shape": (changed("bn1.num_batches_tracked", torch.ones(2).long()), "has shape (2,)"),
    "classifier of one number": (changed("fc.weight", torch.tensor(1.0)), "fc.weight has shape ()"),
    "bias of one number": (changed("fc.bias", torch.tensor(1.0)), "fc.bias has shape ()"),
    "classifier without classes": (changed("fc.weight", torch.ones(0, 64)), "fc.weight"),
    "everything empty": ({key: torch.ones(0) for key in RIGHT}, "has shape (0,)"),
}


@pytest.mark.parametrize("name", WRONG_NUMBERS)
@pytest.mark.parametrize("classes", [None, [str(number) for number in range(10)]], ids=["", "classes"])
def test_numbers_that_no_trained_network_has_are_refused_by_name(name, classes, tmp_path):
    weights, what = WRONG_NUMBERS[name]
    torch.save({"model": weights}, tmp_path / "w.pth")
    network = build_model("cifar100", "resnet8", 10)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError, match=re.escape(what) if "classes" not in name else "") as error:
        load_weights(network, tmp_path / "w.pth", "resnet8", classes)
    assert "\n" not in str(error.value)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("count", [5, 12])
@pytest.mark.parametrize("asked", [4, 5, 12])
def test_names_of_more_or_fewer_classes_than_are_scored_are_one_line(count, asked, tmp_path):
    meta = {"dataset": {"classes": [str(number) for number in range(count)]}}
    torch.save({"model": RIGHT, "meta": meta}, tmp_path / "w.pth")
    network = build_model("cifar100", "resnet8", asked)
    with pytest.raises(UserError):
        load_weights(network, tmp_path / "w.pth", "resnet8", [str(number) for number in range(asked)])
