"""From a raw answer to the value asked for, strictly: what is not certainly an answer is a failure with a reason.

An answer is accepted when it holds exactly one JSON object, and that has the key that was asked for. Prose or a code
fence around it is ignored as long as it has no braces; a leading `<think>` block is removed first. A whole answer that
is a Python dictionary (single quotes) is read as one. Two objects, a stray brace, a key given twice, one score, three
scores, words in place of numbers: parse failures. Nothing is rounded, clipped or repaired.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from retrodict.files import JsonMapping, JsonObject

Reason = Literal[
    "",
    "refused",  # the model declined
    "filtered",  # the provider's content filter stopped question or answer
    "parse",  # the answer is not the object that was asked for
    "range",  # a score lies outside 0 to 10
    "transport",  # no answer arrived
    "missing",  # there is no image to ask about
    "unsent",  # not asked: the budget, the endpoint or a batch has not let it through yet
]
LONGER = "a larger --max-tokens allows more"
PARSER = "strict-3"  # changes whenever the same answer would be read differently

# How models mark what they think before they answer: tags, Kimi's triangles, Magistral's brackets, and the channels of
# gpt-oss, of which "final" is the answer.
_TAG = r"(?:\w+:)?(?:think|thinking|thought|reasoning)"
_THINKING = re.compile(
    rf"\A.*(?:</{_TAG}>|\u25c1/think\u25b7|\[/THINK\]|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>)",
    re.DOTALL | re.I,
)
_STILL_THINKING = re.compile(
    rf"\A\s*(?:<{_TAG}>|\u25c1think\u25b7|\[THINK\]|<\|begin_of_thought\|>|(?:<\|start\|>assistant)?<\|channel\|>)",
    re.I,
)
_FENCE = re.compile(r"\A```[\w-]*\s*(.*?)\s*```\Z", re.DOTALL)
_DECLINED = re.compile(
    r"\bi(?:['\u2019]?m| am) (?:very )?(?:sorry|unable)\b|\bi (?:can['\u2019]t|cannot|won['\u2019]t)\b", re.I
)
_FILTERED = frozenset(  # codes and finish reasons of a content filter
    {
        *("content_filter", "content_policy_violation", "contentpolicyviolationerror", "responsibleaipolicyviolation"),
        *("moderation_blocked", "invalid_prompt", "data_inspection_failed", "safety", "image_safety", "blocklist"),
        *("prohibited_content", "recitation", "spii"),
    }
)
_SAYS_FILTERED = re.compile(
    r"content[ _-]?(?:filter|policy|management policy)|\bflagged\b|\bmoderation\b|safety system", re.I
)
# Finish reasons of a provider that failed behind a router that did not.
_BROKE = frozenset({"error", "abort", "aborted", "network_error", "insufficient_system_resource"})
TAIL = 256  # tokens of a prompt whose likelihoods are kept: those of images are thousands
DROPPED = "prompt_logprobs_dropped"
_MOST_TOKENS = 1_000_000_000  # a count above is none
_DEEPEST = 8  # levels of an error within errors


@dataclass(frozen=True)
class Reply:
    """What an endpoint's answer says. `reason` is set where there is no text to read scores from."""

    text: str = ""
    reason: Reason = ""
    detail: str = ""
    model: str = ""  # as the server names it
    cut_off: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class Failure:
    reason: Reason
    detail: str


def read_body(body: JsonMapping) -> Reply:
    """A chat-completion body, or an error body, as a `Reply`; "transport" where it is neither.

    Whatever the body holds, it costs this answer alone: nothing is raised.
    """
    try:
        return _read(body)
    except Exception as error:  # what servers send is anybody's guess, and what is kept would end every later run
        return Reply(reason="parse", detail=f"an answer that cannot be read ({type(error).__name__})")


def _read(body: JsonMapping) -> Reply:
    if body.get("error"):
        return _read_error(body["error"])
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        if is_filtered(body):  # Gemini's promptFeedback
            return Reply(reason="filtered", detail="content filter on the question")
        return Reply(reason="transport", detail="the answer holds no choices")
    choice = choices[0]
    if choice.get("error"):
        return _read_error(choice["error"])
    ended = str(choice.get("finish_reason") or "").casefold()
    if ended in _BROKE:
        return Reply(reason="transport", detail=f"the provider broke off ({ended})")
    usage = body.get("usage") if isinstance(body.get("usage"), dict) else {}
    assert isinstance(usage, dict)
    counts: JsonObject = {
        "model": _text(body.get("model")),
        "prompt_tokens": _count(usage.get("prompt_tokens")),
        "completion_tokens": _count(usage.get("completion_tokens")),
        "cut_off": ended == "length",
    }
    message = choice.get("message") if isinstance(choice.get("message"), dict) else {}
    assert isinstance(message, dict)
    if _FILTERED.intersection(re.split(r"\W+", ended)):  # also `content_filter: PROHIBITED_CONTENT`
        return Reply(reason="filtered", detail=f"content filter on the answer ({ended})", **counts)
    if message.get("refusal"):
        return Reply(reason="refused", detail=shorten(_sound(str(message["refusal"]))), **counts)
    return Reply(text=_text(message.get("content")), **counts)


