"""A whole world in one file: dots of distinct colours on a grid, which are moved by one cell or painted.

`WORLDS["dots"] = "toy_world"` adds it, as docs/extend.md says of any world.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from retrodict.images import encode_png
from retrodict.transitions import FramePair, Transition
from retrodict.worlds.base import Score, World

GRID, CELL = 6, 16
COLOURS = {"red": (220, 40, 40), "green": (40, 160, 60), "blue": (40, 80, 220)}
STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
HELD, MOVING = 8, 4  # frames at rest, frames of a move
Scene = dict[str, tuple[float, float]]  # colour -> cell


def render(scene: Scene) -> Image.Image:
    pixels = np.full((GRID * CELL, GRID * CELL, 3), 235, np.uint8)
    for colour, (x, y) in scene.items():
        left, top = round(x * CELL), round(y * CELL)
        pixels[top + 2 : top + CELL - 2, left + 2 : left + CELL - 2] = COLOURS[colour]
    return Image.fromarray(pixels)


def parse(image: Image.Image) -> Scene:
    pixels = np.asarray(image.convert("RGB").resize((GRID * CELL, GRID * CELL), Image.Resampling.BOX), np.float32)
    cells = pixels.reshape(GRID, CELL, GRID, CELL, 3)[:, 4:-4, :, 4:-4].mean((1, 3))
    scene: Scene = {}
    for colour, rgb in COLOURS.items():
        distance = np.abs(cells - rgb).sum(-1)
        if distance.min() < 90:
            y, x = divmod(int(distance.argmin()), GRID)
            scene[colour] = (x, y)
    return scene


def apply(scene: Scene, action: str) -> Scene | None:
    match action.lower().split():
        case ["move" | "shift", "the", colour, "dot", side] if colour in scene and side in STEPS:
            (x, y), (dx, dy) = scene[colour], STEPS[side]
            cell = x + dx, y + dy
            inside = all(0 <= p < GRID for p in cell)
            return {**scene, colour: cell} if inside and cell not in scene.values() else None
        case ["paint", "the", colour, "dot", new] if colour in scene and new in COLOURS and new not in scene:
            return {(new if name == colour else name): cell for name, cell in scene.items()}
    return None


def actions(scene: Scene) -> list[str]:
    moves = [f"move the {colour} dot {side}" for colour in scene for side in STEPS]
    paints = [f"paint the {colour} dot {new}" for colour in scene for new in COLOURS]
    return [action for action in moves + paints if apply(scene, action) is not None]


def suite_of(action: str) -> str:
    return "paint" if action.startswith("paint") else "move"


def held_out(scene: Scene) -> bool:
    return zlib.crc32(json.dumps(sorted(scene.items())).encode()) % 4 == 0


class Dots:
    name = "dots"
    about = "Dots of distinct colours on a grid."
    suites = {"move": "Move", "paint": "Paint"}  # noqa: RUF012 - read only

    def sample(self, count: int, seed: int, *, namespace: str, split: str = "") -> list[Transition]:
        rows = []
        for i in range(count):
            rng = random.Random(f"{namespace}/{seed}/{i}")
            wanted = list(self.suites)[i % 2]
            while True:
                scene = self._scene(rng, namespace.rsplit("-", 1)[-1] in ("test", "val", "bench"))
                if possible := [a for a in actions(scene) if suite_of(a) == wanted]:
                    break
            action = rng.choice(possible)
            states = {"source": scene, "target": apply(scene, action)}
            row = Transition(
                id=f"{namespace}-{seed}-{i}",
                category=wanted,
                source=encode_png(render(scene)),
                target=encode_png(render(states["target"] or {})),
                provenance={"dots": states},
                action=action,
                action_source="template",
                split=split,
            )
            rows.append(row)
        return rows

    def sample_still(self, count: int, seed: int, *, namespace: str, split: str = "") -> list[Transition]:
        rows = self.sample(count, seed, namespace=f"still-{namespace}", split=split)
        return [
            replace(
                row,
                category="still",
                target=row.source,
                provenance={"dots": dict.fromkeys(("source", "target"), row.provenance["dots"]["source"])},
                action="paint the pink dot red",  # there is none
            )
            for row in rows
        ]

    def _scene(self, rng: random.Random, of_test: bool) -> Scene:
        while True:
            cells = rng.sample([(x, y) for x in range(GRID) for y in range(GRID)], 2)
            scene: Scene = dict(zip(rng.sample(list(COLOURS), 2), cells, strict=True))
            if held_out(scene) == of_test:
                return scene

    def write_videos(self, folder: Path, count: int, seed: int, *, actions: int, truth: Path) -> list[Path]:
        paths = []
        for i in range(count):
            suite = list(self.suites)[i % 2]
            name = f"{suite}/{seed}-{i:04d}"
            path, record = folder / f"{name}.mp4", truth / f"{name}.json"
            if not (path.exists() and record.exists()):
                scenes, frames = self._play(random.Random(f"video/{seed}/{i}"), suite, actions)
                record.parent.mkdir(parents=True, exist_ok=True)
                encode(path, frames)
                record.write_text(json.dumps(scenes))
            paths.append(path)
        return paths

    def _play(self, rng: random.Random, suite: str, count: int) -> tuple[list[Scene | None], list[Image.Image]]:
        """The scene of each frame, None while something moves, and the frames."""
        scene = self._scene(rng, of_test=False)
        scenes: list[Scene | None] = [scene] * HELD
        frames = [render(scene)] * HELD
        for _ in range(count):
            possible = [a for a in actions(scene) if not held_out(apply(scene, a) or {})]
            target = apply(scene, rng.choice([a for a in possible if suite_of(a) == suite] or possible))
            assert target is not None
            if target.keys() == scene.keys():
                for part in range(1, MOVING):
                    share = part / MOVING
                    between = {
                        c: (x + share * (target[c][0] - x), y + share * (target[c][1] - y))
                        for c, (x, y) in scene.items()
                    }
                    frames.append(render(between))
                    scenes.append(None)
            frames += [render(target)] * HELD
            scenes += [target] * HELD
            scene = target
        return scenes, frames

    def vocabulary(self) -> list[str]:
        return [f"{verb} the {c} dot {side}" for verb in ("move", "shift", "paint") for c in COLOURS for side in STEPS]

    def owns(self, row: FramePair) -> bool:
        return "dots" in row.provenance

    def score(self, image: Image.Image, row: Transition) -> Score:
        if not self.owns(row):
            raise ValueError(f"Row {row.id} is not of this world.")
        return compare(parse(image), states(row, "source"), states(row, "target"))

    def is_copy(self, image: Image.Image, row: Transition) -> bool:
        return parse(image) == states(row, "source")

    def score_action(
        self, image: Image.Image, source: Image.Image, action: str, like: Transition | None = None
    ) -> Score | None:
        target = apply(parse(source), action)
        return None if target is None else compare(parse(image), parse(source), target)

    def explains(self, action: str, source: Image.Image, target: Image.Image, like: Transition | None = None) -> bool:
        return apply(parse(source), action) == parse(target)

    def action_between(self, source: Image.Image, target: Image.Image, like: Transition | None = None) -> str | None:
        return between(parse(source), parse(target))

    def names_action(self, text: str, row: Transition) -> bool:
        return self.same_action(text, between(states(row, "source"), states(row, "target")) or "")

    def same_action(self, a: str, b: str) -> bool:
        return self.wordings(a)[:1] == self.wordings(b)[:1] != []

    def wordings(self, action: str) -> list[str]:
        match action.lower().split():
            case ["move" | "shift", *rest] if rest[-1:] and rest[-1] in STEPS:
                return [" ".join([verb, *rest]) for verb in ("move", "shift")]
            case ["paint", *rest] if rest[-1:] and rest[-1] in COLOURS:
                return [" ".join(["paint", *rest])]
        return []

    def counterfactuals(self, row: Transition) -> list[str]:
        thing = row.action.split()[2]
        same = (a for a in actions(states(row, "source")) if suite_of(a) == row.category and a.split()[2] == thing)
        return sorted(a for a in same if not self.same_action(a, row.action))

    def alternatives(self, row: Transition) -> list[str]:
        scene, target = states(row, "source"), states(row, "target")
        return [a for a in actions(scene) if suite_of(a) == row.category and apply(scene, a) != target]

    def possible(self, source: Image.Image) -> list[str]:
        return actions(parse(source))

    def play(self, source: Image.Image, actions: Sequence[str]) -> list[Image.Image] | None:
        scene, shown = parse(source), []
        for action in actions:
            after = apply(scene, action)
            if after is None:
                return None
            scene = after
            shown.append(render(scene))
        return shown

    def true_action(self, pair: FramePair, truth: Path) -> str | None:
        scenes = json.loads((truth / Path(pair.clip).with_suffix(".json")).read_text())
        source, target = scenes[pair.frame_source], scenes[pair.frame_target]
        return None if source is None or target is None else between(tuples(source), tuples(target))


def states(row: FramePair, side: str) -> Scene:
    return tuples(row.provenance["dots"][side])


def tuples(scene: Any) -> Scene:
    return {colour: (cell[0], cell[1]) for colour, cell in scene.items()}


def between(source: Scene, target: Scene) -> str | None:
    return next((action for action in actions(source) if apply(source, action) == target), None)


def compare(predicted: Scene, source: Scene, target: Scene) -> Score:
    changed = [c for c in COLOURS if source.get(c) != target.get(c)]
    rest = [c for c in COLOURS if c not in changed]
    es = all(predicted.get(c) == target.get(c) for c in changed)
    return Score(float(es), sum(predicted.get(c) == target.get(c) for c in rest) / len(rest))


def encode(path: Path, frames: list[Image.Image]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "14", "preset": "ultrafast"})
        stream.width = stream.height = GRID * CELL
        stream.pix_fmt = "yuv444p"
        for index, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def decoded(path: Path) -> Iterator[Image.Image]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.to_image()


WORLD: World = Dots()
