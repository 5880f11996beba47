"""Recent methods against their own releases: losses and gradients of fixed logits and maps in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mdistiller.distillers import build_distiller
from mdistiller.distillers.CATKD import cat_loss, class_maps
from mdistiller.distillers.WKD import cosine_distances, transport_costs, wkd_feature_loss, wkd_logit_loss
from mdistiller.engine.cfg import CFG
from tests.distillers.test_logit_golden import AFTER_WARM_UP, Fixed, tensor

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "recent_methods.json").read_text())


def named(*methods):
    return [name for name in GOLDEN if name.split("/")[0].removesuffix(" standardised") in methods]


def assert_equal(entry, loss, leaf):
    """Hold a loss, and its gradient at `leaf`, to an entry."""
    assert loss.item() == pytest.approx(entry["loss"], rel=1e-8)
    (gradient,) = torch.autograd.grad(loss, leaf)
    assert gradient.norm().item() == pytest.approx(entry["gradient"]["norm"], rel=1e-8)
    assert gradient.flatten()[:8].tolist() == pytest.approx(entry["gradient"]["head"], rel=1e-8, abs=1e-16)


@pytest.mark.parametrize("name", named("RLD", "TTM", "WTTM"))
def test_logit_methods_equal_their_releases(name):
    entry, method, cfg = GOLDEN[name], name.split("/")[0].split()[0], CFG.clone()
    cfg.DISTILLER.LOGIT_STANDARDIZATION = entry.get("LOGIT_STANDARDIZATION", False)
    for key in entry.keys() & cfg[method].keys():
        cfg[method][key] = entry[key]
    if "LOSS" in cfg[method]:
        cfg[method].LOSS.KD_WEIGHT = 1.0
    shape = entry["batch"], entry["classes"]
    networks = [Fixed([tensor(role, entry, shape, entry["scale"])]) for role in ("student", "teacher")]
    target = torch.from_numpy(np.random.RandomState(entry["seed"] + 1).randint(0, entry["classes"], entry["batch"]))
    image = torch.zeros(entry["batch"], 3, 1, 1)
    _, losses = build_distiller(method, *networks, cfg).train()(image=image, target=target, epoch=AFTER_WARM_UP)
    assert_equal(entry, losses["loss_kd"], networks[0].views[0])


@pytest.mark.parametrize("name", named("WKD-L"))
def test_wkd_of_logits_equals_its_release(name):
    entry = GOLDEN[name]
    shape = entry["batch"], entry["classes"]
    student, teacher = (tensor(role, entry, shape, entry["scale"]) for role in ("student", "teacher"))
    student.requires_grad_()
    target = torch.from_numpy(np.random.RandomState(entry["seed"] + 1).randint(0, entry["classes"], entry["batch"]))
    costs = transport_costs(cosine_distances(tensor("classifier", entry, entry["classifier"])), entry["SHARPEN"])
    settings = (entry[key] for key in ("T", "GAMMA", "LAMBDA", "ITER"))
    assert_equal(entry, wkd_logit_loss(student, teacher, target, costs, *settings), student)


@pytest.mark.parametrize("name", named("WKD-F"))
def test_wkd_of_features_equals_its_release(name):
    entry = GOLDEN[name]
    student, teacher = (tensor(role, entry, entry["shape"]) for role in ("map student", "map teacher"))
    student.requires_grad_()
    settings = (entry[key] for key in ("MEAN_COV_RATIO", "GRID", "EPS"))
    assert_equal(entry, wkd_feature_loss(student, teacher, *settings), student)


@pytest.mark.parametrize("name", named("CAT-KD"))
def test_cat_kd_equals_its_release(name):
    entry = GOLDEN[name]
    student, teacher = (tensor(f"cam {role}", entry, entry[role]) for role in ("student", "teacher"))
    student.requires_grad_()
    classes = torch.eye(student.shape[1], dtype=student.dtype)
    maps = [class_maps(cam, classes, entry["RESOLUTION"]) for cam in (student, teacher)]
    assert_equal(entry, cat_loss(*maps, entry["NORMALISE"]), student)
