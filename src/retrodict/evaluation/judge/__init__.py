"""Judges: who says how well an action was done when no exact state can be compared.

    from retrodict.chat.request import Settings
    from retrodict.evaluation.judge.plan import Plan
    from retrodict.evaluation.judge.run import judge_run
    judge_run(Path("runs/bench"), Plan(settings=Settings(model="qwen-vl", served="http://localhost:8000/v1")))

`judge_run` judges a run's predictions, `protocol.Judge` is the interface of all judges, `Question` and `Verdict` what
goes in and comes out, `kinds.JUDGES` the judges by name. Nothing is guessed: what cannot be scored is NaN with a
reason, and is counted.
"""
