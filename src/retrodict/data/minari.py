"""Episodes that others recorded, as Minari data sets: two frames, and in words what the agent did between them.

Frames are those that the data set stores. Where it stores none, its environment is played again by the recorded seeds
and actions, for as long as it answers as it did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrodict.data.collect import Frame, action_names, frame_of
from retrodict.data.items import Item, UnusableError, state
from retrodict.images import image_bytes
from retrodict.transitions import Transition

if TYPE_CHECKING:
    from gymnasium import Env, Space
    from minari import MinariDataset

Episode = Sequence[Frame | None]  # before the first step and after each; None: it is not known how it looked


def minari(root: Path, annotations: Path | None = None) -> list[Item]:
    """The steps of every episode of a data set, each read when it is asked for.

    Actions are called what the environment calls them, as in `collect`; the group is the episode.

    Args:
        root: the data set's folder, or its id, such as `minigrid/BabyAI-Pickup/optimal-v0`: it is taken from where
            Minari keeps its data sets, and downloaded if it is not there.

    Raises:
        ImportError: Minari is not installed.
        ValueError: there is no such data set, its actions have no names, or it holds no images and its environment
            cannot be played.
    """
    if annotations is not None:
        raise ValueError("A Minari data set names its actions itself: leave out --annotations.")
    recorded = _Recorded(_opened(root))
    return [
        Item(name, partial(recorded.key, episode, step), partial(recorded.read, episode, step, name))
        for episode, length in recorded.lengths().items()
        for step in range(length)
        if (name := f"episode-{episode:06d}/{step:05d}")
    ]


def _opened(root: Path) -> MinariDataset:
    try:
        from minari import load_dataset
        from minari.dataset.minari_dataset import MinariDataset
    except ImportError:
        raise ImportError("Minari data sets need: pip install 'retrodict[minari]'") from None

    try:
        return MinariDataset(root / "data") if root.exists() else load_dataset(str(root), download=True)
    except Exception as error:  # storage, network and versions each raise their own
        raise ValueError(f"The Minari data set {root} could not be had: {str(error).rstrip('.')}.") from error


class _Recorded:
    """A data set's episodes as frames and words, of which the last that was read stays in memory."""

    def __init__(self, dataset: MinariDataset) -> None:
        self._dataset = dataset
        self._stored = _image_key(dataset.observation_space)
        self._env = self._environment()
        self._words = self._named()
        self._seeds = {int(about["id"]): about.get("seed") for about in self._about()}
        files = sorted(path for path in Path(dataset.storage.data_path).rglob("*") if path.is_file())
        self._state = hashlib.sha256("\n".join(map(state, files)).encode()).hexdigest()[:16]
        self.episode = lru_cache(maxsize=1)(self._episode)

    def lengths(self) -> dict[int, int]:
        """Steps of each episode."""
        return {int(about["id"]): int(about["total_steps"]) for about in self._about()}

    def key(self, episode: int, step: int) -> str:
        return f"{self._state} {episode} {step}"

    def read(self, episode: int, step: int, name: str) -> Transition:
        """Raises `UnusableError`."""
        frames, words = self.episode(episode)
        before, after = frames[step : step + 2]
        if before is None or after is None:
            raise UnusableError("not_reproduced")
        if np.array_equal(before, after):
            raise UnusableError("nothing_changed")
        return Transition(
            id=name,
            clip=f"episode-{episode:06d}",
            category=words[step],
            group=f"episode-{episode:06d}",
            frame_source=step,
            frame_target=step + 1,
            source=image_bytes(before),
            target=image_bytes(after),
            provenance={"dataset": self._dataset.id, "episode": episode, "step": step},
            action=words[step],
            action_source="human",
        )

    def _about(self) -> Iterator[Mapping[str, Any]]:
        yield from self._dataset.storage.get_episode_metadata(self._dataset.episode_indices)

    def _environment(self) -> Env[Any, Any] | None:
        """The environment it was recorded in, where it is installed. Raises `ValueError` where it is needed, too."""
        import gymnasium

        try:
            env: Env[Any, Any] = self._dataset.recover_environment(render_mode="rgb_array", disable_env_checker=True)
            return env
        except (gymnasium.error.Error, ImportError, ValueError, TypeError) as error:
            if self._stored is not None:
                return None
            raise ValueError(
                f"{self._dataset.id} stores no images, and its environment cannot be played: {str(error).rstrip('.')}."
            ) from None

    def _named(self) -> dict[int, str]:
        space = self._dataset.action_space
        if type(space).__name__ != "Discrete":
            raise ValueError(f"The actions of {self._dataset.id} have no names, as they are {space}.")
        start, count = int(getattr(space, "start", 0)), int(getattr(space, "n", 0))
        names = action_names(self._env) if self._env else {}
        return {i: f"action {i}" for i in range(start, start + count)} | {i: word for word, i in names.items()}

    def _episode(self, number: int) -> tuple[Episode, list[str]]:
        episode = next(iter(self._dataset.iterate_episodes([number])))
        words = [self._words[int(action)] for action in episode.actions]
        if self._stored is None:
            return self._replayed(number, episode.observations, episode.actions), words
        stored = episode.observations
        for key in self._stored:
            stored = stored[key]
        return [np.asarray(frame) for frame in stored], words

    def _replayed(self, number: int, observations: Any, actions: Any) -> Episode:
        """What the environment shows, up to where it no longer answers as it did."""
        env, seed = self._env, self._seeds[number]
        assert env is not None
        frames: list[Frame | None] = [None] * (len(actions) + 1)
        if seed is None:
            return frames
        answer, _ = env.reset(seed=seed)
        for step in range(len(frames)):
            if not _same(answer, observations, step):
                break
            frames[step] = frame_of(env)
            if step < len(actions):
                answer, *_ = env.step(actions[step])
        return frames


def _image_key(space: Space[Any]) -> tuple[str, ...] | None:
    """Where in an observation the image is: keys of nested dictionaries; None where there is none."""
    if hasattr(space, "spaces") and isinstance(space.spaces, Mapping):
        inside = ((name, _image_key(inner)) for name, inner in space.spaces.items())
        return next(((name, *keys) for name, keys in inside if keys is not None), None)
    shape = space.shape or ()
    is_image = space.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and min(shape[:2]) >= 32
    return () if is_image else None


def _same(answer: Any, recorded: Any, step: int) -> bool:
    """Whether an observation is the recorded one, within rounding."""
    if isinstance(recorded, Mapping):
        return all(_same(answer[name], part, step) for name, part in recorded.items())
    if isinstance(recorded, tuple):
        return all(_same(answer[i], part, step) for i, part in enumerate(recorded))
    was = recorded[step]
    if isinstance(answer, str):
        return answer == (was.decode() if isinstance(was, bytes) else str(was))
    return bool(np.allclose(np.asarray(answer, float), np.asarray(was, float), atol=1e-5))
