"""What all tests share."""

from __future__ import annotations

import os

# Before any library reads them: no test reaches for a model hub, and two test processes do not fight over cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
