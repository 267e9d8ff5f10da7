"""Exact scores of a predicted image: did what had to change, change as it should, and did the rest stay?

Facts are read off the images per colour, as every thing of a scene has its own: a fact is the shape and the position
of the thing of one colour; the shelf is a fact too.

- Editing success (es): over the things that the action changes, the share that the prediction shows exactly as the
  target does. It is all or nothing per thing: right shape, right position, and nothing of that colour anywhere else,
  in particular not at the old position. A painted thing must show its new colour and not the old one.
- Minimal editing (me): over the facts that must stay, the share that the prediction still shows. Every colour, and a
  shelf, that neither source nor target shows and the prediction does, counts as one more fact, not kept.
- score = min(es, me), so that neither copying nor rendering the change on a wrong scene earns anything.

The true target scores 1 and a copy of the source exactly 0.
"""

from __future__ import annotations

from PIL import Image

from retrodict.transitions import Transition
from retrodict.worlds.base import Score
from retrodict.worlds.tabletop.language import parse_action
from retrodict.worlds.tabletop.outcomes import true_action
from retrodict.worlds.tabletop.parsing import parse
from retrodict.worlds.tabletop.sampling import Example
from retrodict.worlds.tabletop.scene import COLOURS, State, changed_colours, of_colour, same_scene, same_things


def score(prediction: Image.Image, example: Example | Transition) -> Score:
    """How exactly an image shows the outcome; `ValueError` for a row that *tabletop* did not make."""
    source, target = states(example)
    return score_state(parse(prediction, target.size), source, target)


def score_state(predicted: State, source: State, target: State) -> Score:
    """`score` for an image that is parsed already."""
    changed = changed_colours(source, target)
    wrong = changed_colours(predicted, target)
    edits = _edits(changed, source, target)
    es = sum(not (edit & wrong) for edit in edits) / len(edits) if edits else float(not wrong)
    stays = [c for c in COLOURS if c not in changed and (of_colour(target, c) or of_colour(predicted, c))]
    kept = [c not in wrong for c in stays]
    if target.shelf or predicted.shelf:
        kept.append(target.shelf == predicted.shelf)
    return Score(es, sum(kept) / len(kept) if kept else 1.0)


def _edits(changed: set[str], source: State, target: State) -> list[set[str]]:
    """The changed colours, one set per changed thing: a painted thing has two."""
    edits = []
    left = set(changed)
    for new in sorted(changed):
        for old in sorted(changed):
            gone, came = of_colour(source, old), of_colour(target, new)
            painted = not of_colour(source, new) and not of_colour(target, old)
            if painted and gone and came and same_things(gone, came, source.size):
                edits.append({old, new})
                left -= {old, new}
    return edits + [{colour} for colour in sorted(left)]


def states(example: Example | Transition) -> tuple[State, State]:
    """The source and target scene of an example, or of a row that was stored from one."""
    if isinstance(example, Example):
        return example.source, example.target
    record = example.provenance.get("tabletop")
    if record is None:
        raise ValueError(f"Row {example.id} has no tabletop states: score only rows that tabletop made.")
    return State.from_json(record["source"]), State.from_json(record["target"])


def is_copy(prediction: Image.Image, example: Example | Transition) -> bool:
    """Whether the image shows the source scene unchanged."""
    source, _ = states(example)
    return same_scene(parse(prediction, source.size), source)


def exact(text: str, example: Example | Transition) -> bool:
    """Whether a sentence states the action that happened, in any of its wordings.

    What happened is read off the states, so the row's own action may be a model's guess.
    """
    true = example.action if isinstance(example, Example) else true_action(*states(example))
    return true is not None and parse_action(text) == true
