"""Where the tests find real images and published weights: `$SHARED_DIR`, else `shared` beside the project."""

import os
from pathlib import Path

import pytest

PHOTOGRAPHS = 6


@pytest.fixture(scope="session")
def shared():
    """Path of the real test data; without it a test fails under CI=true and is skipped elsewhere."""
    path = Path(os.environ.get("SHARED_DIR", Path(__file__).resolve().parents[2] / "shared"))
    if not (path / "data").is_dir():
        message = f"real test data not found at {path}; set SHARED_DIR"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture
def photographs(shared, tmp_path):
    """ROOT/train and ROOT/val with one photograph a class, of PHOTOGRAPHS classes; the class folders are links."""
    source = shared / "data/imagenet_sample/val"
    for split in ("train", "val"):
        (tmp_path / "imagenet" / split).mkdir(parents=True)
        for folder in sorted(source.iterdir())[:PHOTOGRAPHS]:
            (tmp_path / "imagenet" / split / folder.name).symlink_to(folder)
    return tmp_path / "imagenet"
