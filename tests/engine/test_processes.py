"""Several processes reach what one reaches, by every method."""

import pytest
import torch

from mdistiller.distillers import DISTILLERS
from tests.engine.processes import launcher, relational, steps

CASES = [
    *DISTILLERS,
    f"{relational.__file__}:Relational",
    f"{relational.__file__}:Local",
    "SKD SKD.FORM=paper",
    "KD SOLVER.TRAINER=dot",
    "SKD SOLVER.TRAINER=dot",
    "KD DATASET.AUGMENT=strong",
    "KD SOLVER.CLIP_GRAD=0.1",
    "MLKD MLKD.VIEWS=2 DATASET.AUGMENT=two-view",
    "CRD CRD.MODE=relax",
]
TOLERANCE = {"KDSVD": 1e-4}  # whose singular vectors are taken in float32


@pytest.fixture(scope="module")
def reached(tmp_path_factory):
    """What `size` processes reach by each case, {case: …}."""
    folder, known = tmp_path_factory.mktemp("processes"), {}

    def of(size, dtype="float64"):
        if (size, dtype) not in known:
            path = folder / f"{size}-{dtype}.pt"
            launcher.run(size, steps.__file__, path, dtype, *CASES)
            known[size, dtype] = torch.load(path)
        return known[size, dtype]

    return of


def assert_close(found, expected, tolerance):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=False)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.rpartition("/")[2])
def test_losses_gradients_and_weights_are_those_of_one_process(reached, case, size):
    tolerance = TOLERANCE.get(case, 1e-9)
    found, expected = reached(size)[case], reached(1)[case]
    assert_close(found["result"], expected["result"], tolerance)
    assert_close(found["terms"], expected["terms"], tolerance)
    assert_close(found["norms"], expected["norms"], tolerance)
    assert_close(found["state"], expected["state"], tolerance)
