"""A vision-language model behind chat endpoints as an inverse model: it names the actions in frame pairs, and scores
them where its server can.

It is asked what the same model on this machine is asked (`chat-inverse-1`), so that labels and likelihoods are the
same. `logprobs` say how likely the answer was; the likelihood of a given action takes vLLM's `prompt_logprobs`. What
was answered is kept: paid once, and never guessed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrodict.chat.cache import AnswerCache, open_cache, user_cache
from retrodict.chat.client import Chat, usage
from retrodict.chat.cost import Prices
from retrodict.chat.endpoint import Endpoint
from retrodict.chat.likelihoods import Read, Ruler, of_answer, of_prompt, ruler, unknown
from retrodict.chat.parsing import Failure, read_action
from retrodict.chat.request import OPENAI, Given, Request, Settings, build, check_served
from retrodict.files import JsonObject, visible
from retrodict.images import encode_png, shrunk
from retrodict.models.protocol import Explanation, LogProb, Pair, image_of
from retrodict.prompts import PROMPTS, VLM_PROMPT, VLM_SIDE, VLM_TOKENS
from retrodict.prompts.chat import as_chat, load_chat_prompt

PREFIX = "chat:"
OPTIONS = "prompt=explain_v1, width=32 (requests under way at each server), price=0.1/0.4 (of a million tokens)"
WAITING = ("transport", "unsent")  # reasons that another try may cure
_CANNOT = ("no prompt_logprobs", "http 400", "http 422")  # what an endpoint without likelihoods answers
_ANY = "a"  # an action that tells how a chat template ends a turn


class ChatInverse:
    """`InverseModel` behind endpoints.

    Args:
        name: `chat:MODEL`, or `chat:MODEL@URL[,URL...]` for endpoints other than OpenAI's, which all serve the model.
            Options come after the model, as in `chat:MODEL,prompt=explain_v1,width=32,price=0.1/0.4@URL`. The key comes
            from RETRODICT_JUDGE_KEY or OPENAI_API_KEY.
        cache: Keeps the answers; by default the user's cache folder does. Of several addresses, the first one names
            them there.
        timeout: Seconds until a request counts as lost.
        attempts: How often one is sent, at most.

    Raises:
        ValueError: An option or an address is none.
    """

    def __init__(
        self, name: str, cache: Path | None = None, *, timeout: float = 120.0, attempts: int = 8, slowest: float = 60.0
    ) -> None:
        spec, _, urls = name.removeprefix(PREFIX).partition("@")
        model, *options = spec.split(",")
        given = dict(_option(text) for text in options)
        prompt = given.get("prompt", VLM_PROMPT)
        self._plain = prompt == VLM_PROMPT
        self._prompt = as_chat(PROMPTS[prompt]) if self._plain else load_chat_prompt(prompt)
        self._settings = Settings(model, check_served(urls or OPENAI), logprobs=True)
        if self._plain:
            self._settings = replace(self._settings, max_tokens=VLM_TOKENS, schema="off")
        self._width = int(given.get("width", 8)) * len(self._settings.served.split(","))
        self._prices = Prices(*map(float, given["price"].split("/"))) if "price" in given else None
        self._cache = cache or user_cache("answers.sqlite")
        self._caller: dict[str, Any] = {"timeout": timeout, "attempts": attempts, "slowest": slowest}
        self._why_not = ""  # it cannot score
        self._usage: JsonObject = {}

    def explain(self, pairs: Sequence[Pair]) -> list[Explanation]:
        """One action per pair; no words where the model gave none that can be read.

        Its likelihood is that of its tokens and, where the server counts it among them, of the end of the turn; NaN
        with the reason where the server says nothing of it.

        Raises:
            ValueError: The endpoint left pairs unanswered: what it did answer is kept for the next call.
        """
        requests = [self._request(pair) for pair in pairs]
        with open_cache(self._cache) as cache:
            chat = self._fetch(requests, cache, "pairs")
            actions = [read_action(chat.reply(request), plain=self._plain) for request in requests]
            lost = [f for f in actions if isinstance(f, Failure) and f.reason in WAITING]
            if lost:
                raise ValueError(
                    f"{len(lost)} of {len(actions)} pairs got no answer ({lost[0].detail}): "
                    "the same command asks only those."
                )
            words = ["" if isinstance(action, Failure) else action for action in actions]
            answers = (cache.get(request.key) for request in requests)
            logprobs = [
                unknown("no action") if not action or answer is None else of_answer(answer.body)
                for action, answer in zip(words, answers, strict=True)
            ]
            left = [i for i, logprob in enumerate(logprobs) if words[i] and math.isnan(logprob.sum)]
            again = self._score([pairs[i] for i in left], [words[i] for i in left], cache)
            for i, logprob in zip(left, again, strict=True):
                logprobs[i] = logprob if math.isfinite(logprob.sum) else logprobs[i]
        return [Explanation(w, logprob, self._prompt.id) for w, logprob in zip(words, logprobs, strict=True)]

    def score(self, pairs: Sequence[Pair], actions: Sequence[str]) -> list[LogProb]:
        """log p(action, end of turn | source, target); NaN with the reason where the server does not say.

        Raises:
            ValueError: An action is empty, or the endpoint left pairs unanswered.
        """
        actions = [visible(action) for action in actions]
        if not all(actions):
            raise ValueError('The action is empty: say in words what happens, for example "push the red ball".')
        with open_cache(self._cache) as cache:
            logprobs = self._score(pairs, actions, cache)
        reasons = {logprob.reason for logprob in logprobs if logprob.reason}
        if reasons:
            _log(f"{self._settings.model} does not say how likely actions are ({'; '.join(sorted(reasons))})")
        return logprobs

    @property
    def usage(self) -> JsonObject:
        """Answers and tokens of the last call, and their cost where `price` is given."""
        return self._usage

    def _score(self, pairs: Sequence[Pair], actions: Sequence[str], cache: AnswerCache) -> list[LogProb]:
        if not self._plain:
            self._why_not = f"the answer to {self._prompt.id} is more than the action: leave out prompt="
        rulers = {} if self._why_not or not pairs else self._rulers(sorted(set(actions)), cache)
        if self._why_not:
            return [unknown(self._why_not) for _ in pairs]
        able = [i for i, action in enumerate(actions) if isinstance(rulers[action], Ruler)]
        requests = {i: self._request(pairs[i], Given(actions[i])) for i in able}
        chat = self._fetch(list(requests.values()), cache, "scores")
        logprobs = []
        for i, action in enumerate(actions):
            measure = rulers[action]
            if isinstance(measure, str):
                logprobs.append(unknown(measure))
                continue
            reply = chat.reply(requests[i])
            if reply.reason in WAITING:
                raise ValueError(f"Actions got no score ({reply.detail}): the same command asks only those.")
            logprobs.append(unknown(reply.detail) if reply.reason else measure.measure(_read(requests[i], cache)))
        return logprobs

    def _rulers(self, actions: Sequence[str], cache: AnswerCache) -> dict[str, Ruler | str]:
        """How to find each action in a prompt. The words alone tell, which are short; asked once per action."""
        question, opened = self._request(None, Given(None)), self._request(None, Given(_ANY, closed=False))
        closed = {action: self._request(None, Given(action)) for action in (_ANY, *actions)}
        chat = self._fetch([question], cache)
        if chat.reply(question).reason:
            if not any(chat.tally.counts[kind] for kind in _CANNOT):
                raise ValueError(f"Actions got no score ({chat.reply(question).detail}): the same command asks again.")
            self._why_not = f"the server does not: {chat.reply(question).detail}"
            return {}
        self._fetch([opened, *closed.values()], cache)
        first = ruler(_read(question, cache), _read(closed[_ANY], cache), _read(opened, cache), None)
        if isinstance(first, str):
            self._why_not = first
            return {}
        ends = len(first.ids) - first.counted + 1
        return {action: ruler(_read(question, cache), _read(closed[action], cache), None, ends) for action in actions}

    def _request(self, pair: Pair | None, given: Given | None = None) -> Request:
        """What is sent about a pair; without one, the words alone."""
        images = {}
        if pair is not None:
            source, target = (encode_png(shrunk(image_of(frame), VLM_SIDE)) for frame in pair)
            images = {"source": source, "target": target}
        return build("", self._prompt, self._settings, "", images, given=given)

    def _fetch(self, requests: Sequence[Request], cache: AnswerCache, what: str = "") -> Chat:
        chat = Chat(self._prompt, self._settings, cache, source=self._source, width=self._width)
        began = time.monotonic()
        chat.fetch(requests)
        fresh = chat.tally.fresh
        self._usage = usage((request.key for request in requests), fresh, cache, self._prices)
        if fresh and what:
            pace = len(fresh) / max(1e-9, time.monotonic() - began)
            cost = "" if self._prices is None else f", which cost {self._usage['cost_now']:.4f}"
            _log(f"{len(fresh):,} {what} answered ({pace:.1f} a second{cost})")
        return chat

    def _source(self) -> Endpoint:
        return Endpoint(self._settings, **self._caller)


def _read(request: Request, cache: AnswerCache) -> Read | None:
    answer = cache.get(request.key)
    return None if answer is None else of_prompt(answer.body)


def _option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    parts = value.split("/")
    fits = {
        "prompt": bool(value),
        "width": value.isdigit() and int(value) > 0,
        "price": len(parts) == 2 and all(part.replace(".", "", 1).isdigit() for part in parts),
    }
    if not fits.get(name):
        raise ValueError(f"{text} is no option of a chat endpoint: use {OPTIONS}.")
    return name, value


def _log(text: str) -> None:
    logging.getLogger("retrodict").warning("retrodict: %s", text)
