"""Settings of collecting, without what plays: the command line knows them at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

RANDOM = "random"


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """How an environment is played, and what is kept. Raises `ValueError` when a setting makes no sense."""

    policy: str = field(
        default=RANDOM,
        metadata={
            "help": "`random`, or a Python file with `policy(observation, actions, rng)`, which returns an action or "
            "its name; with `describe(before, action, after, info)`, which says in words what happened, or None to "
            "leave the pair out; or with both."
        },
    )
    episodes: int = field(default=100, metadata={"help": "Episodes to take labelled pairs from."})
    test: int = field(default=20, metadata={"help": "Episodes of their own for pairs to test on."})
    videos: int = field(default=0, metadata={"help": "Episodes of their own to film, without labels."})
    pairs: int = field(
        default=40,
        metadata={"help": "Pairs to keep of an episode, at most; its actions take turns, the rare ones too."},
    )
    steps: int = field(default=200, metadata={"help": "Steps to play of an episode, at most."})
    repeat: int = field(
        default=1, metadata={"help": "Steps that an action is repeated for, where a single one changes too little."}
    )
    unchanged: bool = field(default=False, metadata={"help": "Keep pairs in which nothing changed, too."})
    seed: int = field(default=0, metadata={"help": "Seed of everything random; the same seed gives the same folder."})

    def __post_init__(self) -> None:
        for name in ("episodes", "pairs", "steps", "repeat"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give 1 or more.")
        for name in ("test", "videos"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more.")
        if self.policy != RANDOM and not Path(self.policy).is_file():
            raise ValueError(f"There is no policy {self.policy!r}: give `{RANDOM}` or a Python file.")
