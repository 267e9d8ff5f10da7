"""What is wrong with a recipe, in one line that names the key and, where it is unknown, the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import get_args, get_type_hints

from pydantic import BaseModel, ValidationError

from retrodict.files import JsonMapping, JsonObject

Kind = type[object]  # a section: a pydantic model or a dataclass


def one_line(error: ValidationError, kind: Kind, path: Path, changed: Iterable[str]) -> str:
    """The first problem, with the file or the override it comes from and the key, and how many more there are."""
    # A misspelt key is both unknown and missing: its spelling is what to look at.
    problems = sorted(error.errors(include_url=False), key=lambda p: not _is_unknown(p))
    first = problems[0]
    key = _key(first["loc"], kind)
    where = f"{path}: `{key}`" if key else str(path)
    if any(key == c or key.startswith(c + ".") for c in changed):
        where = f"--set {key}"
    elif override := next((c for c in changed if key and c.startswith(key + ".")), None):
        where = f"--set {override}"  # a section as a whole was refused for what the override gave it
    if _is_unknown(first):
        reason = f"unknown key{nearest(key, kind)}"
    elif first["type"] == "missing":
        reason = "is missing"
    else:
        reason = first["msg"].removeprefix("Value error, ")  # a validator of ours names the value itself
        given = "" if first["type"] == "value_error" else f"; it is {first['input']!r}"
        reason = f"{reason[:1].lower()}{reason[1:]}{given}"
    more = len({_key(p["loc"], kind) for p in problems}) - 1
    return f"{where}: {reason}" + (f" ({more} more to fix)" if more else "")


def _is_unknown(problem: JsonMapping) -> bool:
    return problem["type"] in ("extra_forbidden", "unexpected_keyword_argument")


def _key(location: Sequence[str | int], kind: Kind) -> str:
    """The dotted key of an error, without the parts that only name a branch of a union."""
    key: list[str] = []
    known: Kind | None = kind
    for part in location:
        if known is None and isinstance(part, str):
            break
        key.append(str(part))
        if isinstance(part, str):  # a number stands for one item of a list of sections
            known = _section(known, part) if known else None
    return ".".join(key)


def keys_of(kind: Kind) -> JsonObject:
    """The keys of a section and their types."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    assert dataclasses.is_dataclass(kind)
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _section(kind: Kind, key: str) -> Kind | None:
    return section_in(keys_of(kind).get(key))


def section_in(annotation: object) -> Kind | None:
    """The section that a field holds: itself, where it may be left out, or in a list."""
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)


def nearest(key: str, kind: Kind) -> str:
    """The end of a message on an unknown key: what it is called now, the nearest known one, or all."""
    known = list(_known_keys(kind))
    path, _, leaf = key.rpartition(".")
    holder: Kind | None = kind
    for part in filter(None, path.split(".")):
        holder = _section(holder, part) if holder and not part.isdecimal() else holder
    if now := getattr(holder, "renamed", {}).get(leaf):
        return f": it is called `{now}` now"
    match = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    match = match or [k for k in known if k.rpartition(".")[2] == leaf][:1]
    match = match or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if match:
        return f"; did you mean `{match[0]}`?"
    return f"; known keys are {', '.join(keys_of(kind))}"


def _known_keys(kind: Kind, prefix: str = "") -> Iterator[str]:
    for name in keys_of(kind):
        yield prefix + name
        if inner := _section(kind, name):
            yield from _known_keys(inner, f"{prefix}{name}.")
