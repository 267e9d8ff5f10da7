"""What really happened in pairs mined from simulated videos. For measuring only: no stage of the method reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from retrodict.transitions import FramePair, Transition
from retrodict.worlds import tabletop


def true_action(pair: FramePair, truth: Path) -> tabletop.Action | None:
    """The one action between a pair's frames; None where something moves in a frame, or none or several happened."""
    video = _load(truth / Path(pair.clip).with_suffix(".json"))
    try:
        return tabletop.true_action(video.states_at(pair.frame_source), video.states_at(pair.frame_target))
    except ValueError:
        return None


@lru_cache(maxsize=64)
def _load(path: Path) -> tabletop.VideoTruth:
    return tabletop.VideoTruth.load(path)


def with_true_labels(transitions: Sequence[Transition], truth: Path) -> list[Transition]:
    """The transitions that show one action, with its true name in one of the world's wordings, chosen by id."""
    found = []
    for transition in transitions:
        action = true_action(transition, truth)
        if action is not None:
            wordings = tabletop.templates(action)
            digest = hashlib.blake2b(transition.id.encode(), digest_size=8).digest()
            text = wordings[int.from_bytes(digest) % len(wordings)]
            found.append(replace(transition, action=text, action_source="template"))
    return found
