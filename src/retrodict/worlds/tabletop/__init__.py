"""*tabletop*: a small simulated world with exact state, for training in minutes and scoring without a judge."""

from retrodict.worlds.base import Score
from retrodict.worlds.tabletop.language import SUITES, Action, parse_action, templates, vocabulary
from retrodict.worlds.tabletop.outcomes import actions, apply, true_action
from retrodict.worlds.tabletop.parsing import parse
from retrodict.worlds.tabletop.rendering import draw
from retrodict.worlds.tabletop.sampling import Example, random_state, sample
from retrodict.worlds.tabletop.scene import COLOURS, SHAPES, SIZES, State, Thing
from retrodict.worlds.tabletop.scoring import exact, is_copy, score, score_state, states
from retrodict.worlds.tabletop.videos import Moment, VideoTruth, render_video, write_videos

__all__ = [
    "COLOURS",
    "SHAPES",
    "SIZES",
    "SUITES",
    "Action",
    "Example",
    "Moment",
    "Score",
    "State",
    "Thing",
    "VideoTruth",
    "actions",
    "apply",
    "draw",
    "exact",
    "is_copy",
    "parse",
    "parse_action",
    "random_state",
    "render_video",
    "sample",
    "score",
    "score_state",
    "states",
    "templates",
    "true_action",
    "vocabulary",
    "write_videos",
]