def is_filtered(error: object, depth: int = _DEEPEST) -> bool:
    """Whether an error says that a content filter stopped the question, at whatever level routers have wrapped it."""
    if not depth:
        return False
    if isinstance(error, str):
        return bool(_SAYS_FILTERED.search(error))
    if isinstance(error, list):
        return any(is_filtered(part, depth - 1) for part in error)
    if not isinstance(error, dict):
        return False
    codes = (str(value).casefold() for value in error.values() if isinstance(value, str))
    return any(code in _FILTERED for code in codes) or any(is_filtered(part, depth - 1) for part in error.values())


def _read_error(error: object) -> Reply:
    message = error.get("message") if isinstance(error, dict) else error
    detail = shorten(_sound(str(message or error)))
    return Reply(reason="filtered" if is_filtered(error) else "transport", detail=detail)


def only_end(body: JsonObject) -> JsonObject:
    """The body with the last `TAIL` of `prompt_logprobs`."""
    entries = body.get("prompt_logprobs")
    if not isinstance(entries, list) or len(entries) <= TAIL:
        return body
    return {**body, "prompt_logprobs": entries[-TAIL:], DROPPED: len(entries) - TAIL}


def _count(value: object) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_TOKENS
    return value if is_count and isinstance(value, int) else None


def _text(content: object) -> str:
    if isinstance(content, list):
        parts = (str(p.get("text") or "") for p in content if isinstance(p, dict) and p.get("type") == "text")
        return _sound("".join(parts))
    return _sound(content) if isinstance(content, str) else ""


def _sound(text: str) -> str:
    """A text that can be written: half a character, which JSON can hold, is a question mark."""
    return text.encode("utf-8", "replace").decode()


def read_action(reply: Reply, *, plain: bool = False) -> str | Failure:
    """The words of an action; a failure where there are none. With `plain`, an answer without braces is the action."""
    text = _THINKING.sub("", reply.text, count=1)
    if plain and not reply.reason and "{" not in text and not _STILL_THINKING.search(text):
        words = " ".join(text.split())
        if not words:
            return Failure("parse", "empty answer")
        return Failure("refused", shorten(words)) if _DECLINED.search(words[:200]) else words
    action = read_answer(reply, "action")
    if isinstance(action, Failure):
        return action
    words = " ".join(action.split()) if isinstance(action, str) else ""
    return words or Failure("parse", f"no words: {shorten(json.dumps(action, default=str))}")


def read_answer(reply: Reply, key: str) -> object | Failure:
    """The value under `key` of the one object that an answer holds."""
    if reply.reason:
        return Failure(reply.reason, reply.detail)
    text = _THINKING.sub("", reply.text, count=1).strip()
    if not text:
        return Failure("parse", f"cut off before the answer; {LONGER}" if reply.cut_off else "empty answer")
    if _STILL_THINKING.search(text):
        return Failure("parse", f"cut off while thinking; {LONGER}")
    answer = _only_object(text)
    if answer is not None and key in answer:
        return Failure("parse", f"{key} is given twice") if answer[key] is _TWICE else answer[key]
    if _DECLINED.search(text[:200]) and "{" not in text:
        return Failure("refused", shorten(text))
    return Failure("parse", f"cut off; {LONGER}: {shorten(text)}" if reply.cut_off else f"no {key}: {shorten(text)}")


class _Twice:
    """In place of the value of a key that an object gives twice."""


_TWICE = _Twice()


def _pairs(pairs: Sequence[tuple[str, object]]) -> JsonObject:
    values: JsonObject = {}
    for name, value in pairs:
        values[name] = _TWICE if name in values else value
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _only_object(text: str) -> JsonObject | None:
    """The JSON object in a text that has no other brace; else the Python dictionary that the whole text is."""
    decoder = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_constant)
    at = text.find("{")
    try:
        value, end = decoder.raw_decode(text, at)
    except (ValueError, RecursionError):
        return _python(text)
    return value if at >= 0 and isinstance(value, dict) and not re.search(r"[{}]", text[end:]) else None


def _python(text: str) -> JsonObject | None:
    fenced = _FENCE.match(text)
    try:
        node = ast.parse(fenced[1] if fenced else text, mode="eval").body
        if not isinstance(node, ast.Dict):
            return None
        names = [ast.literal_eval(key) for key in node.keys if key is not None]
        if len(names) != len(node.keys) or not all(isinstance(name, str) for name in names):
            return None
        return _pairs(list(zip(names, (ast.literal_eval(v) for v in node.values), strict=True)))
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def shorten(text: str, limit: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."
