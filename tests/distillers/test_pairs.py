"""One training step of every method on the pairs of the published tables, and on pairs of different families."""

import copy

import pytest
import torch

from mdistiller.distillers import DISTILLERS, build_distiller
from mdistiller.distillers._common import pair_stages, probe_features, stages_of
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
IMAGENET_PAIRS = [("ResNet34", "ResNet18"), ("ResNet50", "MobileNetV1"), ("ResNet50", "MobileNetV2")]
TINY_IMAGENET_PAIRS = [("ResNet18", "MobileNetV2")]
SIZES = {"cifar100": 32, "imagenet": 64, "tiny_imagenet": 64}
METHODS = [name for name in DISTILLERS if name != "NONE"]
TARGETS = torch.arange(6) % 3


def pair_id(param):
    dataset, (teacher, student) = param
    return f"{dataset}/{teacher}->{student}"


@pytest.fixture(
    scope="module",
    params=[
        *(("cifar100", pair) for pair in PAIRS),
        *(("imagenet", pair) for pair in IMAGENET_PAIRS),
        *(("tiny_imagenet", pair) for pair in TINY_IMAGENET_PAIRS),
    ],
    ids=pair_id,
)
def setting(request):
    """(teacher, student), copied by the tests, and the side of their images."""
    dataset, names = request.param
    torch.manual_seed(0)
    return [build_model(dataset, name, 10) for name in names], SIZES[dataset]


def build(method, pair, size):
    teacher, student = copy.deepcopy(pair)
    cfg = CFG.clone()
    cfg.CRD.NCE.K = 3
    cfg.DATASET.IMAGE_SIZE = size
    distiller = build_distiller(method, student, teacher, cfg, num_data=len(TARGETS))
    distiller.set_targets(TARGETS)
    return distiller.train()


@pytest.mark.parametrize("method", METHODS)
def test_training_step(method, setting):
    pair, size = setting
    distiller = build(method, pair, size)
    optimizer = torch.optim.SGD(distiller.get_learnable_parameters(), 0.01)
    index = torch.tensor([4, 1])
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
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

    fresh = build(method, pair, size)
    fresh.load_state_dict(distiller.state_dict())
    restored = fresh.state_dict()
    assert list(restored) == list(distiller.state_dict())
    assert all(torch.equal(value, restored[name]) for name, value in distiller.state_dict().items())


@pytest.mark.parametrize("names", IMAGENET_PAIRS, ids="->".join)
def test_imagenet_stages_meet_those_of_their_size(names):
    networks = [build_model("imagenet", name, 10) for name in reversed(names)]
    stages = pair_stages(*(stages_of(network, probe_features(network, (64, 64))["feats"]) for network in networks))
    assert [[feat.shape[2] for feat in stage] for stage in stages] == [[side, side] for side in (16, 8, 4, 2)]
