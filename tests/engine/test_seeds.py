"""The state of the global generators: what is drawn after setting it is what was drawn after taking it."""

import random

import numpy as np
import torch

from mdistiller.engine.seeds import generators_state, seed_everything, set_generators_state


def draws():
    return random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()


def test_draws_repeat_from_a_state_that_went_through_a_weight_file(tmp_path):
    seed_everything(3)
    draws()
    torch.save(generators_state(), tmp_path / "state.pth")
    first = draws()
    seed_everything(4)
    set_generators_state(torch.load(tmp_path / "state.pth", weights_only=True))
    assert draws() == first


def test_a_seed_repeats_itself_and_another_does_not():
    drawn = []
    for seed in (2021, 2021, 2**40):
        seed_everything(seed)
        drawn.append(draws())
    assert drawn[0] == drawn[1] != drawn[2]
