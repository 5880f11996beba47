"""The memory that functions take."""

import pytest
import torch

from tools.benchmark.memory import extra_memory


def test_memory_is_that_of_the_tensors_at_their_peak():
    def run():
        torch.zeros(2**18).exp()
        torch.zeros(2**18)

    assert extra_memory(run, torch.device("cpu")) == pytest.approx(2, abs=0.1)
