"""What a plan is shown as: a film strip as one image and as a page, and its numbers."""

from __future__ import annotations

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from retrodict.dynamics.planning import Plan
from retrodict.files import write_json
from retrodict.images import encode_png, write_image
from retrodict.report import kit
from retrodict.report.kit.images import shape_of, uri

SIDE, MARGIN, LINE = 192, 8, 14  # pixels of the strip
_CHARACTERS = 28  # of a caption's line
LARGE = 8_000


def write_plan(out: Path, plan: Plan) -> None:
    """Write `strip.png`, `plan.html` and `plan.json` into a folder."""
    write_image(out / "strip.png", strip(plan))
    cells = [(uri(data, SIDE, LARGE), text, shape_of(data)) for data, text in _encoded(plan)]
    kit.write_page(out / "plan.html", "plan.html", title=title(plan), cells=cells, predictions=plan.predictions)
    steps = zip(plan.actions, plan.probabilities, strict=True)
    record = {
        "reached": plan.reached,
        "confidence": plan.confidence,
        "predictions": plan.predictions,
        "steps": [{"action": action, "probability": probability} for action, probability in steps],
    }
    write_json(out / "plan.json", record)


def title(plan: Plan) -> str:
    if not plan.reached:
        return "No plan found"
    count = len(plan.actions)
    return f"{count} action{'s' * (count != 1)} to the goal, confidence {plan.confidence:.2f}"


def strip(plan: Plan) -> Image.Image:
    """The start, the frame after each action, and the goal, side by side with captions."""
    cells = [(image, textwrap.wrap(text, _CHARACTERS)) for image, text in plan.cells()]
    height = SIDE + 2 * MARGIN + LINE * max(len(lines) for _, lines in cells)
    sheet = Image.new("RGB", (len(cells) * (SIDE + MARGIN) + MARGIN, height), "white")
    drawing = ImageDraw.Draw(sheet)
    for i, (image, lines) in enumerate(cells):
        scale = SIDE / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX
        left = MARGIN + i * (SIDE + MARGIN)
        sheet.paste(image.convert("RGB").resize(size, method), (left, MARGIN))
        drawing.text((left, SIDE + MARGIN + 2), "\n".join(lines), fill="black")
    return sheet


def _encoded(plan: Plan) -> list[tuple[bytes, str]]:
    return [(encode_png(image), text) for image, text in plan.cells()]
