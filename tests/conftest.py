"""Where the tests find real images and published weights: `$SHARED_DIR`, else `shared` beside the project."""

import os
from pathlib import Path

import pytest


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
