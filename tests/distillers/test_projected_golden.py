"""Methods with layers of their own against their releases' modules, on fixed maps in float64, weights by `fill`."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mdistiller.distillers import build_distiller
from mdistiller.distillers.OFAKD import make_branch, ofa_loss
from mdistiller.engine.cfg import CFG
from tests.distillers.test_logit_golden import tensor
from tests.golden import fill

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "projected_methods.json").read_text())
IMAGES, TARGET = torch.zeros(6, 3, 32, 32).double(), torch.zeros(6, dtype=torch.long)
SIMKD = [name for name in GOLDEN if name.startswith("SimKD")]
OFA_LOSSES = [name for name, entry in GOLDEN.items() if name.startswith("OFAKD/") and "batch" in entry]


class FixedMap(nn.Module):
    """A network whose final map is its parameter, whatever the image."""

    def __init__(self, final_map, classes):
        super().__init__()
        self.map = nn.Parameter(final_map)
        self.fc = nn.Linear(final_map.shape[1], classes).double()

    def forward(self, image):
        pooled = self.map.mean(dim=(2, 3))
        return self.fc(pooled), {"final_map": self.map, "pooled_feat": pooled, "feats": [self.map]}


class Stages(nn.Module):
    """A network whose stages' maps are its parameters, behind a stem's that no method sees."""

    def __init__(self, maps, classes):
        super().__init__()
        self.maps = nn.ParameterList(maps)
        self.logits = nn.Parameter(torch.zeros(len(maps[0]), classes).double())

    def forward(self, image):
        return self.logits, {"feats": [image, *self.maps]}

    def get_stage_channels(self):
        return [3, *(each.shape[1] for each in self.maps)]

    def get_bn_before_relu(self):
        return list(self.maps)


def assert_gradients(loss, leaves, expected):
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    assert leaves.keys() == expected.keys()
    for (name, gradient), summary in zip(zip(leaves, gradients, strict=True), expected.values(), strict=True):
        assert gradient.norm().item() == pytest.approx(summary["norm"], rel=1e-8), name
        assert gradient.flatten()[:8].tolist() == pytest.approx(summary["head"], rel=1e-8, abs=1e-15), name


@pytest.mark.parametrize("name", SIMKD)
def test_simkd_equals_its_release(name):
    entry = GOLDEN[name]
    maps = [tensor(f"map {role}", entry, entry[role]) for role in ("student", "teacher")]
    distiller = build_distiller("SimKD", *(FixedMap(each, entry["classes"]) for each in maps), CFG).double().train()
    reused = distiller.student
    for module in (reused.projector, reused.classifier):
        fill.fill_(module.state_dict(), entry["seed"])
    logits, losses = distiller(image=IMAGES, target=TARGET, epoch=1)
    assert losses["loss_kd"].item() == pytest.approx(entry["loss"], rel=1e-8)
    assert logits.norm().item() == pytest.approx(entry["logits"]["norm"], rel=1e-8)
    assert logits.flatten()[:8].tolist() == pytest.approx(entry["logits"]["head"], rel=1e-8)
    leaves = {"map student": reused.network.map, **dict(reused.projector.named_parameters())}
    assert_gradients(losses["loss_kd"], leaves, entry["gradients"])


def test_srrl_equals_its_release():
    entry = GOLDEN["SRRL"]
    student, teacher = (
        FixedMap(tensor(f"map {role}", entry, entry[role]), entry["classes"]) for role in ("student", "teacher")
    )
    fill.fill_(teacher.fc.state_dict(), entry["seed"])
    distiller = build_distiller("SRRL", student, teacher, CFG).double().train()
    fill.fill_(distiller.connector.state_dict(), entry["seed"])
    _, losses = distiller(image=IMAGES, target=TARGET, epoch=1)
    assert {name: losses[name].item() for name in entry["losses"]} == pytest.approx(entry["losses"], rel=1e-8)
    leaves = {"map student": student.map, **dict(distiller.connector.named_parameters())}
    assert_gradients(losses["loss_feat"] + losses["loss_kd"], leaves, entry["gradients"])


def test_cc_equals_its_release():
    entry = GOLDEN["CC"]
    maps = [tensor(f"pooled {role}", entry, entry[role])[:, :, None, None] for role in ("student", "teacher")]
    student, teacher = (FixedMap(each, entry["classes"]) for each in maps)
    cfg = CFG.clone()
    cfg.CC.LOSS.FEAT_WEIGHT = 1.0
    distiller = build_distiller("CC", student, teacher, cfg).double().train()
    for seed, embed in enumerate((distiller.embed_student, distiller.embed_teacher)):
        fill.fill_(embed.state_dict(), seed)
    _, losses = distiller(image=IMAGES, target=TARGET, epoch=1)
    assert losses["loss_kd"].item() == pytest.approx(entry["loss"], rel=1e-8)
    own = {name: p for name, p in distiller.named_parameters() if name.startswith("embed_")}
    assert_gradients(losses["loss_kd"], {"pooled student": student.map, **own}, entry["gradients"])


@pytest.mark.parametrize("name", OFA_LOSSES)
def test_ofa_kd_s_loss_equals_its_release(name):
    entry = GOLDEN[name]
    shape = entry["batch"], entry["classes"]
    student, teacher = (tensor(role, entry, shape, entry["scale"]) for role in ("student", "teacher"))
    student.requires_grad_()
    loss = ofa_loss(student, teacher, fill.labels(*shape, entry["seed"]), entry["EPS"])
    assert loss.item() == pytest.approx(entry["loss"], rel=1e-8)
    assert_gradients(loss, {"student": student}, entry["gradients"])


def test_ofa_kd_s_branches_equal_its_release():
    entry = GOLDEN["OFAKD/branches"]
    maps = [tensor(f"map student {i}", entry, shape).requires_grad_() for i, shape in enumerate(entry["students"])]
    teacher = tensor("teacher", entry, (6, entry["classes"]), entry["scale"])
    losses = []
    for place, each in enumerate(maps, 1):
        branch = make_branch(each.shape[1], len(maps) - place, entry["width"], entry["classes"]).double().train()
        state = [(name, value) for name, value in branch.state_dict().items() if value.is_floating_point()]
        for number, (name, value) in enumerate(state):  # the release's modules are the same ones by other names
            value.copy_(torch.from_numpy(fill.values(f"{number}.{name.split('.')[-1]}", value.shape)))
        losses.append(ofa_loss(branch(each), teacher, fill.labels(6, entry["classes"], entry["seed"]), entry["EPS"]))
    assert [loss.item() for loss in losses] == pytest.approx(entry["losses"], rel=1e-8)
    leaves = {f"map student {i}": each for i, each in enumerate(maps)}
    assert_gradients(sum(losses), leaves, entry["gradients"])


def released_name(name):
    """What an entry of SemCKD is called in its release."""
    part, place, layer, kind = name.split(".")
    if part == "projectors":
        ours, theirs = divmod(int(place), 3)
        return f"regressor{ours}{theirs}.regressor.{layer}.{kind}"
    return f"{part.removesuffix('s').replace('querie', 'query')}_{place}.linear{int(layer) // 2 + 1}.{kind}"


def test_semckd_equals_its_release():
    entry, cfg = GOLDEN["SemCKD"], CFG.clone()
    cfg.SOLVER.BATCH_SIZE, cfg.SEMCKD.LOSS.FEAT_WEIGHT = entry["batch"], 1.0
    student, teacher = (
        Stages([tensor(f"map {role} {i}", entry, shape) for i, shape in enumerate(entry[f"{role}s"])], 10)
        for role in ("student", "teacher")
    )
    distiller = build_distiller("SemCKD", student, teacher, cfg).double().train()
    for part in ("queries", "keys", "projectors"):
        for name, value in getattr(distiller, part).state_dict(prefix=f"{part}.").items():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(fill.values(released_name(name), value.shape, entry["seed"])))
    _, losses = distiller(image=IMAGES, target=TARGET, epoch=1)
    assert losses["loss_feat"].item() == pytest.approx(entry["loss"], rel=1e-8)
    leaves = {f"map student {i}": each for i, each in enumerate(student.maps)}
    own = {name: p for name, p in distiller.named_parameters() if not name.startswith(("student.", "teacher."))}
    leaves |= {released_name(name): parameter for name, parameter in own.items()}
    assert_gradients(losses["loss_feat"], {name: leaves[name] for name in entry["gradients"]}, entry["gradients"])
    assert leaves.keys() == entry["gradients"].keys()


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("USKD")])
def test_uskd_equals_its_release(name):
    entry, cfg = GOLDEN[name], CFG.clone()
    for key in ("ALPHA", "BETA", "MU"):
        cfg.USKD[key] = entry[key]
    shape = entry["batch"], entry["classes"]
    middle = tensor("pooled student", entry, (entry["batch"], entry["channels"]))[:, :, None, None]
    student = Stages([middle, middle.clone()], entry["classes"])
    student.logits = nn.Parameter(tensor("student", entry, shape, entry["scale"]))
    student.fc = nn.Linear(entry["channels"], entry["classes"])
    distiller = build_distiller("USKD", student, None, cfg).double().train()
    weak = distiller.weak_classifier
    fill.fill_(weak.state_dict(), entry["seed"])
    _, losses = distiller(image=IMAGES, target=fill.labels(*shape, entry["seed"]), epoch=1)
    loss = losses["loss_kd"] + losses["loss_weak"]
    assert loss.item() == pytest.approx(entry["loss"], rel=1e-8)
    leaves = {"student": student.logits, "pooled student": student.maps[0], "weight": weak.weight, "bias": weak.bias}
    assert_gradients(loss, leaves, entry["gradients"])
