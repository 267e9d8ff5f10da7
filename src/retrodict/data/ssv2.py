"""Something-Something v2: short clips of one action each, with a label in words."""

from __future__ import annotations

import re
from pathlib import Path

from retrodict.data.actions import LabelledClip
from retrodict.data.files import annotation, bad_row, inside, read_records, shown_name, video_index
from retrodict.files import JsonObject
from retrodict.video.clips import ClipRef

# Labels whose first and last frame do not show the action; McGill-NLP/AURORA, data/something/filter_keywords.py.
_UNSEEN = (
    "pretend",
    "holding",
    "fail",
    "roll",
    "then letting it",
    "until it falls down",
    "spin",
    "nothing happens",
    "show",
    "falling like",
    "squeezing",
    "throwing",
    "slightly",
)


_PLACEHOLDER = re.compile(r"\[[^\]]*\]")


def ssv2(root: Path, annotations: Path | None = None) -> list[LabelledClip]:
    """Clips of the label JSON (`id`, `label`, `template`); class is the template without its brackets.

    Videos are `ID.webm` (or another video suffix) anywhere below `root`. A clip whose label AURORA
    leaves out gives no transition (`excluded_label`), nor does one that says [something] and not what
    (`unfilled_label`).
    """
    labels = annotation(annotations, root, ["*train.json", "*labels*.json", "*validation.json"])
    videos = video_index(root)
    return [_clip(item, number, labels, root, videos) for number, item in enumerate(read_records(labels), 1)]


def _clip(item: JsonObject, number: int, labels: Path, root: Path, videos: dict[str, Path]) -> LabelledClip:
    if "id" not in item:
        raise ValueError(f"{labels} is not a list of {{id, label, template}}: give Something-Something v2's own.")
    name = str(item["id"])
    category = str(item.get("template") or "").replace("[", "").replace("]", "")
    try:
        path = videos.get(name) or inside(root, f"{name}.webm")
    except ValueError:  # its name
        return LabelledClip(bad_row(labels, number), "")
    ref = ClipRef(path=path, name=name, category=category, group=name, meta={"file": shown_name(path, root)})
    label = str(item.get("label") or "")
    things = item.get("placeholders")
    for thing in things if isinstance(things, list) else ():  # where the label is the template itself
        label = _PLACEHOLDER.sub(str(thing).replace("\\", r"\\"), label, count=1)
    unfilled = "unfilled_label" if _PLACEHOLDER.search(label) else ""
    return LabelledClip(ref, label, unusable=unfilled if shows_action(label) else "excluded_label")


def shows_action(label: str) -> bool:
    """Whether AURORA keeps clips of this label: what changed is to be seen by comparing first and last frame."""
    label = label.lower()
    if any(word in label for word in _UNSEEN):
        return False
    return "falls off" not in label or "but" in label
