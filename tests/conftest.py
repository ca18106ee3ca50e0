"""Fixtures for all tests. One torch thread: several workers share the cores, and sums keep their order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def example_data() -> Path:
    """Folder with real clips and images (``video/``, ``image/``), named by SSVAE_EXAMPLE_DATA.

    Absent: the test skips and says so; absent where CI=true: the test fails.
    """
    place = os.environ.get("SSVAE_EXAMPLE_DATA", "")
    if place and (Path(place) / "video").is_dir():
        return Path(place)
    reason = f"SSVAE_EXAMPLE_DATA={place!r} is no folder with video/ and image/: the real example clips are not here"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
