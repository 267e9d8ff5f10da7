"""Transitions and videos of any Gymnasium environment: two rendered frames, and in words what was done between them.

An episode is played by its own seed, so that the same settings give the same folder, and a run that was interrupted
plays again what it had not finished.
"""

from __future__ import annotations

import importlib
import random
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from retrodict.data.config import RANDOM, CollectConfig
from retrodict.data.convert import pair_id, write_pairs
from retrodict.files import JsonObject, made_once, visible, write_text
from retrodict.images import read_image
from retrodict.progress import Progress, QuietProgress
from retrodict.recipes.values import load_yaml
from retrodict.run_folder import claim
from retrodict.transitions import iter_rows
from retrodict.video.encode import write_video

if TYPE_CHECKING:
    from gymnasium import Env

HELD = 10  # frames of a video for which each state is shown; the recipe mines frames that far apart
STATES = 9  # of a video
_RECIPE = (  # some minutes on two cores
    "model: {layers: 2}",
    "inverse: &training {steps: 1200, per_device_batch_size: 16, learning_rate: 0.004}",
    "forward: *training",
)
_REGISTERED_BY = {
    "MiniGrid": "minigrid",
    "BabyAI": "minigrid",
    "ALE": "ale_py",
}  # packages that know an id once imported

Frame: TypeAlias = npt.NDArray[np.uint8]
Actions: TypeAlias = Mapping[str, Any]  # by what they are called


def collect(
    environment: str,
    out: Path,
    config: CollectConfig,
    *,
    arguments: Mapping[str, Any] | None = None,
    names: Path | None = None,
    progress: Progress | None = None,
) -> JsonObject:
    """Play an environment and write `labelled`, `test` and `videos` below `out`, and a recipe that learns from them.

    Args:
        environment: a Gymnasium id such as `CartPole-v1`, or `module:id` where importing a module registers it.
        out: a new folder, or that of an earlier call with the same settings, which continues.
        config: how it is played, and what is kept.
        arguments: of the environment's constructor.
        names: a YAML or JSON file with what actions are called: a list in the order of a discrete space, or a mapping
            from names to actions of any space. By default names are the environment's own.
        progress: advances with every episode.

    Returns:
        Of `labelled` and `test` the pairs by action and what was left out by reason, as counts; how many `videos`.

    Raises:
        ImportError: Gymnasium is not installed.
        ValueError: there is no such environment, it does not render, its actions have no names, not one pair was found,
            or `out` holds something else.
    """
    settings = {"environment": environment, "arguments": dict(arguments or {}), **asdict(config)}
    policy_file = None if config.policy == RANDOM else Path(config.policy)
    player = _Player(make(environment, arguments or {}), config, names, policy_file)
    claim(out, "collect", settings, inputs={"policy": policy_file, "names": names})
    progress = progress or QuietProgress()
    written: JsonObject = {}
    try:
        for name, episodes in (("labelled", config.episodes), ("test", config.test)):
            if episodes:
                progress.stage(name, f"play {episodes} episodes")
                play = partial(_write, player, out, name, episodes, progress)
                written[name] = made_once(out / f"{name}.json", play)
                progress.done(f"{sum(written[name]['actions'].values()):,} pairs")
        if config.videos:
            progress.stage("videos", f"film {config.videos} episodes")
            written["videos"] = _film(player, out / "videos", config.videos, progress)
            progress.done()
    finally:
        player.env.close()
    write_text(out / "recipe.yaml", _recipe(environment, written))
    return written


def make(environment: str, arguments: Mapping[str, Any]) -> Env[Any, Any]:
    """The environment, which renders to arrays. Raises what `collect` raises."""
    try:
        import gymnasium
    except ImportError:
        raise ImportError("Collecting from environments needs: pip install 'retrodict[gym]'") from None

    module, colon, name = environment.rpartition(":")
    module = module or _REGISTERED_BY.get(name.replace("/", "-").partition("-")[0], "")
    here = str(Path.cwd())
    try:
        if module:
            sys.path.append(here)  # as for `python -m`: one's own module lies where one works
            try:
                with _code_of(module, but=ImportError):
                    importlib.import_module(module)
            finally:
                sys.path.remove(here)
        with _code_of(environment, but=(ImportError, gymnasium.error.Error, TypeError)):
            env: Env[Any, Any] = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True, **arguments)
    except ImportError as error:
        raise ValueError(f"{environment} needs {error.name or error}: install the package that brings it.") from None
    except (gymnasium.error.Error, TypeError) as error:
        hint = (
            ""
            if colon or isinstance(error, TypeError)
            else " If a package registers it when it is imported, give MODULE:ID."
        )
        raise ValueError(f"{environment} cannot be made: {str(error).rstrip('.')}.{hint}") from None
    return env


