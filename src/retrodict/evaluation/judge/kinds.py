"""The judges that can be chosen by name: one record each, from which choices and help texts derive.

Nothing heavy is loaded before a judge is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrodict.chat.client import Source
    from retrodict.chat.request import Settings
    from retrodict.evaluation.judge.plan import Plan
    from retrodict.evaluation.judge.protocol import Judge
    from retrodict.transitions import Transition


@dataclass(frozen=True)
class Asked:
    """A model that answers prompts, and how it is reached."""

    settings: Settings
    source: Callable[[], Source]
    width: int  # requests under way at a time


@dataclass(frozen=True)
class JudgeKind:
    """A judge that can be chosen by name: a model that is prompted, or one that knows without a prompt."""

    about: str  # completes "NAME ...", for help texts
    asks: Callable[[Plan, Settings], Asked] | None = None
    knows: Callable[[Sequence[Transition]], Judge] | None = None
    takes_batches: bool = False  # its questions can be sent as a batch file


def _endpoint(plan: Plan, settings: Settings) -> Asked:
    from retrodict.chat.request import check_base_url

    settings = replace(settings, served=check_base_url(settings.served))

    def source() -> Source:
        from retrodict.chat.endpoint import Endpoint

        return Endpoint(settings, timeout=plan.timeout, attempts=plan.attempts)

    return Asked(settings, source, plan.width)


def _local(plan: Plan, settings: Settings) -> Asked:
    from retrodict.evaluation.judge.local import LocalModel

    model = LocalModel(settings.model)
    return Asked(model.settings(settings), model.source, plan.width)


def _exact(items: Sequence[Transition]) -> Judge:
    from retrodict.evaluation.judge.exact import ExactJudge

    return ExactJudge(items)


JUDGES: dict[str, JudgeKind] = {
    "endpoint": JudgeKind("asks an OpenAI-compatible server", asks=_endpoint, takes_batches=True),
    "local": JudgeKind("asks a vision-language model on this machine", asks=_local),
    "exact": JudgeKind("reads the state of a simulated world", knows=_exact),
}
