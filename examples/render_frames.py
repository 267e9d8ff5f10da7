"""Render the images beside this file: `python examples/render_frames.py`. The same pixels come out every time.

frame.png                what the README predicts from
before.png, after.png    "put the green cone on top of the blue box"
"""

from __future__ import annotations

from pathlib import Path

from retrodict.worlds import tabletop
from retrodict.worlds.tabletop import State, Thing

HERE = Path(__file__).parent

FRAME = State.of([Thing("red", "ball", 2, 0), Thing("green", "box", 4, 0), Thing("yellow", "cone", 4, 1)], (0, 1))
BEFORE = State.of([Thing("green", "cone", 0, 0), Thing("blue", "box", 3, 0), Thing("red", "ball", 5, 0)])


def main() -> None:
    action = tabletop.parse_action("put the green cone on top of the blue box")
    assert action is not None
    after = tabletop.apply(BEFORE, action)
    assert after is not None, "the action is possible in this scene"
    for name, state in (("frame", FRAME), ("before", BEFORE), ("after", after)):
        tabletop.draw(state).save(HERE / f"{name}.png")
        print(HERE / f"{name}.png")


if __name__ == "__main__":
    main()
