"""Every method against the published implementations: losses, total and gradients in float64."""

import json
from pathlib import Path

import pytest
import torch

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.engine.cfg import CFG
from mdistiller.models import build_model
from tests.golden import fill

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "distillers.json").read_text())
TOLERANCE = 1e-8
STREAMLINED = ["DKD.CE_WEIGHT", 2.0, "DKD.ALPHA", 3.0, "DKD.BETA", 6.0, "DKD.CLAMP", 10.0]


def published_entries():
    for name in GOLDEN:
        method = name.split("/")[0].removesuffix("_STREAMLINED")
        if method in DISTILLERS:
            yield name


def network(name, seed):
    model = build_model("cifar100", name, 100).double()
    fill.fill_(model.state_dict(), seed)
    fill.calibrate_(model, 32, seed)
    return model.eval()


def run(name):
    """One training forward and backward of an entry, by the procedure that made the golden numbers."""
    entry = GOLDEN[name]
    method = name.split("/")[0]
    cfg = CFG.clone()
    if method == "DKD_STREAMLINED":
        cfg.merge_from_list(STREAMLINED)
    student, teacher = network(entry["student"], entry["seed"]), network(entry["teacher"], entry["teacher_seed"])
    distiller = build_distiller(method.removesuffix("_STREAMLINED"), student, teacher, cfg).double().train()
    image = fill.images(entry["batch"], 32, entry["seed"])
    target = fill.labels(entry["batch"], 100, entry["seed"])
    _, losses = distiller(image=image, target=target, epoch=entry["epoch"], index=torch.arange(entry["batch"]))
    sum(losses.values()).backward()
    return entry, distiller, losses


@pytest.mark.parametrize("name", list(published_entries()))
def test_losses_and_gradients_equal_the_published(name):
    entry, distiller, losses = run(name)
    assert {key: loss.item() for key, loss in losses.items()} == pytest.approx(entry["losses"], rel=TOLERANCE)
    assert sum(losses.values()).item() == pytest.approx(entry["total"], rel=TOLERANCE)
    norms = {k: p.grad.norm().item() for k, p in distiller.named_parameters() if p.grad is not None}
    assert norms == pytest.approx(entry["grad_norms"], rel=TOLERANCE, abs=1e-12)
    first = next(distiller.student.parameters()).grad.flatten()[:8]
    assert first.tolist() == pytest.approx(entry["first_conv_grad"], rel=TOLERANCE, abs=1e-12)
