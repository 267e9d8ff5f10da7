"""Predict the next frame, then ask what happened: `python examples/quickstart.py`.

Uses the model that comes with the package, on images made by render_frames.py. Writes next.png to the current folder.
"""

from __future__ import annotations

from pathlib import Path

import retrodict

HERE = Path(__file__).parent


def main() -> None:
    prediction = retrodict.predict(HERE / "frame.png", "push the red ball to the left", n=8)
    prediction.image.save("next.png")
    print(f"next.png is candidate {prediction.chosen + 1} of {len(prediction.candidates)}; their scores:")
    print("  " + "  ".join(f"{score:.2f}" for score in prediction.scores))

    explanation = retrodict.explain(HERE / "before.png", HERE / "after.png")
    print(f"Between before.png and after.png: {explanation.action}")

    for action in ("put the green cone on top of the blue box", "remove the green cone"):
        logprob = retrodict.score(HERE / "before.png", HERE / "after.png", action)
        print(f"  log-probability of '{action}': {logprob.sum:.2f}")


if __name__ == "__main__":
    main()
