"""What the agent can be told: primitive actions and BabyAI's missions in words, three wordings each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")
KINDS = ("ball", "box", "key")
THINGS = tuple(f"{colour} {kind}" for kind in KINDS for colour in COLOURS)
DOORS = tuple(f"{colour} door" for colour in COLOURS)
STEPS = ("one step", "two steps", "three steps", "four steps")
TURNS = ("right", "around", "left")  # by how many quarter turns to the right, from one on

TITLES = {"walk": "Turn and walk", "go": "Go to", "carry": "Pick up, drop", "put": "Put next to", "door": "Open, close"}
SUITE_OF = {
    "turn": "walk",
    "forward": "walk",
    "go": "go",
    "pick": "carry",
    "drop": "carry",
    "put": "put",
    "open": "door",
    "close": "door",
}
_TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "turn": ("turn {thing}", "rotate {thing}", "face {thing}"),
    "forward": ("go forward {thing}", "move ahead {thing}", "walk forward by {thing}"),
    "go": ("go to the {thing}", "walk to the {thing}", "approach the {thing}"),
    "pick": ("pick up the {thing}", "grab the {thing}", "take the {thing}"),
    "drop": ("drop the {thing}", "put down the {thing}", "let go of the {thing}"),
    "put": (
        "put the {thing} next to the {other}",
        "move the {thing} beside the {other}",
        "bring the {thing} to the {other}",
    ),
    "open": ("open the {thing}", "pull open the {thing}", "open up the {thing}"),
    "close": ("close the {thing}", "shut the {thing}", "push shut the {thing}"),
}


class Action(NamedTuple):
    """A primitive action or a mission.

    `thing` is a thing or door ("red ball"), a turn ("left") or a number of steps ("two steps"); `other`, for "put", is
    what the thing is put next to.
    """

    kind: str
    thing: str
    other: str = ""

    @property
    def suite(self) -> str:
        return SUITE_OF[self.kind]


def wordings(action: Action) -> list[str]:
    """Every way to say the action, the plainest first."""
    return [text.format(thing=action.thing, other=action.other) for text in _TEMPLATES[action.kind]]


@cache
def every_action() -> tuple[Action, ...]:
    single = {
        "turn": TURNS,
        "forward": STEPS,
        "go": THINGS + DOORS,
        "pick": THINGS,
        "drop": THINGS,
        "open": DOORS,
        "close": DOORS,
    }
    put = (Action("put", a, b) for a in THINGS for b in THINGS if a != b)
    return (*(Action(kind, thing) for kind, things in single.items() for thing in things), *put)


@cache
def _parsed() -> dict[str, Action]:
    return {text: action for action in every_action() for text in wordings(action)}


def parse_action(text: str) -> Action | None:
    """The action that a sentence states, or None. Case, spacing and a full stop do not matter."""
    return _parsed().get(" ".join(text.lower().rstrip(". \n").split()))


def vocabulary() -> list[str]:
    """Every word of the language, in order."""
    return sorted({word for text in _parsed() for word in text.split()})
