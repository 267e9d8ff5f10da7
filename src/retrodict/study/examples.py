"""The worked examples of the training page: the owner's, or two that are drawn here and give no study item away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from retrodict.images import read_image
from retrodict.study.images import encode, keyed_name, shown_size
from retrodict.study.plan import MOST_CANDIDATES, Example

SIZE = (480, 360)
_FINE = 3  # drawn this much larger, then shrunk, for smooth edges

Draw = Callable[[], Image.Image]


@dataclass(frozen=True)
class _Scene:
    """What stands on the table; positions in pixels of the final image, None where a thing is missing."""

    mug: int | None = None
    plant: bool = True
    plate: bool = False
    lemon: bool = False
    tomato: bool = False
    wall: str = "#dfe6e4"
    table: str = "#b98b5e"


_MUG = _Scene(mug=110)
_PLATE = _Scene(plate=True, lemon=True, tomato=True)


def examples(salt: str, candidates: int, words: Mapping[str, str]) -> tuple[list[Example], dict[str, bytes]]:
    """Both examples, with at most `candidates` images each, and the images by name."""
    images: dict[str, bytes] = {}
    made = []
    for i, (name, source, drawn) in enumerate(_TOLD):
        best, worst, *others = list(drawn)[: max(2, candidates)]
        order = [*others[:1], best, *others[1:], worst] if i == 0 else [worst, *others[:1], best, *others[1:]]
        remarks = [words[f"example_{name}_{part}"] for part in order]
        given = _Given(words[f"example_{name}"], source(), [drawn[part]() for part in order], remarks)
        made.append(_example(salt, i, given, order.index(best), order.index(worst), SIZE, images))
    return made, images


class _Own(BaseModel):
    """One entry of `examples.json`."""

    model_config = ConfigDict(extra="forbid")

    action: str
    source: str
    candidates: list[str] = Field(min_length=2, max_length=MOST_CANDIDATES)
    remarks: list[str]
    best: int = Field(ge=0)
    worst: int = Field(ge=0)


def own_examples(folder: Path, salt: str, candidates: int) -> tuple[list[Example], dict[str, bytes]]:
    """Examples of the owner's own, from `folder/examples.json`.

    It is a list of `{"action", "source", "candidates", "remarks", "best", "worst"}`: images by their paths in the
    folder, one remark for each candidate, and the positions of the best and the worst, from 0.

    Raises:
        ValueError: it is missing, says something else, or names an image that cannot be read.
    """
    file = folder / "examples.json"
    try:
        entries = TypeAdapter(list[_Own]).validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        said = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error.strerror
        raise ValueError(f"{file}: {said}. It must be a list as docs/study.md shows.") from None
    images: dict[str, bytes] = {}
    made = []
    for i, one in enumerate(entries):
        count = len(one.candidates)
        if len(one.remarks) != count or count > candidates or len({one.best, one.worst, count}) < 3:
            raise ValueError(f"{file}: example {i + 1} needs a remark for each of at most {candidates} candidates, and "
                             "a best that is not the worst.")  # fmt: skip
        if max(one.best, one.worst) >= count:
            raise ValueError(f"{file}: example {i + 1} has {count} candidates, counted from 0.")
        source, *rest = (read_image(folder / name) for name in (one.source, *one.candidates))
        given = _Given(one.action, source, rest, one.remarks)
        made.append(_example(salt, i, given, one.best, one.worst, shown_size(source), images))
    if not made:
        raise ValueError(f"{file} has no example.")
    return made, images


@dataclass(frozen=True)
class _Given:
    action: str
    source: Image.Image
    candidates: Sequence[Image.Image]
    remarks: Sequence[str]


def _example(
    salt: str, i: int, given: _Given, best: int, worst: int, size: tuple[int, int], images: dict[str, bytes]
) -> Example:
    names = []
    for part, image in enumerate((given.source, *given.candidates)):
        name = keyed_name(salt, "example", str(i), str(part))
        images[name] = encode(image, size)
        names.append(name)
    return Example(given.action, names[0], tuple(names[1:]), tuple(given.remarks), best, worst, size)


def _draw(scene: _Scene) -> Image.Image:
    image = Image.new("RGB", (SIZE[0] * _FINE, SIZE[1] * _FINE), scene.wall)
    pen = ImageDraw.Draw(image)

    def at(*numbers: int) -> list[int]:
        return [number * _FINE for number in numbers]

    pen.rectangle(at(0, 218, 480, 360), fill=scene.table)
    pen.rectangle(at(0, 218, 480, 224), fill="#8f6a45")
    if scene.plant:
        pen.polygon(at(372, 190, 448, 190, 438, 262, 382, 262), fill="#a4553a")
        for x, y in ((372, 96), (396, 70), (424, 78), (440, 110), (408, 116)):
            pen.ellipse(at(x - 24, y, x + 22, y + 96), fill="#3f7d4e" if x % 8 else "#5a9a63")
    if scene.mug is not None:
        x = scene.mug
        pen.ellipse(at(x - 46, 292, x + 58, 316), fill="#9a7148")
        pen.ellipse(at(x + 26, 214, x + 76, 278), outline="#b3372f", width=11 * _FINE)
        pen.rounded_rectangle(at(x - 44, 190, x + 46, 306), radius=14 * _FINE, fill="#c8423a")
        pen.ellipse(at(x - 44, 178, x + 46, 206), fill="#8d2a24")
        pen.ellipse(at(x - 36, 182, x + 38, 202), fill="#3b1d16")
    if scene.plate:
        pen.ellipse(at(70, 244, 330, 340), fill="#8f6a45")
        pen.ellipse(at(70, 236, 330, 330), fill="#f4f3ef")
        pen.ellipse(at(104, 250, 296, 316), fill="#e2e1db")
    if scene.tomato:
        pen.ellipse(at(206, 214, 282, 288), fill="#cf3d2e")
        pen.polygon(at(232, 216, 244, 204, 256, 216, 244, 226), fill="#4d8a3f")
    if scene.lemon:
        pen.ellipse(at(112, 232, 198, 290), fill="#efcf3c")
        pen.ellipse(at(186, 252, 206, 272), fill="#efcf3c")
        pen.arc(at(120, 238, 180, 280), 190, 260, fill="#fbeb9a", width=5 * _FINE)
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _smeared() -> Image.Image:
    """The mug between two positions, torn: what a failed prediction looks like."""
    image = Image.blend(_draw(_Scene(mug=110)), _draw(_Scene(mug=210)), 0.5).filter(ImageFilter.GaussianBlur(5))
    pixels = np.asarray(image).copy()
    for row in range(0, SIZE[1], 24):
        pixels[row : row + 24] = np.roll(pixels[row : row + 24], (row * 37) % 50 - 25, axis=1)
    return Image.fromarray(pixels)


_TOLD: tuple[
    tuple[str, Draw, dict[str, Draw]], ...
] = (  # texts are in `words.json`; the best comes first, then the worst
    (
        "mug",
        lambda: _draw(_MUG),
        {
            "best": lambda: _draw(_Scene(mug=250)),
            "worst": _smeared,
            "same": lambda: _draw(_MUG),
            "edited": lambda: _draw(_Scene(mug=250, plant=False, wall="#d9c3d6")),
        },
    ),
    (
        "lemon",
        lambda: _draw(_PLATE),
        {
            "best": lambda: _draw(_Scene(plate=True, tomato=True)),
            "worst": lambda: _draw(_Scene(mug=180, plant=False, wall="#27384d", table="#4a5a52")),
            "other": lambda: _draw(_Scene(plate=True, lemon=True)),
            "edited": lambda: _draw(_Scene()),
        },
    ),
)
