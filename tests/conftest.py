"""Where the tests find images: they draw their own; `$SHARED_DIR` has real ones, and published weights."""

import os
from pathlib import Path

import pytest
import torch

from tests.dataset.pictures import PHOTOGRAPHS, draw_samples

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores, which more threads would take from each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what tests start
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared():
    """Path of the real test data, $SHARED_DIR; where that is unset the test is skipped, where it is wrong it fails."""
    if "SHARED_DIR" not in os.environ:
        pytest.skip("needs real test data; set SHARED_DIR")
    path = Path(os.environ["SHARED_DIR"])
    if not (path / "data").is_dir():
        pytest.fail(f"SHARED_DIR is {path}, which has no folder data")
    return path


@pytest.fixture(scope="session")
def drawn_samples(tmp_path_factory):
    """A folder with `cifar100_sample` and `imagenet_sample`, as $SHARED_DIR/data has them, of drawn pictures."""
    folder = tmp_path_factory.mktemp("samples")
    draw_samples(folder)
    return folder


@pytest.fixture(scope="session")
def samples(request):
    """The folder of the real `cifar100_sample` and `imagenet_sample`, or of drawn ones where SHARED_DIR is unset."""
    if "SHARED_DIR" in os.environ:
        return request.getfixturevalue("shared") / "data"
    return request.getfixturevalue("drawn_samples")


@pytest.fixture
def photographs(samples, tmp_path):
    """ROOT/train and ROOT/val with one photograph a class, of six classes; the class folders are links."""
    source = samples / "imagenet_sample/val"
    for split in ("train", "val"):
        (tmp_path / "imagenet" / split).mkdir(parents=True)
        for folder in sorted(source.iterdir())[: len(PHOTOGRAPHS)]:
            (tmp_path / "imagenet" / split / folder.name).symlink_to(folder)
    return tmp_path / "imagenet"
