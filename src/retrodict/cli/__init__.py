"""The command line: parse, call one function per verb, print what came back.

Each module registers its commands when it is imported; the order here is the order in `retrodict --help`.
"""

# ruff: noqa: I001 (see above)
from retrodict.cli.app import app, main
from retrodict.cli import demo, data, train, predict, serve, bench, evaluate, judge, study, families, about

__all__ = [
    "about",
    "app",
    "bench",
    "data",
    "demo",
    "evaluate",
    "families",
    "judge",
    "main",
    "predict",
    "serve",
    "study",
    "train",
]
