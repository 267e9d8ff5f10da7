"""The two worked examples of the training page, drawn here so that no study item and nobody's photo is given away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from retrodict.study.images import encode, keyed_name
from retrodict.study.plan import Example

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


def examples(salt: str, candidates: int) -> tuple[list[Example], dict[str, bytes]]:
    """Both examples, with at most `candidates` images each, and the images by name."""
    pictures: dict[str, bytes] = {}
    made = [_example(salt, i, candidates, pictures, *told) for i, told in enumerate(_TOLD)]
    return made, pictures


def _example(
    salt: str, i: int, count: int, pictures: dict[str, bytes], action: str, source: Draw, told: Mapping[str, Draw]
) -> Example:
    """`told` starts with the best and the worst; the others stand between them on the page."""
    best, worst, *others = list(told)[: max(2, count)]
    remarks = [*others[:1], best, *others[1:], worst] if i == 0 else [worst, *others[:1], best, *others[1:]]
    names = []
    for part, draw in [("source", source), *((remark, told[remark]) for remark in remarks)]:
        name = keyed_name(salt, "example", str(i), part)
        pictures[name] = encode(draw(), SIZE)
        names.append(name)
    return Example(action, names[0], tuple(names[1:]), tuple(remarks), remarks.index(best), remarks.index(worst), SIZE)


def _draw(scene: _Scene) -> Image.Image:
    picture = Image.new("RGB", (SIZE[0] * _FINE, SIZE[1] * _FINE), scene.wall)
    pen = ImageDraw.Draw(picture)

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
    return picture.resize(SIZE, Image.Resampling.LANCZOS)


def _smeared() -> Image.Image:
    """The mug between two places, torn: what a failed prediction looks like."""
    picture = Image.blend(_draw(_Scene(mug=110)), _draw(_Scene(mug=210)), 0.5).filter(ImageFilter.GaussianBlur(5))
    pixels = np.asarray(picture).copy()
    for row in range(0, SIZE[1], 24):
        pixels[row : row + 24] = np.roll(pixels[row : row + 24], (row * 37) % 50 - 25, axis=1)
    return Image.fromarray(pixels)


_TOLD: tuple[tuple[str, Draw, dict[str, Draw]], ...] = (
    (
        "push the mug to the right",
        lambda: _draw(_MUG),
        {
            "The mug has moved to the right, and all the rest is as it was: best.": lambda: _draw(_Scene(mug=250)),
            "The mug is torn and smeared, and the scene with it. Not realistic, and no clear move: worst.": _smeared,
            "Nothing has happened. The picture is fine, but the action was not done.": lambda: _draw(_MUG),
            "The mug has moved, but the plant has gone and the wall has changed: that is over-editing.": lambda: _draw(
                _Scene(mug=250, plant=False, wall="#d9c3d6")
            ),
        },
    ),
    (
        "take away the lemon",
        lambda: _draw(_PLATE),
        {
            "The lemon is gone, and nothing else has changed: best.": lambda: _draw(_Scene(plate=True, tomato=True)),
            "Another place altogether. Nothing of the scene before is left: worst.": lambda: _draw(
                _Scene(mug=180, plant=False, wall="#27384d", table="#4a5a52")
            ),
            "The tomato is gone, but the lemon is still there: not what was asked.": lambda: _draw(
                _Scene(plate=True, lemon=True)
            ),
            "The lemon is gone, but so are the tomato and the plate: that is over-editing.": lambda: _draw(_Scene()),
        },
    ),
)
