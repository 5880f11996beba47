"""Calibration, confusion and agreement with a teacher, against numbers by hand."""

import math

import pytest
import torch
from torch import nn

from mdistiller.engine.measures import BINS, Agreement, Calibration, Confusion
from mdistiller.engine.metrics import evaluate

CPU = torch.device("cpu")
IMAGE = torch.zeros(2, 3, 8, 8)


class Fixed(nn.Module):
    """Gives the same logits, in whatever mode and for whatever images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, image):
        return self.logits, {}


def logits_of(*rows):
    return torch.tensor(rows, dtype=torch.float64).log().float()


def test_calibration_error_is_the_gap_of_confidence_and_accuracy_in_each_bin():
    calibration = Calibration(CPU)
    logits = logits_of([0.61, 0.39], [0.65, 0.35], [0.1, 0.9])
    calibration(logits, torch.tensor([0, 1, 1]), IMAGE)
    # 0.61 and 0.65 share the bin from 9 / 15 to 10 / 15, of which one of two is right.
    assert BINS == 15
    assert calibration.error == pytest.approx(100 * (2 / 3 * abs(0.5 - 0.63) + 1 / 3 * abs(1 - 0.9)), abs=1e-4)


def test_calibration_error_does_not_depend_on_the_batches():
    logits, target = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 7
    whole, parts = Calibration(CPU), Calibration(CPU)
    whole(logits, target, IMAGE)
    for rows in torch.arange(40).split(9):
        parts(logits[rows], target[rows], IMAGE)
    assert whole.error == pytest.approx(parts.error, abs=1e-9)


def test_a_network_that_is_sure_and_right_has_no_calibration_error():
    calibration = Calibration(CPU)
    calibration(torch.tensor([[90.0, 0.0], [0.0, 90.0]]), torch.tensor([0, 1]), IMAGE)
    assert calibration.error == pytest.approx(0, abs=1e-9)


def test_agreement_asks_for_the_teachers_class_and_divergence_for_its_probabilities():
    teacher = Fixed(logits_of([0.5, 0.5], [0.9, 0.1]) + 3)
    agreement = Agreement(teacher)
    agreement(logits_of([0.75, 0.25], [0.4, 0.6]), torch.tensor([1, 1]), IMAGE)
    first = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    second = 0.9 * math.log(0.9 / 0.4) + 0.1 * math.log(0.1 / 0.6)
    assert agreement.top1 == 50 and agreement.divergence == pytest.approx((first + second) / 2, rel=1e-6)


def test_a_network_agrees_with_itself():
    logits = torch.randn(2, 5, generator=torch.Generator().manual_seed(0))
    agreement = Agreement(Fixed(logits))
    agreement(logits, torch.tensor([0, 1]), IMAGE)
    assert agreement.top1 == 100 and agreement.divergence == pytest.approx(0, abs=1e-12)


def test_of_a_network_with_more_classes_the_datas_are_compared():
    agreement = Agreement(Fixed(logits_of([0.8, 0.2], [0.3, 0.7])), torch.tensor([2, 0]))
    agreement(logits_of([0.1, 0.5, 0.4], [0.35, 0.5, 0.15]), torch.tensor([2, 2]), IMAGE)
    assert agreement.top1 == 100 and agreement.divergence == pytest.approx(0, abs=1e-6)


def test_observers_see_every_batch_of_an_evaluation():
    logits, target = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 1])
    confusion = Confusion(3, CPU)
    evaluate(Fixed(logits), 2 * [{"image": IMAGE, "target": target}], observers=[confusion])
    assert confusion.counts.tolist() == [[2, 0, 0], [0, 0, 2], [0, 0, 0]]
