"""EPIC-Kitchens-100: segments of long videos with a narration, a verb and a noun."""

from __future__ import annotations

import math
from pathlib import Path

from retrodict.data.actions import LabelledClip
from retrodict.data.files import annotation, bad_row, inside, read_csv, shown_name, video_index
from retrodict.video.clips import ClipRef

_COLUMNS = ("narration_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp", "narration", "verb")


def epic100(root: Path, annotations: Path | None = None) -> list[LabelledClip]:
    """Segments of the annotation CSV; class is the verb, group the participant. Videos lie anywhere below `root`.

    The segment's time stamps are used, not its frame numbers: those count frames of the extracted images.
    """
    table = annotation(annotations, root, ["EPIC_100_train.csv", "EPIC_100_validation*.csv", "EPIC_100*.csv"])
    videos = video_index(root)
    clips = []
    for line, row in enumerate(read_csv(table, _COLUMNS), 2):
        try:
            clips.append(_segment(row, root, videos))
        except ValueError:  # its times, or its name
            clips.append(LabelledClip(bad_row(table, line), row["narration"]))
    return clips


def _segment(row: dict[str, str], root: Path, videos: dict[str, Path]) -> LabelledClip:
    video = row["video_id"]
    path = videos.get(video) or inside(root, f"{video}.MP4")
    ref = ClipRef(
        path=path,
        name=row["narration_id"],
        category=row["verb"],
        group=row["participant_id"],
        start=timestamp(row["start_timestamp"]),
        stop=timestamp(row["stop_timestamp"]),
        meta={"file": shown_name(path, root), "noun": row.get("noun", "")},
    )
    return LabelledClip(ref, row["narration"])


def timestamp(text: str) -> float:
    """Seconds of `HH:MM:SS.ff`."""
    try:
        hours, minutes, seconds = text.split(":")
        time = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        if not 0 <= time < math.inf:  # not a number either
            raise ValueError
        return time
    except ValueError:
        raise ValueError(f"{text!r} is not a time: EPIC writes them as 00:01:02.34.") from None
