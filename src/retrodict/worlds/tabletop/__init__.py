"""*tabletop*: a small simulated world with exact state, for training in minutes and scoring without a judge."""

from retrodict.worlds.tabletop.drawing import draw
from retrodict.worlds.tabletop.language import SUITES, Action, parse_action, templates, vocabulary
from retrodict.worlds.tabletop.outcomes import actions, apply, true_action
from retrodict.worlds.tabletop.parsing import parse
from retrodict.worlds.tabletop.sampling import Example, random_state, sample
from retrodict.worlds.tabletop.scene import COLOURS, SHAPES, SIZES, State, Thing
from retrodict.worlds.tabletop.scoring import Score, exact, is_copy, score, score_state, states

__all__ = [
    "COLOURS",
    "SHAPES",
    "SIZES",
    "SUITES",
    "Action",
    "Example",
    "Score",
    "State",
    "Thing",
    "actions",
    "apply",
    "draw",
    "exact",
    "is_copy",
    "parse",
    "parse_action",
    "random_state",
    "sample",
    "score",
    "score_state",
    "states",
    "templates",
    "true_action",
    "vocabulary",
]
