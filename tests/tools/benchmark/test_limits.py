"""Operations and numbers of a step, counted."""

import torch

from tools.benchmark.limits import numbers_moved, operations_of


def test_operations_and_numbers_of_a_convolution():
    layer = torch.nn.Conv2d(3, 5, 1, bias=False)
    image = torch.zeros(2, 3, 4, 4)
    assert numbers_moved(layer, image) == image.numel() + 2 * 5 * 16 + 15
    forward = 2 * 2 * 16 * 15
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5))
    # The student's image needs no gradient, and so its only layer has two products.
    assert operations_of(Tuple(student), Tuple(layer), image) == forward + 2 * (2 * 2 * 48 * 5)


class Tuple(torch.nn.Module):
    """A network of one layer that returns features, none, as networks here do."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x), {}
