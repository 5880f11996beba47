"""The methods of an initial stage, SRD and DIST+ against their releases, on fixed features in float64."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mdistiller.distillers import build_distiller
from mdistiller.engine.cfg import CFG
from tests.distillers.test_logit_golden import tensor
from tests.distillers.test_projected_golden import assert_gradients
from tests.golden import fill

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "staged_methods.json").read_text())
TARGET = torch.zeros(4, dtype=torch.long)


class Given(nn.Module):
    """A network that returns what it is given: maps, logits and pooled features, as parameters or made of them."""

    def __init__(self, maps=(), logits=None, pooled=None, width=2):
        super().__init__()
        self.maps, self.pooled = nn.ParameterList(maps), pooled
        self.logits = torch.zeros(4, 3).double() if logits is None else logits
        self.fc = nn.Linear(width, 2)

    def forward(self, image):
        maps = list(self.maps)
        features = {"feats": maps, "preact_feats": maps, "pooled_feat": self.pooled}
        return self.logits, features

    def get_stage_channels(self):
        return [each.shape[1] for each in self.maps]

    def get_bn_before_relu(self):
        return list(self.maps)


@torch.no_grad()
def fill_in_order(module, part):
    """Fill the parameters by `part` and the numbers of their layers; returns them by these names."""
    found = {}
    for number, layer in enumerate(each for each in module.modules() if each._parameters):
        for kind, parameter in layer.named_parameters(recurse=False):
            name = f"{part}.{number}.{kind}"
            parameter.copy_(torch.from_numpy(fill.values(name, parameter.shape)))
            found[name] = parameter
    return found


def given_maps(entry):
    """Networks of maps, the student's and the teacher's."""
    return [
        Given([tensor(f"map {role} {place}", entry, shape) for place, shape in enumerate(entry[f"{role}s"])])
        for role in ("student", "teacher")
    ]


def maps_of(network):
    return {f"map student {place}": each for place, each in enumerate(network.maps)}


def build(method, student, teacher, is_initial=False, **settings):
    cfg = CFG.clone()
    for key, value in settings.items():
        cfg[method.upper()][key] = value
    distiller = build_distiller(method, student, teacher, cfg).double()
    if is_initial:
        distiller.set_initial(True)
    return distiller.train()


def step(distiller, target=TARGET):
    losses = distiller(image=torch.zeros(len(target), 3, 8, 8).double(), target=target, epoch=1)[1]
    return losses, sum(losses.values())


def assert_loss(loss, expected):
    assert loss.item() == pytest.approx(expected, rel=1e-8)


def test_ab_s_initial_stage_equals_its_release():
    entry = GOLDEN["AB"]
    student, teacher = given_maps(entry)
    distiller = build("AB", student, teacher, is_initial=True)
    own = fill_in_order(distiller.connectors, "connectors")
    _, loss = step(distiller)
    assert_loss(loss, entry["loss"])
    assert_gradients(loss, maps_of(student) | own, entry["gradients"])


def test_fsp_s_initial_stage_equals_its_release():
    entry = GOLDEN["FSP"]
    student, teacher = given_maps(entry)
    _, loss = step(build("FSP", student, teacher, is_initial=True))
    assert_loss(loss, entry["loss"])
    assert_gradients(loss, maps_of(student), entry["gradients"])


def test_ft_equals_its_release_in_both_stages():
    entry = GOLDEN["FT"]
    student, teacher = given_maps({"students": [entry["student"]], "teachers": [entry["teacher"]], **entry})
    distiller = build("FT", student, teacher, is_initial=True)
    distiller.feat_weight = 1.0
    own = {name: fill_in_order(getattr(distiller, name), name) for name in ("paraphraser", "decoder", "translator")}
    _, loss = step(distiller)
    assert_loss(loss, entry["initial"]["loss"])
    assert_gradients(loss, own["paraphraser"] | own["decoder"], entry["initial"]["gradients"])
    distiller.set_initial(False)
    loss = step(distiller.train())[0]["loss_kd"]
    assert_loss(loss, entry["loss"])
    assert_gradients(loss, maps_of(student) | own["translator"], entry["gradients"])


@pytest.mark.parametrize("name", ["SSKD", "SSKD/few"])
def test_sskd_equals_its_release_in_both_stages(name):
    entry = GOLDEN[name]
    leaves, networks = {}, []
    for role, width in zip(("student", "teacher"), entry["widths"], strict=True):
        shape = entry["batch"], 4
        logits = tensor(f"logits {role}", entry, (*shape, entry["classes"]), entry["scale"]).requires_grad_()
        features = tensor(f"features {role}", entry, (*shape, width)).requires_grad_()
        if role == "student":
            leaves = {"logits student": logits, "features student": features}
        # The release has the turns of an image side by side.
        networks.append(Given((), *(each.transpose(0, 1).flatten(0, 1) for each in (logits, features)), width))
    ratios = {key: entry[key] for key in ("TF_RATIO", "SS_RATIO")}
    distiller = build("SSKD", *networks, is_initial=True, **ratios)
    heads = [fill_in_order(getattr(distiller, part), part) for part in ("head_student", "head_teacher")]
    target = fill.labels(entry["batch"], entry["classes"], entry["seed"])
    _, loss = step(distiller, target)
    assert_loss(loss, entry["initial"]["loss"])
    assert_gradients(loss, heads[1], entry["initial"]["gradients"])
    distiller.set_initial(False)
    losses, loss = step(distiller.train(), target)
    assert {key: value.item() for key, value in losses.items()} == pytest.approx(entry["losses"], rel=1e-8)
    assert_gradients(loss, leaves | heads[0], entry["gradients"])


def test_srd_equals_torchdistill_s():
    entry = GOLDEN["SRD"]
    networks, leaves = [], {}
    for role, width in zip(("student", "teacher"), entry["widths"], strict=True):
        logits = tensor(f"logits {role}", entry, (entry["batch"], entry["classes"]), entry["scale"]).requires_grad_()
        feat = tensor(f"map {role}", entry, (entry["batch"], width, 3, 3)).requires_grad_()
        leaves |= {f"logits {role}": logits, f"map {role}": feat}
        networks.append(Given((), logits, feat.mean(dim=(2, 3)), width))
    distiller = build("SRD", *networks)
    own = fill_in_order(distiller.projector, "projector")
    losses, _ = step(distiller, torch.zeros(entry["batch"], dtype=torch.long))
    loss = losses["loss_feat"] + losses["loss_kd"]
    assert_loss(loss, entry["loss"])
    assert_gradients(loss, {key: leaves[key] for key in ("logits student", "map student")} | own, entry["gradients"])


def test_dist_plus_equals_torchdistill_s():
    entry = GOLDEN["DISTPlus"]
    networks = []
    for role in ("student", "teacher"):
        logits = tensor(f"logits {role}", entry, (entry["batch"], entry["classes"]), entry["scale"])
        networks.append(Given([tensor(f"map {role}", entry, entry["map"])], nn.Parameter(logits)))
    losses, _ = step(build("DISTPlus", *networks), torch.zeros(entry["batch"], dtype=torch.long))
    loss = (losses["loss_kd"] + losses["loss_channel"] + losses["loss_spatial"]) / 2  # KD_WEIGHT
    assert_loss(loss, entry["loss"])
    assert_gradients(
        loss, {"logits student": networks[0].logits, "map student": networks[0].maps[0]}, entry["gradients"]
    )
