"""With which versions, and by which command, a result was made."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

_RECORDED = (
    "retrodict",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "av",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pyarrow",
)


def versions() -> dict[str, str]:
    """Version of Python and of every recorded package that is installed, by name."""
    found = {"python": platform.python_version()}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def command_line() -> str:
    """The command that runs, as it could be typed again; `python -m retrodict` is written `retrodict`."""
    name = Path(sys.argv[0]).name
    return shlex.join(["retrodict" if name == "__main__.py" else name, *sys.argv[1:]])
