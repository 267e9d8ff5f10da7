"""Every key of a recipe with its type, default and meaning, read from the sections themselves."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, TypeAdapter
from pydantic_core import PydanticUndefined

from retrodict.files import JsonMapping
from retrodict.recipes.errors import Kind, keys_of, nearest, section_in

_REQUIRED = object()
_BOUNDS = {"exclusiveMinimum": ">", "minimum": "≥", "exclusiveMaximum": "<", "maximum": "≤"}
_TYPES = {"boolean": "true or false", "integer": "integer", "number": "number", "string": "text", "object": "section"}


@dataclass(frozen=True)
class Key:
    """One key of a recipe."""

    name: str
    """Dotted; `[]` after a list stands for each of its items."""
    type: str
    default: str
    meaning: str
    section: Kind | None
    """What its own keys are, where it has any."""

    def __str__(self) -> str:
        return f"{self.name}: {self.type}; default: {self.default}\n    {self.meaning}"


def keys(kind: Kind, prefix: str = "", defaults: object = None) -> Iterator[Key]:
    """All keys of a section and of those inside it, in their order.

    Args:
        kind: The section: a pydantic model or a dataclass.
        prefix: What stands before each name.
        defaults: A section whose values are the defaults here; by default the class's own.
    """
    schema = TypeAdapter(kind).json_schema()
    for name, annotation in keys_of(kind).items():
        default = getattr(defaults, name) if defaults is not None else _default(kind, name)
        inner = section_in(annotation)
        kind_of_value = schema["properties"][name]
        meaning = _meaning(kind, name) or (inspect.getdoc(inner) or "" if inner else "")
        yield Key(prefix + name, _type(kind_of_value, schema), _value(default), " ".join(meaning.split()), inner)
        if inner:
            listed = isinstance(default, tuple) or "items" in str(kind_of_value)
            own = default if isinstance(default, inner) else None
            yield from keys(inner, f"{prefix}{name}{'[]' if listed else ''}.", own)


def explain(kinds: JsonMapping, wanted: str) -> str:
    """What a key means: it, and the keys inside it; or all keys that end so.

    Args:
        kinds: The recipes to look in, by name.
        wanted: A dotted key (`forward.steps`), or its last part (`steps`).

    Raises:
        ValueError: No recipe has such a key; the nearest one is named.
    """
    known = {name: list(keys(kind)) for name, kind in kinds.items()}
    dotted = wanted.replace("[]", "")

    def told(match: str) -> str:
        return "\n".join(
            f"[{name}] {key}"
            for name, all_keys in known.items()
            for key in all_keys
            if (plain := key.name.replace("[]", "")) == dotted
            or (plain.startswith(f"{dotted}.") if match == "inside" else plain.rpartition(".")[2] == dotted)
        )

    if text := told("inside") or told("last part"):
        return text
    raise ValueError(f"No recipe has a key `{wanted}`{nearest(wanted, next(iter(kinds.values())))}")


def _default(kind: Kind, name: str) -> object:
    if issubclass(kind, BaseModel):
        value = kind.model_fields[name].get_default(call_default_factory=False)
        return _REQUIRED if value is PydanticUndefined else value
    assert dataclasses.is_dataclass(kind)
    return next(field.default for field in dataclasses.fields(kind) if field.name == name)


def _meaning(kind: Kind, name: str) -> str:
    if issubclass(kind, BaseModel):
        return kind.model_fields[name].description or ""
    assert dataclasses.is_dataclass(kind)
    return str(next(field.metadata.get("help", "") for field in dataclasses.fields(kind) if field.name == name))


def _value(default: object) -> str:
    if default is _REQUIRED:
        return "required"
    if isinstance(default, BaseModel) or dataclasses.is_dataclass(default):
        return "those of its keys"
    if default is None or default == () or default == "":
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return f"[{', '.join(map(_value, default))}]"
    return str(default.as_posix() if isinstance(default, Path) else default)


def _type(schema: JsonMapping, root: JsonMapping) -> str:
    """The type of a value in words, off its JSON schema."""
    if "$ref" in schema:
        return _type(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if branches := [branch for branch in schema.get("anyOf", schema.get("allOf", ())) if branch.get("type") != "null"]:
        return " or ".join(dict.fromkeys(_type(branch, root) for branch in branches))
    if values := schema.get("enum") or ([schema["const"]] if "const" in schema else []):
        return ", ".join(f"`{value}`" for value in values[:-1]) + (" or " if values[1:] else "") + f"`{values[-1]}`"
    if schema.get("type") == "array":
        inside = schema.get("items") or schema["prefixItems"][0]
        return ("list of " if "items" in schema else f"{len(schema['prefixItems'])} of: ") + _type(inside, root)
    bounds = "".join(f" {sign} {schema[bound]:g}" for bound, sign in _BOUNDS.items() if bound in schema)
    return ("path" if schema.get("format") == "path" else _TYPES[schema["type"]]) + bounds
