"""A vision-language model behind a chat endpoint as an inverse model: it explains frame pairs in words.

Endpoints do not say how likely they find a given text, so it cannot score: it annotates, and verifies nothing. What it
answers is kept: paid once, and never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from retrodict.chat.cache import open_cache, user_cache
from retrodict.chat.client import Chat
from retrodict.chat.endpoint import Endpoint
from retrodict.chat.parsing import Failure, read_action
from retrodict.chat.request import OPENAI, Request, Settings, build, check_base_url
from retrodict.images import encode_png
from retrodict.models.protocol import Explanation, LogProb, Pair, image_of
from retrodict.prompts.chat import load_chat_prompt

PREFIX = "chat:"
PROMPT = "explain_v1"
WAITING = ("transport", "unsent")  # reasons that another try may cure


class ChatExplainer:
    """`name` is `chat:MODEL`, or `chat:MODEL@BASE_URL` for an endpoint other than OpenAI's; the key comes from
    RETRODICT_JUDGE_KEY or OPENAI_API_KEY. `cache` keeps the answers; by default the user's cache folder does."""

    def __init__(self, name: str, cache: Path | None = None, *, timeout: float = 120.0, attempts: int = 8) -> None:
        model, _, url = name.removeprefix(PREFIX).partition("@")
        self._settings = Settings(model, check_base_url(url or OPENAI))
        self._prompt = load_chat_prompt(PROMPT)
        self._cache = cache or user_cache("answers.sqlite")
        self._timeout, self._attempts = timeout, attempts

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        """One action per pair, without a likelihood; no words where the model gave none that can be read.

        Raises `ValueError` when the endpoint left pairs unanswered: what it did answer is kept for the next call.
        """
        requests = [self._request(i, pair) for i, pair in enumerate(pairs)]
        with open_cache(self._cache) as cache:
            chat = Chat(self._prompt, self._settings, cache, source=self._source)
            chat.fetch(requests)
            actions = [read_action(chat.reply(request)) for request in requests]
        lost = [f for f in actions if isinstance(f, Failure) and f.reason in WAITING]
        if lost:
            raise ValueError(
                f"{len(lost)} of {len(actions)} pairs got no answer ({lost[0].detail}): "
                "the same command asks only those."
            )
        nothing = LogProb(math.nan, 0)
        return [Explanation("" if isinstance(f, Failure) else f, nothing, self._prompt.id) for f in actions]

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        raise ValueError("A chat endpoint does not say how likely an action is: it explains and cannot verify.")

    def _request(self, i: int, pair: Pair) -> Request:
        source, target = (encode_png(image_of(frame).convert("RGB")) for frame in pair)
        return build(str(i), self._prompt, self._settings, "", {"source": source, "target": target})

    def _source(self) -> Endpoint:
        return Endpoint(self._settings, timeout=self._timeout, attempts=self._attempts)
