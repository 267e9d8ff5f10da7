"""A model that is asked in words: whichever way answers arrive, they are kept first and read afterwards.

Answers come from a `Source`, an endpoint or a model on this machine, and stay in the cache; reading them needs no
network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from retrodict.chat.cache import AnswerCache
from retrodict.chat.cost import Budget
from retrodict.chat.parsing import Reply, read_body
from retrodict.chat.prompt import JudgePrompt
from retrodict.chat.provenance import chat_facts
from retrodict.chat.queue import Source, Tally, answer
from retrodict.chat.request import Request, Settings
from retrodict.progress import Progress


@dataclass
class Chat:
    """A model that is asked in words, with what it has answered so far. Without a `source` the cache alone answers."""

    prompt: JudgePrompt
    settings: Settings
    cache: AnswerCache
    kind: str = "endpoint"
    source: Callable[[], Source] | None = None  # one per call, as it belongs to an event loop
    width: int = 8
    budget: Budget | None = None
    tally: Tally = field(default_factory=Tally)
    used: dict[str, None] = field(default_factory=dict)  # keys of all answers that were read, in order

    @property
    def facts(self) -> Mapping[str, Any]:
        return chat_facts(self.kind, self.prompt, self.settings)

    def fetch(self, requests: Sequence[Request], progress: Progress | None = None) -> None:
        """Have what is missing answered, where there is a source."""
        if self.source is not None:
            answer(
                requests,
                self.cache,
                self.source(),
                self.tally,
                width=self.width,
                budget=self.budget,
                progress=progress,
            )

    def reply(self, request: Request) -> Reply:
        """The kept answer, or why there is none."""
        found = self.cache.get(request.key)
        if found is None:
            reason, detail = self.tally.failed.get(request.key, ("unsent", "not asked yet"))
            return Reply(reason=reason, detail=detail)
        self.used[request.key] = None
        return read_body(found.body)