@contextmanager
def _code_of(whose: object, but: type[Exception] | tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Somebody else's code runs: what it raises is said to be its own, and an exit is not taken for success."""
    try:
        yield
    except but:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{whose} does not run: {type(error).__name__}: {error}") from error


def action_names(env: Env[Any, Any], names: Path | None = None) -> dict[str, Any]:
    """What actions are called; empty where nothing says so. Raises `ValueError` for names that fit no action."""
    space: Any = env.action_space
    inner = env.unwrapped
    if names is not None:
        return {word: _as_action(space, word, action, names) for word, action in _read_names(names).items()}
    first, many = (int(space.start), int(space.n)) if type(space).__name__ == "Discrete" else (0, 0)
    if hasattr(inner, "actions") and hasattr(inner.actions, "__members__"):
        words = {member.name: int(member.value) for member in inner.actions}
    elif hasattr(inner, "get_action_meanings"):
        words = dict(zip(inner.get_action_meanings(), range(first, first + many), strict=False))
    else:
        words = {f"action {i}": i for i in range(first, first + many)}
    said = {word: word.replace("_", " ").lower() for word in words}
    if len(set(said.values())) < len(words):  # two that differ in their letters' size alone
        said = {word: word for word in words}
    return {said[word]: i for word, i in words.items() if first <= i < first + many}


def _read_names(file: Path) -> dict[str, Any]:
    names = load_yaml(file)
    if not isinstance(names, dict | list) or not names:
        raise ValueError(f"{file} holds neither a list of names nor a mapping from names to actions.")
    if others := [word for word in names if isinstance(word, bool) or not isinstance(word, str | int)]:
        raise ValueError(f"{file}: {others[0]} is no name; in YAML, names such as yes, no, on and off need quotes.")
    words = [str(word).strip() for word in names]
    if repeated := [word for word, count in Counter(words).items() if count > 1 or not word]:
        raise ValueError(f"{file} calls several actions {repeated[0]!r}, or one by no name: names must differ.")
    return dict(zip(words, names.values() if isinstance(names, dict) else count(), strict=False))


def _as_action(space: Any, word: str, action: Any, file: Path) -> Any:
    try:
        value = np.asarray(action, space.dtype)
    except (TypeError, ValueError):
        value = np.empty(0)
    if not space.contains(value.item() if value.ndim == 0 else value):
        raise ValueError(f"{file}: {word!r} is {action}, which is no action of {space}.")
    return value.item() if value.ndim == 0 else value


@dataclass(frozen=True)
class _Step:
    number: int
    before: Frame
    after: Frame
    said: str  # what happened, in words; empty where it has none

    @property
    def changes(self) -> bool:
        return not np.array_equal(self.before, self.after)


class _Player:
    """An environment, what its actions are called, and who chooses them."""

    def __init__(self, env: Env[Any, Any], config: CollectConfig, names: Path | None, policy_file: Path | None) -> None:
        self.env, self.config = env, config
        self.actions = action_names(env, names)
        given = _run(policy_file) if policy_file else {}
        self._policy_file = policy_file
        self._env_name = env.spec and env.spec.id
        self._policy: Callable[..., Any] = given.get("policy", self._random)
        self._describe: Callable[..., str | None] | None = given.get("describe")
        if policy_file and not given.keys() & {"policy", "describe"}:
            raise ValueError(f"{policy_file} defines neither `policy` nor `describe`.")
        if not self.actions and not self._describe:
            raise ValueError(
                f"The actions of {env.spec and env.spec.id} have no names, as they are {env.action_space}: name some "
                "in a file for --names, such as {steer left: [-1, 0, 0]}, describe what happens in a file for "
                "--policy, or choose a discrete variant where there is one, such as --env-arg continuous=false."
            )

    def episode(self, stream: str, number: int) -> Iterator[_Step]:
        """What happens in an episode, step by step."""
        rng = np.random.default_rng(list(f"{self.config.seed}/{stream}/{number}".encode()))
        env, seed = self.env, int(rng.integers(2**31))
        with _code_of(self._env_name):
            env.action_space.seed(seed)
            observation, info = env.reset(seed=seed)
        before, over = frame_of(env), False
        for step in range(self.config.steps):
            action = self._chosen(observation, rng)
            for _ in range(self.config.repeat):
                with _code_of(self._env_name):
                    new, _, terminated, truncated, info = env.step(action)
                    over = bool(terminated or truncated)
                if over:
                    break
            after = frame_of(env)
            said = self._described(observation, action, new, info) if self._describe else self._name(action)
            yield _Step(step, before, after, visible(said or ""))
            if over:
                return
            observation, before = new, after

    def _chosen(self, observation: Any, rng: np.random.Generator) -> Any:
        with _code_of(self._policy_file or "The policy"):
            action = self._policy(observation, self.actions, rng)
        if isinstance(action, str) and self.actions:
            if action not in self.actions:
                raise ValueError(f"{self._policy_file} chose {action!r}, which is none of {', '.join(self.actions)}.")
            return self.actions[action]
        return action

    def _described(self, *step: Any) -> str | None:
        assert self._describe is not None, "it was asked for"
        with _code_of(self._policy_file):
            said = self._describe(*step)
        if said is not None and not isinstance(said, str):
            raise ValueError(f"{self._policy_file}: `describe` returned {said!r}, and not words or None.")
        return said

    def _random(self, observation: Any, actions: Actions, rng: np.random.Generator) -> Any:
        words = list(actions)
        return words[rng.integers(len(words))] if words else self.env.action_space.sample()

    def _name(self, action: Any) -> str | None:
        return next((word for word, named in self.actions.items() if np.array_equal(named, action)), None)


def frame_of(env: Env[Any, Any]) -> Frame:
    """What the environment shows, uint8 [H, W, 3]. Raises `ValueError` where it cannot render."""
    from gymnasium.error import Error

    name = env.spec and env.spec.id
    try:
        with _code_of(name, but=Error):
            frame: Any = env.render()
    except Error as error:  # such as a package that only rendering needs
        raise ValueError(f"{name} cannot render: {str(error).rstrip('.')}.") from None
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or 0 in frame.shape:
        is_array = isinstance(frame, np.ndarray)
        what = f"{list(frame.shape)} of {frame.dtype}" if is_array else type(frame).__name__
        raise ValueError(f"{name} renders no rgb_array, uint8 [H, W, 3], but {what}.")
    return frame.copy()


def _run(policy_file: Path) -> Mapping[str, Any]:
    with _code_of(policy_file, but=OSError):
        return runpy.run_path(str(policy_file))


def _write(player: _Player, out: Path, name: str, episodes: int, progress: Progress) -> JsonObject:
    """Write the pairs of a stream of episodes; none is in two streams."""
    known = {row.id for row in iter_rows(out / "labelled", ["id"])} if name != "labelled" else set()
    actions, left_out = Counter[str](), Counter[str]()

    def pairs() -> Iterator[JsonObject]:
        for number in range(episodes):
            progress.advance(number, episodes, f"{actions.total():,} pairs")
            for identity, step in _chosen(player, name, number, known, left_out):
                known.add(identity)
                actions[step.said] += 1
                yield {
                    "id": identity,
                    "source": step.before,
                    "target": step.after,
                    "action": step.said,
                    "category": step.said,
                    "group": f"{name} episode {number}",
                }

        if not actions:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items() if count)
            raise ValueError(f"Not one pair of {episodes} episodes is of use for {out / name}: {reasons}.")

    write_pairs(out / name, pairs())
    return {"episodes": episodes, "actions": dict(sorted(actions.items())), "left_out": dict(sorted(left_out.items()))}


