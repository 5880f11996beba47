"""Every method against the published implementations: losses, total, gradients and own state in float64.

VID's log-scales have no published gradient, since the published code never registers them: only ours optimises them.
"""

import copy
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.engine.cfg import CFG
from mdistiller.models import build_model
from tests.golden import fill

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "distillers.json").read_text())
TOLERANCE = {"KDSVD": 2e-6}  # the release decomposes in float32
UNFILLED = ("log_scale", "contrast.params")  # kept as built
STREAMLINED = ["DKD.CE_WEIGHT", 2.0, "DKD.ALPHA", 3.0, "DKD.BETA", 6.0, "DKD.CLAMP", 10.0]


PUBLISHED = [name for name in GOLDEN if name.split("/")[0].removesuffix("_STREAMLINED") in DISTILLERS]


@functools.cache
def filled_network(name, seed):
    model = build_model("cifar100", name, 100).double()
    fill.fill_(model.state_dict(), seed)
    fill.calibrate_(model, 32, seed)
    return model.eval()


def own_state(distiller):
    """State-dict entries that the method adds to the two networks'."""
    return {k: v for k, v in distiller.state_dict().items() if not k.startswith(("student.", "teacher."))}


@pytest.fixture(scope="module", params=PUBLISHED)
def step(request):
    """One training forward and backward of an entry, by the procedure that made the golden numbers."""
    entry = GOLDEN[request.param]
    method = request.param.split("/")[0]
    cfg = CFG.clone()
    if method == "DKD_STREAMLINED":
        cfg.merge_from_list(STREAMLINED)
    if "K" in entry:
        cfg.merge_from_list(["CRD.NCE.K", entry["K"]])
    student = copy.deepcopy(filled_network(entry["student"], entry["seed"]))
    teacher = copy.deepcopy(filled_network(entry["teacher"], entry["teacher_seed"]))
    method = method.removesuffix("_STREAMLINED")
    distiller = build_distiller(method, student, teacher, cfg, num_data=entry.get("num_data")).double()
    fill.fill_(own_state(distiller), entry["seed"], skip=UNFILLED)
    batch = {
        "image": fill.images(entry["batch"], 32, entry["seed"]),
        "target": fill.labels(entry["batch"], 100, entry["seed"]),
        "index": torch.tensor(entry.get("index", range(entry["batch"]))),
    }
    if "contrastive_index" in entry:
        batch["contrastive_index"] = torch.tensor(entry["contrastive_index"])
    _, losses = distiller.train()(**batch, epoch=entry["epoch"])
    sum(losses.values()).backward()
    return SimpleNamespace(entry=entry, distiller=distiller, losses=losses, rel=TOLERANCE.get(method, 1e-8))


def test_losses_equal_the_published(step):
    losses = {key: loss.item() for key, loss in step.losses.items()}
    assert losses == pytest.approx(step.entry["losses"], rel=step.rel)
    assert sum(losses.values()) == pytest.approx(step.entry["total"], rel=step.rel)


def test_gradients_equal_the_published(step):
    norms = {
        k: p.grad.norm().item()
        for k, p in step.distiller.named_parameters()
        if p.grad is not None and not k.startswith("log_scale")
    }
    assert norms == pytest.approx(step.entry["grad_norms"], rel=step.rel, abs=1e-12)
    first = next(step.distiller.student.parameters()).grad.flatten()[:8]
    assert first.tolist() == pytest.approx(step.entry["first_conv_grad"], rel=step.rel, abs=1e-12)


def test_own_state_has_the_published_names_and_shapes(step):
    shapes = {k: list(v.shape) for k, v in own_state(step.distiller).items() if not k.startswith("log_scale")}
    assert shapes == step.entry["extra_state"]


@pytest.mark.parametrize("step", [name for name in PUBLISHED if "memory_after" in GOLDEN[name]], indirect=True)
def test_memory_after_the_step_equals_the_published(step):
    contrast = step.distiller.contrast
    assert contrast.params.tolist() == pytest.approx(step.entry["params_after"], rel=step.rel)
    for key, summary in step.entry["memory_after"].items():
        memory = getattr(contrast, key)
        assert list(memory.shape) == summary["shape"]
        assert memory.mean().item() == pytest.approx(summary["mean"], rel=step.rel)
        assert memory.std().item() == pytest.approx(summary["std"], rel=step.rel)
        assert memory.flatten()[: len(summary["head"])].tolist() == pytest.approx(summary["head"], rel=step.rel)
