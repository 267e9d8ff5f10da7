"""Retrodict what happened; predict what happens next.

The names below load what they need on first use, so that `import retrodict` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> the module that defines it, and its name there.
_HOMES = {
    "FramePair": ("retrodict.transitions", "FramePair"),
    "Sampling": ("retrodict.sampling", "Sampling"),
    "Transition": ("retrodict.transitions", "Transition"),
    "annotate": ("retrodict.bootstrap.annotate", "annotate_dir"),
    "bench": ("retrodict.evaluation.bench", "run_bench"),
    "explain": ("retrodict.api", "explain"),
    "load": ("retrodict.loading", "load"),
    "mine": ("retrodict.report.mining", "mine"),
    "predict": ("retrodict.api", "predict"),
    "rerank": ("retrodict.api", "rerank"),
    "rollout": ("retrodict.api", "rollout"),
    "score": ("retrodict.api", "score"),
    "select": ("retrodict.bootstrap.select", "select_dir"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'retrodict' has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return ["__version__", *_HOMES]
