"""SDD's regions and their weights."""

import pytest
import torch
from torch import nn

from mdistiller.distillers import build_distiller
from mdistiller.distillers.DKD import dkd_loss
from mdistiller.distillers.SDD import region_logits, sdd_loss
from mdistiller.engine.cfg import CFG
from mdistiller.errors import UserError
from mdistiller.models import build_model, find_classifier


def random_tensor(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_regions_are_the_cells_of_each_grid():
    final_map, classifier = random_tensor(2, 3, 8, 8), nn.Linear(3, 5).double()
    logits = region_logits(final_map, classifier, [1, 2, 4])
    assert logits.shape == (2, 21, 5)
    cells = [(0, 0, 8), (0, 4, 4), (2, 6, 2)]  # row, column, side
    for region, (row, column, side) in zip((0, 2, 5 + 7), cells, strict=True):
        average = final_map[:, :, row : row + side, column : column + side].mean(dim=(2, 3))
        torch.testing.assert_close(logits[:, region], classifier(average))


CIFAR_PATHS = [f"cifar100/{name}" for name in ("resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV2", "ResNet18")]


@pytest.mark.parametrize("path", [*CIFAR_PATHS, "tiny_imagenet/MobileNetV2"])
@torch.no_grad()
def test_first_region_gives_the_networks_logits(path):
    network = build_model(*path.split("/"), 10).eval()
    logits, features = network(random_tensor(2, 3, 32, 32).float())
    regions = region_logits(features["final_map"], find_classifier(network), [1, 2, 4])
    torch.testing.assert_close(regions[:, 0], logits, rtol=1e-4, atol=1e-5)
    assert regions.shape == (2, 21, 10)


def test_regions_that_contradict_the_whole_weigh_twice():
    student, teacher = random_tensor(4, 3, 6), random_tensor(4, 3, 6, seed=1)
    target = torch.tensor([0, 1, 2, 3])
    expected = 0.0
    for image in range(4):
        is_right = [teacher[image, region].argmax() == target[image] for region in range(3)]
        for region in range(3):
            loss = dkd_loss(student[image, [region]], teacher[image, [region]], target[[image]], 3.0, 6.0, 4.0)
            expected += loss * (2 if is_right[region] != is_right[0] else 1)
    torch.testing.assert_close(sdd_loss(student, teacher, target, 3.0, 6.0, 4.0), expected / 12)
    assert torch.autograd.gradcheck(lambda z: sdd_loss(z, teacher, target, 3.0, 6.0, 4.0), student.requires_grad_())


def test_whole_map_must_come_first():
    cfg = CFG.clone()
    cfg.SDD.SCALES = [4, 2, 1]
    with pytest.raises(UserError, match=r"SDD\.SCALES is \[4, 2, 1\]; expected .*, the first 1 for the whole map"):
        build_distiller("SDD", build_model("cifar100", "resnet8", 10), build_model("cifar100", "resnet8", 10), cfg)


def test_standardisation_takes_scale_and_shift_from_the_regions_logits():
    def loss_kd(scale, shift, is_standardised):
        torch.manual_seed(0)
        cfg = CFG.clone()
        cfg.DISTILLER.LOGIT_STANDARDIZATION = is_standardised
        student, teacher = (build_model("cifar100", "resnet8", 10).eval() for _ in range(2))
        with torch.no_grad():
            student.fc.weight *= scale
            student.fc.bias.mul_(scale).add_(shift)
        distiller = build_distiller("SDD", student, teacher, cfg)
        distiller.training = True
        image = random_tensor(4, 3, 32, 32).float()
        return distiller(image=image, target=torch.arange(4), epoch=30)[1]["loss_kd"].item()

    assert loss_kd(3.0, 5.0, True) == pytest.approx(loss_kd(1.0, 0.0, True), rel=1e-3)
    assert loss_kd(3.0, 5.0, False) != pytest.approx(loss_kd(1.0, 0.0, False), rel=1e-2)
