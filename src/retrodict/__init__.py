"""Retrodict what happened; predict what happens next.

The names below load what they need on first use, so that `import retrodict` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

__all__ = [
    "Explanation",
    "FramePair",
    "Plan",
    "Prediction",
    "Sampling",
    "Transition",
    "annotate",
    "bench",
    "compare_runs",
    "explain",
    "load",
    "mine",
    "plan",
    "predict",
    "predict_batch",
    "read_transitions",
    "rerank",
    "rerank_tasks",
    "rollout",
    "run_bootstrap",
    "score",
    "select",
    "train",
    "write_pairs",
    "write_report",
]

if TYPE_CHECKING:  # the same names for type checkers and editors, which see the real signatures
    from retrodict.api import explain, plan, predict, predict_batch, rerank, rerank_tasks, rollout, score
    from retrodict.data.convert import write_pairs
    from retrodict.dynamics.best_of_n import Prediction
    from retrodict.dynamics.planning import Plan
    from retrodict.evaluation.compare import compare_runs
    from retrodict.loading import load
    from retrodict.models.protocol import Explanation
    from retrodict.report import write_report
    from retrodict.report.mining import mine
    from retrodict.report.runs import bench
    from retrodict.sampling import Sampling
    from retrodict.stages import annotate, run_bootstrap, select, train
    from retrodict.transitions import FramePair, Transition, read_transitions
else:
    _HOMES = {
        "Explanation": "models.protocol",
        "FramePair": "transitions",
        "Plan": "dynamics.planning",
        "Prediction": "dynamics.best_of_n",
        "Sampling": "sampling",
        "Transition": "transitions",
        "annotate": "stages",
        "bench": "report.runs",
        "compare_runs": "evaluation.compare",
        "load": "loading",
        "mine": "report.mining",
        "read_transitions": "transitions",
        "run_bootstrap": "stages",
        "select": "stages",
        "train": "stages",
        "write_pairs": "data.convert",
        "write_report": "report",
    }

    def __getattr__(name):
        if name not in __all__:
            raise AttributeError(f"module 'retrodict' has no attribute {name!r}")
        return getattr(import_module(f"retrodict.{_HOMES.get(name, 'api')}"), name)

    def __dir__():
        return ["__version__", *__all__]
