"""The methods of later papers against their own releases: losses and gradients of fixed logits, DOT's steps."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mdistiller.distillers import build_distiller
from mdistiller.engine.cfg import CFG
from mdistiller.engine.optim import DOT

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "logit_methods.json").read_text())
LOSSES = [name for name, entry in GOLDEN.items() if "losses" in entry]
STEPS = [name for name, entry in GOLDEN.items() if "steps" in entry]
WEIGHTS = {"CE_WEIGHT", "KD_WEIGHT"}  # keys that are in LOSS
AFTER_WARM_UP = 1000


def tensor(name, entry, shape, scale=1.0):
    seed = (zlib.crc32(name.encode()) + entry["seed"]) % 2**32
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape) * scale)


class Fixed(nn.Module):
    """A network that gives the logits of the view that its images, (batch, 3, 1, 1), are filled with the number of."""

    def __init__(self, views):
        super().__init__()
        self.views = nn.ParameterList(views)

    def forward(self, image):
        numbers = image[:, 0, 0, 0].long().tolist()
        size = len(self.views[0])
        return torch.cat([self.views[number] for number in numbers[::size]]), {}


def build(entry):
    """The distiller of an entry around networks that give its logits, and the student's leaves by name."""
    cfg, method = CFG.clone(), entry["method"]
    cfg.DISTILLER.LOGIT_STANDARDIZATION = entry.get("LOGIT_STANDARDIZATION", False)
    for key in entry.keys() & {*cfg[method], *WEIGHTS}:
        (cfg[method].LOSS if key in WEIGHTS and "LOSS" in cfg[method] else cfg[method])[key] = entry[key]
    names = [""]
    if entry.get("VIEWS") == 2:
        cfg.DATASET.AUGMENT, names = "two-view", [" weak", " strong"]
    shape = entry["batch"], entry["classes"]
    student, teacher = (
        Fixed([tensor(role + name, entry, shape, entry["scale"]) for name in names]) for role in ("student", "teacher")
    )
    leaves = dict(zip([f"student{name}" for name in names], student.views, strict=True))
    distiller = build_distiller(method, student, teacher, cfg).train()
    if method == "CTKD":
        distiller = distiller.double()
        leaves["temperature parameter"] = distiller.global_t
    return distiller, leaves


@pytest.mark.parametrize("name", LOSSES)
def test_losses_and_gradients_equal_the_release_s(name):
    entry = GOLDEN[name]
    distiller, leaves = build(entry)
    target = torch.from_numpy(np.random.RandomState(entry["seed"] + 1).randint(0, entry["classes"], entry["batch"]))
    weak, strong = (torch.full((entry["batch"], 3, 1, 1), number, dtype=torch.float64) for number in (0, 1))
    batch = {"image": weak, "image_weak": weak, "image_strong": strong, "target": target}
    _, losses = distiller(**batch, epoch=entry.get("epoch", AFTER_WARM_UP))
    for published, value in entry["losses"].items():
        loss = losses[published if published in losses else "loss_kd"]
        assert loss.item() == pytest.approx(value, rel=1e-8)
        gradients = entry["gradients"][published]
        found = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True, allow_unused=True)
        reached = {leaf: g for leaf, g in zip(leaves, found, strict=True) if g is not None}
        assert reached.keys() == gradients.keys()
        for leaf, gradient in reached.items():
            assert gradient.norm().item() == pytest.approx(gradients[leaf]["norm"], rel=1e-8)
            head = gradients[leaf]["head"]
            assert gradient.flatten()[: len(head)].tolist() == pytest.approx(head, rel=1e-8, abs=1e-16)


@pytest.mark.parametrize("name", STEPS)
def test_dot_s_steps_equal_the_release_s(name):
    entry, shape = GOLDEN[name], (4, 5)
    both, only_kd = (tensor(f"dot {which}", entry, shape) for which in ("both", "only kd"))
    optimizer = DOT([both, only_kd], *(entry[key] for key in ("lr", "momentum", "weight_decay", "delta")))
    for number, expected in enumerate(entry["steps"]):
        optimizer.task_gradients = {both: tensor(f"dot ce step {number}", entry, shape)}
        both.grad = tensor(f"dot kd step {number}", entry, shape)
        only_kd.grad = tensor(f"dot only kd step {number}", entry, shape)
        optimizer.step()
        assert both.flatten().tolist() == pytest.approx(expected["both"], rel=1e-8)
        assert only_kd.flatten().tolist() == pytest.approx(expected["only kd"], rel=1e-8)
