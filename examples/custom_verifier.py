"""A verifier of your own: `python examples/custom_verifier.py`.

Whoever predicts or checks often loads the models once, as here. Writes next.png to the current folder.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageChops

import retrodict
from retrodict.dynamics.verify import InverseLikelihood, ScoredBy

SOURCE = Path(__file__).parent / "frame.png"
ACTION = "push the red ball to the left"


def small_change(source: Image.Image, action: str, candidate: Image.Image) -> float:
    """Higher is better: candidates that change something, but as little of the image as possible."""
    difference = ImageChops.difference(source, candidate.resize(source.size)).convert("L")
    pixels = difference.width * difference.height
    changed = sum(difference.histogram()[32:]) / pixels
    return -changed if changed > 0.005 else -1.0  # a copy of the source is no outcome


def main() -> None:
    forward = retrodict.load("small", role="forward")
    inverse = retrodict.load("small", role="inverse")
    for verifier in (InverseLikelihood(inverse), ScoredBy("small change", small_change)):
        prediction = retrodict.predict(SOURCE, ACTION, n=8, verifier=verifier, model=forward)
        print(f"{prediction.verifier}: candidate {prediction.chosen + 1} of {len(prediction.candidates)}")
    prediction.image.save("next.png")


if __name__ == "__main__":
    main()
