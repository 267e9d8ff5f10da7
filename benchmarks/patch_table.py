"""How many held-out patches come back exactly through a table of patches, on grid worlds by others.

    pip install minigrid
    python benchmarks/patch_table.py MiniGrid-DoorKey-6x6-v0 BabyAI-GoToLocal-v0

Random play; the table is made from one set of episodes and measured on others. Prints the table, its CPU time, and the
round trip of the other episodes.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from PIL import Image

from retrodict.data.collect import make
from retrodict.images import encode_png, read_image
from retrodict.training.config import TokenizerConfig
from retrodict.training.image_tokenizer import describe, make_tokenizer, measure
from retrodict.transitions import Transition

STEPS = 60  # of an episode, at most


def play(name: str, count: int, first_episode: int) -> list[Transition]:
    """Transitions in which something changes on the screen, from episodes of random actions."""
    options = {"highlight": False} if name.startswith("BabyAI") else {}
    env = make(name, options)
    rng, rows, episode = np.random.default_rng(first_episode), list[Transition](), first_episode
    while len(rows) < count:
        episode += 1
        env.reset(seed=episode)
        before = env.render()
        for step in range(STEPS):
            action = int(rng.integers(0, env.action_space.n))
            *_, ended, cut, _ = env.step(action)
            after = env.render()
            if (after != before).any():
                source, target = (encode_png(Image.fromarray(frame)) for frame in (before, after))
                row = Transition(id=f"{episode}-{step}", group=str(episode), source=source, target=target)
                rows.append(row)
            before = after
            if ended or cut:
                break
    return rows[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", nargs="+")
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--held-out", type=int, default=300)
    given = parser.parse_args()
    for name in given.environments:
        rows, others = play(name, given.pairs, 0), play(name, given.held_out, 100_000)
        began = time.process_time()
        tokenizer = make_tokenizer(rows, TokenizerConfig())
        print(f"{name}: {time.process_time() - began:.1f} CPU-s, {describe(tokenizer)}")
        images = [[tokenizer.arrays([read_image(image)])[0] for image in (row.source, row.target)] for row in others]
        print(f"  other episodes: {measure(tokenizer, np.asarray(images))}")


if __name__ == "__main__":
    main()
