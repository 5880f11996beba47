"""Tests of data run on drawn pictures and, where there are any, on real ones."""

import pytest


@pytest.fixture(scope="session", params=["drawn", "real"])
def samples(request):
    """A folder with `cifar100_sample` and `imagenet_sample`."""
    if request.param == "drawn":
        return request.getfixturevalue("drawn_samples")
    return request.getfixturevalue("shared") / "data"
