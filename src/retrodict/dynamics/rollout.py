"""Several actions in a row: each step is verified, and the next one starts from the frame that was chosen."""

from __future__ import annotations

from collections.abc import Sequence

from retrodict.dynamics.verify import Prediction, Verifier, predict
from retrodict.models.protocol import ForwardModel, Frame


def rollout(
    forward: ForwardModel, verifier: Verifier | None, source: Frame, actions: Sequence[str], *, n: int, seed: int
) -> list[Prediction]:
    """One prediction per action, in order. Errors are those of `predict`.

    A chosen candidate is handed on as it is, with its image codes: decoding and encoding again would add an error at
    each step that no step made.
    """
    steps: list[Prediction] = []
    frame = source
    for action in actions:
        steps.append(predict(forward, verifier, frame, action, n=n, seed=seed))
        frame = steps[-1].candidate
    return steps
