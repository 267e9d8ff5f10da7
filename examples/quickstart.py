"""Predict the next frame, ask what happened, and rerank other programs' images: `python examples/quickstart.py`.

Uses the model that comes with the package, on images made by render_frames.py. Writes next.png to the current folder.
Editors that know `# %%` cells open this as a notebook, where predictions and explanations show themselves.
"""

from __future__ import annotations

from pathlib import Path

import retrodict

HERE = Path(__file__).parent

# %% The next frame: eight candidates, and the one that shows the action best
prediction = retrodict.predict(HERE / "frame.png", "push the red ball to the left", n=8)
prediction.image.save("next.png")
print(f"next.png is candidate {prediction.chosen + 1} of {len(prediction.candidates)}; their scores:")
print("  " + "  ".join(f"{score:.2f}" for score in prediction.scores))

# %% What happened between two frames
explanation = retrodict.explain(HERE / "before.png", HERE / "after.png")
print(f"Between before.png and after.png: {explanation.action}")
for action in ("put the green cone on top of the blue box", "remove the green cone"):
    logprob = retrodict.score(HERE / "before.png", HERE / "after.png", action)
    print(f"  log-probability of '{action}': {logprob.sum:.2f}")

# %% Which of some images shows an action best, whoever made them
images = [HERE / name for name in ("before.png", "frame.png", "after.png")]
for path, score in retrodict.rerank(HERE / "before.png", explanation.action, images):
    print(f"  {score:8.2f}  {path.name}")
