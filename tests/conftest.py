"""What all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any library reads them: no test reaches for a model hub, and two test processes do not fight over cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real clips and annotation samples, which are not ours to publish; tests that need them skip without them."""
    given = os.environ.get("RETRODICT_SHARED_DATA")
    folder = Path(given) if given else Path(__file__).parents[2] / "shared" / "data"
    if not (folder / "clips" / "manifest.csv").is_file():
        pytest.skip(f"no real clips in {folder}; RETRODICT_SHARED_DATA names their folder")
    return folder
