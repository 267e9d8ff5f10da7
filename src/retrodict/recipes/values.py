"""Recipes before they are checked: nested YAML values and the `key=value` overrides that change them."""

from __future__ import annotations

from pathlib import Path

import yaml

from retrodict.files import JsonObject


def read_yaml(path: Path) -> JsonObject:
    """The mapping in a YAML file. Raises `FileNotFoundError`, or `ValueError` with the line that is wrong."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no recipe {path}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where}: this is not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a recipe is a list of `key: value` lines; this file has none.")
    return values


def parse_override(text: str, option: str = "--set", example: str = "forward.steps=200") -> tuple[str, object]:
    """`"forward.steps=200"` as its key and its value."""
    key, equals, value = text.partition("=")
    if not (key.strip() and equals):
        raise ValueError(f"{option} {text}: write key=value, for example {option} {example}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise ValueError(f"{option} {text}: the value is not YAML") from None


def set_value(values: JsonObject, key: str, value: object) -> None:
    """Change the value at a dotted key, making sections that are not there."""
    *sections, leaf = key.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {key}: `{section}` is a value, not a section")
        values = inner
    values[leaf] = value
