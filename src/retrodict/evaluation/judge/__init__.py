"""Judges: who says how well an action was done when no exact state can be compared.

    from retrodict.evaluation.judge import Plan, Settings, judge_run
    judge_run(Path("runs/bench"), Plan(settings=Settings(model="qwen-vl", served="http://localhost:8000/v1")))

`judge_run` judges a run's predictions, `Judge` is the interface of all judges, `Question` and `Verdict` what goes in
and comes out. Nothing is guessed: what cannot be scored is NaN with a reason, and is counted.
"""

from retrodict.chat.parsing import Reason
from retrodict.chat.request import Settings
from retrodict.evaluation.judge.offline import batch_in, batch_out, dry_run
from retrodict.evaluation.judge.plan import Plan
from retrodict.evaluation.judge.protocol import Judge, Question, Verdict
from retrodict.evaluation.judge.run import judge_run

__all__ = [
    "Judge",
    "Plan",
    "Question",
    "Reason",
    "Settings",
    "Verdict",
    "batch_in",
    "batch_out",
    "dry_run",
    "judge_run",
]