def _chosen(
    player: _Player, stream: str, number: int, known: Collection[str], left_out: Counter[str]
) -> list[tuple[str, _Step]]:
    """The steps of an episode that are kept, by id: its actions in turn, so that rare ones are not crowded out."""
    by_action: dict[str, dict[str, _Step]] = {}
    for step in player.episode(stream, number):
        identity = pair_id(step.before.tobytes(), step.after.tobytes(), step.said)
        if not step.said:
            left_out["without words"] += 1
        elif not (step.changes or player.config.unchanged):
            left_out["nothing changed"] += 1
        elif identity in known or identity in by_action.get(step.said, {}):
            left_out["seen before"] += 1
        else:
            by_action.setdefault(step.said, {})[identity] = step
    rng = random.Random(f"{player.config.seed}/{stream}/{number}")
    shuffled = [rng.sample(list(steps.items()), len(steps)) for steps in by_action.values()]
    turns = [step for turn in zip_longest(*shuffled) for step in turn if step is not None]
    left_out["more than --pairs"] += max(0, len(turns) - player.config.pairs)
    return sorted(turns[: player.config.pairs], key=lambda turn: turn[1].number)


def _film(player: _Player, folder: Path, count: int, progress: Progress) -> int:
    for number in range(count):
        path = folder / f"{number:05d}.mp4"
        progress.advance(number, count)
        if not path.is_file():
            steps = [step for step in player.episode("videos", number) if step.changes]
            if not steps:
                continue
            start = random.Random(number).randrange(max(1, len(steps) - STATES + 2))
            shown = steps[start : start + STATES - 1]
            images = [read_image(frame) for frame in (shown[0].before, *(step.after for step in shown))]
            write_video(path, (image for image in images for _ in range(HELD)))
    return sum(1 for _ in folder.glob("*.mp4"))


def _recipe(environment: str, written: Mapping[str, Any]) -> str:
    lines = [
        f"# What `retrodict collect {environment}` wrote, for `retrodict bootstrap`.",
        "data:",
        "  labelled: labelled",
    ]
    lines += ["  test: test"] if "test" in written else []
    lines += ["  videos: [videos]", f"mine: {{min_gap: {HELD}}}"] if written.get("videos") else []
    return "\n".join([*lines, *_RECIPE, ""])
