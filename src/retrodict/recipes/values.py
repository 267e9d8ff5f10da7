"""Recipes before they are checked: nested YAML values and the `key=value` overrides that change them."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from retrodict.files import JsonObject


class _Loader(yaml.SafeLoader):
    """YAML in which a key may stand once: of two, one value would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        first: dict[Hashable, int] = {}
        for key_node, _ in node.value:
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:merge" and first.setdefault(key, line) != line:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key}` stands twice (first in line {first[key]})", key_node.start_mark
                )
        return super().construct_mapping(node, deep)


def load_yaml(path: Path) -> Any:
    """What a YAML or JSON file holds.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is neither, or has a key twice; the message names the line.
    """
    try:
        return yaml.load(path.read_bytes(), _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{where}: this is not YAML: {getattr(error, 'problem', None) or error}") from None
    except (RecursionError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"{path}: this is not YAML: {error}") from None


def read_yaml(path: Path) -> JsonObject:
    """The mapping in a YAML file. Raises `FileNotFoundError`, or `ValueError` with the line that is wrong."""
    try:
        values = load_yaml(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no recipe {path}") from None
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
        inner = values.get(section, {})
        if not isinstance(inner, dict):
            raise ValueError(f"--set {key}: `{section}` is a value, not a section")
        values[section] = values = dict(inner)  # a copy: an alias of YAML is the very same section elsewhere
    values[leaf] = value
