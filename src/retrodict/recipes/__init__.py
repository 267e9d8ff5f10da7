"""Recipes: what a run does, as YAML whose sections are the settings of what they configure, checked by pydantic.

`load_recipe` reads one, applies `key=value` overrides and complains in one line about what it does not know.
`save_effective` writes what was really used beside the output; that file is itself a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo

from retrodict.files import write_text
from retrodict.recipes.errors import one_line
from retrodict.recipes.values import parse_override, read_yaml, set_value

EFFECTIVE = "recipe.yaml"


def from_recipe(path: Path, info: ValidationInfo) -> Path:
    """A path of a recipe, counted from the recipe's folder."""
    base = (info.context or {}).get("base")
    return path if base is None else (base / path.expanduser()).resolve()


RecipePath = Annotated[Path, AfterValidator(from_recipe)]  # relative ones count from the folder of the recipe
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A part of a recipe, and the settings of what it configures: frozen, with no keys but its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
    renamed: ClassVar[Mapping[str, str]] = {}
    """Keys of earlier versions and their names now, for the error that an old recipe gets."""


R = TypeVar("R", bound=Section)


def load_recipe(path: Path, kind: type[R], overrides: Sequence[str] = ()) -> R:
    """Read a recipe of a kind and apply overrides.

    Args:
        path: the YAML file; its relative paths count from its folder.
        kind: the recipe's outermost section.
        overrides: such as `"forward.steps=200"`, whose values are read as YAML.

    Returns:
        The recipe with defaults for all that it leaves out.

    Raises:
        ValueError: one line that names the file, the key and what is wrong with it.
    """
    path = Path(path)
    values = read_yaml(path)
    changed = dict(map(parse_override, overrides))
    for key, value in changed.items():
        set_value(values, key, value)
    try:
        return kind.model_validate(values, context={"base": path.parent.resolve()})
    except ValidationError as error:
        raise ValueError(one_line(error, kind, path, changed)) from None


def save_effective(recipe: BaseModel, directory: Path) -> Path:
    """Write the recipe with all its defaults to `directory/recipe.yaml`, whole or not at all."""
    text = "# The recipe as it was used: defaults and overrides included.\n"
    text += yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    target = Path(directory) / EFFECTIVE
    write_text(target, text)
    return target
