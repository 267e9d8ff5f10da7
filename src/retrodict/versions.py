"""With which versions, and by which command, a result was made."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path

from retrodict.files import JsonMapping, JsonObject

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
    numbers = {"python": platform.python_version()}
    for name in _RECORDED:
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return numbers


def provenance(
    wall_seconds: float, *, config: JsonMapping | None = None, seed: int | None = None, command: str | None = None
) -> JsonObject:
    """How a result was made, as every `results.json` holds it.

    Args:
        wall_seconds: how long it took.
        config: the settings that were used.
        seed: the seed of everything that is sampled.
        command: the command as typed; by default the one that runs.

    Returns:
        `{"wall_seconds", "versions", "config", "seed", "command"}`, without a config or seed that is None.
    """
    return {
        "wall_seconds": round(wall_seconds, 1),
        "versions": versions(),
        **({} if config is None else {"config": dict(config)}),
        **({} if seed is None else {"seed": seed}),
        "command": command_line() if command is None else command,
    }


def command_line() -> str:
    """The command that runs, as it could be typed again; `python -m retrodict` is written `retrodict`."""
    name = Path(sys.argv[0]).name
    return shlex.join(["retrodict" if name == "__main__.py" else name, *sys.argv[1:]])
