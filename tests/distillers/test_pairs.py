"""One training step of every method on the pairs of the published tables, and on pairs of different families."""

import copy

import pytest
import torch

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.engine.cfg import CFG
from mdistiller.models import build_model

PAIRS = [
    ("resnet56", "resnet20"),
    ("resnet110", "resnet32"),
    ("resnet32x4", "resnet8x4"),
    ("wrn_40_2", "wrn_16_2"),
    ("wrn_40_2", "wrn_40_1"),
    ("vgg13", "vgg8"),
    ("resnet32x4", "ShuffleV1"),
    ("resnet32x4", "ShuffleV2"),
    ("wrn_40_2", "ShuffleV1"),
    ("vgg13", "MobileNetV2"),
    ("ResNet50", "MobileNetV2"),
    ("ResNet50", "vgg8"),
]
METHODS = [name for name in DISTILLERS if name != "NONE"]
TARGETS = torch.arange(6) % 3


@pytest.fixture(scope="module", params=PAIRS, ids="->".join)
def pair(request):
    """Teacher and student, copied by the tests."""
    torch.manual_seed(0)
    return [build_model("cifar100", name, 10) for name in request.param]


def build(method, pair):
    teacher, student = copy.deepcopy(pair)
    cfg = CFG.clone()
    cfg.CRD.NCE.K = 3
    distiller = build_distiller(method, student, teacher, cfg, num_data=len(TARGETS))
    if hasattr(distiller, "set_targets"):
        distiller.set_targets(TARGETS)
    return distiller.train()


@pytest.mark.parametrize("method", METHODS)
def test_training_step(method, pair):
    distiller = build(method, pair)
    optimizer = torch.optim.SGD(distiller.get_learnable_parameters(), 0.01)
    index = torch.tensor([4, 1])
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits, losses = distiller(image=image, target=TARGETS[index], index=index, epoch=1)
    sum(losses.values()).backward()
    assert logits.shape == (2, 10)
    assert all(loss.isfinite() for loss in losses.values()), losses
    assert all(parameter.grad is not None for parameter in distiller.get_learnable_parameters())
    assert all(parameter.grad is None for parameter in distiller.teacher.parameters())

    optimizer.step()
    moving = dict(distiller.teacher.named_buffers()) if method == "OFD" else {}  # normalises by the batch
    before = pair[0].state_dict()
    state = distiller.teacher.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in state.items() if name not in moving)

    fresh = build(method, pair)
    fresh.load_state_dict(distiller.state_dict())
    restored = fresh.state_dict()
    assert list(restored) == list(distiller.state_dict())
    assert all(torch.equal(value, restored[name]) for name, value in distiller.state_dict().items())
