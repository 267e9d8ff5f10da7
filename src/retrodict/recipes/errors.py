"""What is wrong with a recipe, in one line that names the key and, where it is unknown, the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def one_line(error: ValidationError, kind: type[BaseModel], path: Path, changed: Iterable[str]) -> str:
    """The first problem, with the file or the override it comes from and the key, and how many more there are."""
    # A misspelt key is both unknown and missing: its spelling is what to look at.
    problems = sorted(error.errors(include_url=False), key=lambda p: p["type"] != "extra_forbidden")
    first = problems[0]
    key = _key(first["loc"], kind)
    where = f"{path}: `{key}`" if key else str(path)
    if any(key == c or key.startswith(c + ".") for c in changed):
        where = f"--set {key}"
    if first["type"] == "extra_forbidden":
        reason = f"unknown key{_nearest(key, kind)}"
    elif first["type"] == "missing":
        reason = "is missing"
    else:
        reason = first["msg"].removeprefix("Value error, ")  # a validator of ours names the value itself
        given = "" if first["type"] == "value_error" else f"; it is {first['input']!r}"
        reason = f"{reason[:1].lower()}{reason[1:]}{given}"
    more = len({_key(p["loc"], kind) for p in problems}) - 1
    return f"{where}: {reason}" + (f" ({more} more to fix)" if more else "")


def _key(location: Sequence[int | str], kind: type[BaseModel]) -> str:
    """The dotted key of an error, without the parts that only name a branch of a union."""
    key: list[str] = []
    known: type[BaseModel] | None = kind
    for part in location:
        if known is None and isinstance(part, str):
            break
        key.append(str(part))
        if isinstance(part, str):  # a number stands for one item of a list of sections
            known = _section(known, part) if known else None
    return ".".join(key)


def _section(kind: type[BaseModel], key: str) -> type[BaseModel] | None:
    field = kind.model_fields.get(key)
    return _section_in(field.annotation) if field else None


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds: itself, where it may be left out, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _nearest(key: str, kind: type[BaseModel]) -> str:
    known = list(_known_keys(kind))
    leaf = key.rpartition(".")[2]
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    match = match or [k for k in known if k.rpartition(".")[2] == leaf][:1]
    match = match or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if match:
        return f"; did you mean `{match[0]}`?"
    return f"; known keys are {', '.join(kind.model_fields)}"


def _known_keys(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name in kind.model_fields:
        yield prefix + name
        if inner := _section(kind, name):
            yield from _known_keys(inner, f"{prefix}{name}.")
