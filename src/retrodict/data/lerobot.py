"""LeRobotDataset v2 and v3, read with pyarrow and PyAV alone: episodes in a video file each, or in shared ones, with
tasks in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from retrodict.data.actions import LabelledClip
from retrodict.data.files import inside, read_json, shown_name
from retrodict.files import JsonObject
from retrodict.video.clips import ClipRef

_LANGUAGE = "language_persistent"


@dataclass(frozen=True)
class Dataset:
    """A data set's folder and its `meta/info.json`."""

    root: Path
    info: JsonObject

    @property
    def is_v2(self) -> bool:
        """Whether every episode has a file of its own."""
        return str(self.info["codebase_version"]).startswith("v2")

    @property
    def cameras(self) -> list[str]:
        return sorted(key for key, feature in self.info["features"].items() if _is_colour_video(feature))

    def file(self, template: str, **fields: str | int) -> Path:
        """A file of the data set by one of the path templates in its `info.json`."""
        try:
            name = str(self.info[template]).format(**fields)
        except (KeyError, IndexError, AttributeError, ValueError) as error:
            raise ValueError(f"{self.root}/meta/info.json: {template} cannot be filled in ({error!r}).") from None
        return inside(self.root, name)


def lerobot(root: Path, annotations: Path | None = None, cameras: Sequence[str] = ()) -> list[LabelledClip]:
    """Clips of one camera (the first by name) or of those given, with the action in words.

    An episode whose data holds subtask spans (`language_persistent` rows of style `subtask`) gives a clip per span;
    any other gives one clip with its task. Class is the task, group the episode, whatever the camera.
    """
    if annotations is not None:
        raise ValueError("The layout lerobot has its annotations inside: leave out --annotations.")
    data = open_dataset(root)
    if not data.cameras:
        raise ValueError(f"{root} has no video feature: only data sets with videos can be read.")
    cameras = list(dict.fromkeys(cameras)) or data.cameras[:1]
    if missing := [camera for camera in cameras if camera not in data.cameras]:
        raise ValueError(f"{root} has no camera {missing[0]!r}: choose of {', '.join(data.cameras)}.")
    spans = _Subtasks(data)
    clips = {name: [c for one in episodes_of(data) for c in _clips(data, one, name, spans)] for name in cameras}
    if len(clips) == 1:
        return clips[cameras[0]]
    return [
        replace(clip, ref=replace(clip.ref, name=f"{camera}/{clip.ref.name}"))
        for camera, of_camera in clips.items()
        for clip in of_camera
    ]


def open_dataset(root: Path) -> Dataset:
    """Raises `ValueError` where there is none, or one of another version."""
    if not (root / "meta" / "info.json").is_file():
        raise ValueError(f"{root} has no meta/info.json: give the folder of a LeRobot data set.")
    info = read_json(root / "meta" / "info.json")
    version = str(info.get("codebase_version", ""))
    if not version.startswith(("v2", "v3")):
        raise ValueError(f"{root} is a LeRobot data set of version {version or '?'}: convert it to v3 with lerobot.")
    return Dataset(root, info)


def _is_colour_video(feature: JsonObject) -> bool:
    details = feature.get("info") or {}
    depth = details.get("is_depth_map") or details.get("video.is_depth_map")
    return feature.get("dtype") == "video" and not depth


def episodes_of(data: Dataset) -> list[JsonObject]:
    """What the data set says of each episode, in order."""
    if data.is_v2:
        file = data.root / "meta" / "episodes.jsonl"
        try:
            return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{file} cannot be read as JSON lines: {error}.") from None
    files = sorted((data.root / "meta" / "episodes").glob("**/*.parquet"))
    if not files:
        raise ValueError(f"{data.root}/meta/episodes holds no .parquet file.")
    rows = [row for file in files for row in read_table(file, None).to_pylist()]
    return sorted(rows, key=lambda row: int(row["episode_index"]))


def read_table(file: Path, columns: list[str] | None) -> pa.Table:
    """Raises `ValueError` that names the file."""
    try:
        return pq.read_table(file, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a readable Parquet file: {error}.") from None


def _clips(data: Dataset, episode: JsonObject, camera: str, spans: _Subtasks) -> Iterator[LabelledClip]:
    number = int(episode["episode_index"])
    if data.is_v2:
        chunk = number // int(data.info.get("chunks_size", 1000))
        path = data.file("video_path", video_key=camera, episode_chunk=chunk, episode_index=number)
        yield _clip(data, path, number, _first(episode.get("tasks")), camera)
        return
    where = {key: episode[f"videos/{camera}/{key}"] for key in ("chunk_index", "file_index")}
    begin, end = (float(episode[f"videos/{camera}/{key}"]) for key in ("from_timestamp", "to_timestamp"))
    path = data.file("video_path", video_key=camera, **where)
    task = _first(episode.get("tasks"))
    parts = spans.of(episode, end - begin) or [(0.0, end - begin, task)]
    for part, (start, stop, action) in enumerate(parts):
        name = f"episode-{number:06d}" + (f"/{part:03d}" if len(parts) > 1 else "")
        clip = _clip(data, path, number, task, camera)
        ref = replace(clip.ref, name=name, start=begin + start, stop=begin + stop)
        yield LabelledClip(ref, action)


def _clip(data: Dataset, path: Path, number: int, task: str, camera: str) -> LabelledClip:
    """A whole video file as the clip of an episode."""
    name = f"episode-{number:06d}"
    meta = {"file": shown_name(path, data.root), "camera": camera, "episode": number}
    return LabelledClip(ClipRef(path=path, name=name, category=task, group=name, meta=meta), task)


def _first(tasks: str | Sequence[str] | None) -> str:
    return tasks if isinstance(tasks, str) else next(iter(tasks or []), "")


class _Subtasks:
    """Subtask spans of episodes, from the data files, each of which is read once."""

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._known: dict[Path, dict[int, list[JsonObject]]] = {}

    def of(self, episode: JsonObject, length: float) -> list[tuple[float, float, str]]:
        """(start, stop, text) in seconds from the start of the episode; empty where the data set has none."""
        if _LANGUAGE not in self._data.info["features"]:
            return []
        where = {key: episode[f"data/{key}"] for key in ("chunk_index", "file_index")}
        file = self._data.file("data_path", **where)
        if file not in self._known:
            self._known = {file: self._load(file)}
        rows = [row for row in self._known[file].get(int(episode["episode_index"]), []) if row["style"] == "subtask"]
        begins = sorted({(float(row["timestamp"] or 0), str(row["content"] or "")) for row in rows})
        ends = [start for start, _ in begins[1:]] + [length] * bool(begins)
        return [(start, stop, text) for (start, text), stop in zip(begins, ends, strict=True) if stop > start]

    @staticmethod
    def _load(file: Path) -> dict[int, list[JsonObject]]:
        """The rows stand on every frame of an episode; those of one frame are kept."""
        table = read_table(file, ["episode_index", _LANGUAGE])
        numbers = table["episode_index"].to_pylist()
        firsts = {number: row for row, number in reversed(list(enumerate(numbers)))}
        return {number: table[_LANGUAGE][row].as_py() or [] for number, row in firsts.items()}
