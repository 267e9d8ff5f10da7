"""Actions and the English that says them: every template is inverted exactly by `parse_action`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from retrodict.worlds.tabletop.scene import COLOURS, SHAPES

Kind = Literal["paint", "turn", "push", "put", "move", "add", "remove", "swap"]

# The suites mirror the phenomena of AURORA-Bench.
SUITE_KINDS: dict[str, tuple[Kind, ...]] = {
    "attribute": ("paint", "turn"),
    "everyday": ("push",),
    "object_object": ("put",),
    "spatial": ("move",),
    "count_physics": ("add", "remove", "swap"),
}
SUITES = tuple(SUITE_KINDS)
TITLES = {
    "attribute": "Attribute",
    "everyday": "Everyday action",
    "object_object": "Object to object",
    "spatial": "Spatial relation",
    "count_physics": "Count and physics",
}


@dataclass(frozen=True, slots=True)
class Action:
    """One canonical action. Names are a colour and a shape, e.g. "red ball".

    kind    value                other                    does
    paint   the new colour       -                        gives the thing another colour
    turn    the new shape        -                        gives the thing another shape
    push    left or right        -                        the thing slides until something stops it
    put     -                    a box                    the thing goes on top of the box
    move    left or right        another thing            the thing goes right beside the other one
    add     left or right        - or another thing       a new thing in that corner, or beside the other one
    add     top                  a box                    a new thing on top of the box
    remove  -                    -                        the thing goes, and what it carried falls
    swap    -                    another thing            the two trade places; `thing` < `other`
    """

    kind: Kind
    thing: str
    value: str = ""
    other: str = ""

    @property
    def suite(self) -> str:
        return next(suite for suite, kinds in SUITE_KINDS.items() if self.kind in kinds)


# {thing}, {other}: names; {value}: a colour, a shape or a side. {a}: the article before {thing}.
_TEMPLATES: dict[tuple[Kind, str], tuple[str, ...]] = {
    ("paint", ""): ("paint the {thing} {value}", "make the {thing} {value}", "colour the {thing} {value}"),
    ("turn", ""): ("turn the {thing} into a {value}", "change the {thing} into a {value}"),
    ("push", ""): ("push the {thing} to the {value}", "slide the {thing} to the {value}", "shove the {thing} {value}"),
    ("put", ""): (
        "put the {thing} on top of the {other}",
        "stack the {thing} on the {other}",
        "place the {thing} on the {other}",
    ),
    ("move", ""): (
        "move the {thing} to the {value} of the {other}",
        "place the {thing} {value} of the {other}",
        "put the {thing} to the {value} of the {other}",
    ),
    ("add", "corner"): ("add {a} {thing} in the {value} corner", "drop {a} {thing} into the {value} corner"),
    ("add", "beside"): (
        "add {a} {thing} to the {value} of the {other}",
        "drop {a} {thing} {value} of the {other}",
    ),
    ("add", "top"): ("add {a} {thing} on top of the {other}", "drop {a} {thing} on the {other}"),
    ("remove", ""): ("remove the {thing}", "take away the {thing}", "take the {thing} away"),
    ("swap", ""): (
        "swap the {thing} and the {other}",
        "swap the {thing} with the {other}",
        "exchange the {thing} and the {other}",
    ),
}


def templates(action: Action) -> list[str]:
    """Every way to say the action, the plainest first."""
    slots = {
        "thing": action.thing,
        "value": action.value,
        "other": action.other,
        "a": "an" if action.thing[0] in "aeiou" else "a",
    }
    return [text.format(**slots) for text in _TEMPLATES[action.kind, _variant(action)]]


def _variant(action: Action) -> str:
    if action.kind != "add":
        return ""
    if action.value == "top":
        return "top"
    return "beside" if action.other else "corner"


def _pattern(kind: Kind, template: str) -> re.Pattern[str]:
    colour, shape = "|".join(COLOURS), "|".join(SHAPES)
    value = {"paint": colour, "turn": shape}.get(kind, "left|right")
    name = f"(?:{colour}) (?:{shape})"
    return re.compile(
        template.format(a="an?", thing=f"(?P<thing>{name})", other=f"(?P<other>{name})", value=f"(?P<value>{value})")
    )


_PATTERNS = [
    (kind, variant, _pattern(kind, template)) for (kind, variant), texts in _TEMPLATES.items() for template in texts
]


def parse_action(text: str) -> Action | None:
    """The action that a sentence states, or None when no template fits. Case, spacing and a full stop do not matter."""
    words = " ".join(text.lower().rstrip(". \n").split())
    for kind, variant, pattern in _PATTERNS:
        if match := pattern.fullmatch(words):
            slots = match.groupdict(default="")
            value = "top" if variant == "top" else slots.get("value", "")
            thing, other = slots["thing"], slots.get("other", "")
            if kind == "swap" and other < thing:
                thing, other = other, thing
            return Action(kind, thing, value, other)
    return None


def vocabulary() -> list[str]:
    """Every word that the templates use, in order."""
    words = {w for texts in _TEMPLATES.values() for text in texts for w in text.split() if not w.startswith("{")}
    return sorted(words | {"a", "an", "left", "right", *COLOURS, *SHAPES})
