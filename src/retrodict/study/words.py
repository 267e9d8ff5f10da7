"""The words of the pages. English ones are in `words.json`; a study may replace any of them, for another language."""

from __future__ import annotations

import difflib
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path

from retrodict.study.plan import Plan

ENGLISH = Path(__file__).with_name("words.json")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")


@functools.cache
def english() -> Mapping[str, str]:
    words: Mapping[str, str] = json.loads(ENGLISH.read_text(encoding="utf-8"))
    return words


def words_of(plan: Plan) -> Mapping[str, str]:
    return {**english(), **plan.words}


def read_words(path: Path) -> dict[str, str]:
    """Another language's words: a JSON object with some or all names of `words.json`.

    Raises:
        ValueError: it is no such object, has an unknown name, lacks a `{field}`, or names no language or direction.
    """
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON in UTF-8: {error}.") from None
    if not isinstance(words, dict) or not all(isinstance(text, str) for text in words.values()):
        raise ValueError(f"{path} must map names to texts, as `retrodict study words` prints them.")
    for name, text in words.items():
        if name not in english():
            near = difflib.get_close_matches(name, english(), 1, 0)
            raise ValueError(f"{path}: there is no text called {name}; did you mean {near[0]}?")
        if lacking := _fields(english()[name]) ^ _fields(text):
            raise ValueError(f"{path}: {name} must have the same fields as in English ({', '.join(sorted(lacking))}).")
    if words.get("dir", "ltr") not in ("ltr", "rtl"):
        raise ValueError(f'{path}: dir is "ltr" or "rtl".')
    if not _LANGUAGE.fullmatch(words.get("lang", "en")):
        raise ValueError(f"{path}: lang is a language tag such as ar or pt-BR.")
    return words


def _fields(text: str) -> set[str]:
    return set(re.findall(r"\{\w+\}", text))
