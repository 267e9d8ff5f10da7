"""The engine: rooms of the package's levels, actions by its rules and its bot, missions checked by its verifiers.

The package is imported when something is asked of it, so that retrodict works without it.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from retrodict.worlds.babyai.language import COLOURS, KINDS, STEPS, TURNS, Action
from retrodict.worlds.babyai.tiles import (
    AGENT,
    CLOSED,
    DOOR,
    FLOOR,
    GRID,
    LOCKED,
    OPEN,
    THING,
    TILES,
    WALL,
    State,
    agents,
    at,
    base,
    cell_of,
    having,
    things,
    tile_of,
)

# Levels whose room of 7 x 7 is seen whole, with the arguments of their environments; the first has most to do in it.
LEVELS: dict[str, dict[str, Any]] = {
    "ActionObjDoor": {},
    "GoToLocal": {"room_size": GRID, "num_dists": 5},
    "PutNextLocal": {"room_size": GRID, "num_objs": 5},
    "UnlockLocal": {"room_size": GRID, "distractors": True},
}
_LONGEST = 60  # steps of a mission
_LEFT, _RIGHT, _FORWARD, _PICK, _DROP, _TOGGLE, _DONE = range(7)
_TURN_STEPS = dict(zip(TURNS, ((_RIGHT,), (_RIGHT, _RIGHT), (_LEFT,)), strict=True))


def _package() -> None:
    """Raises `ImportError`, with the remedy, where the engine is not installed."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    try:
        importlib.import_module("minigrid")
    except ImportError:
        raise ImportError("The world babyai needs: pip install 'retrodict[babyai]'") from None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without what the package prints of rooms that it rejects and of its bot's thoughts."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@cache
def _environment(level: str) -> Any:
    """An environment of a level that does not make the observations, which nobody reads."""
    _package()
    from minigrid.envs import babyai

    blind = type(level, (getattr(babyai, level),), {"gen_obs": lambda self: {}})
    return blind(**LEVELS[level])


@cache
def _room() -> Any:
    """A single room in which any state can be set up."""
    room = _environment("GoToLocal")
    with _silent():
        room.reset(seed=0)
    return room


def _object(tile: int) -> Any:
    """What the engine has at a tile, None for floor."""
    from minigrid.core.world_object import Ball, Box, Door, Key, Wall

    if tile == WALL:
        return Wall()
    if tile >= DOOR:
        return Door(COLOURS[(tile - DOOR) // 3], (tile - DOOR) % 3 == OPEN, (tile - DOOR) % 3 == LOCKED)
    if tile >= THING:
        kind, colour = divmod(tile - THING, len(COLOURS))
        return (Ball, Box, Key)[kind](COLOURS[colour])
    return None


def _tile(thing: Any) -> int:
    """Of what the engine has in a cell."""
    if thing is None:
        return FLOOR
    if thing.type == "wall":
        return WALL
    if thing.type == "door":
        state = OPEN if thing.is_open else LOCKED if thing.is_locked else CLOSED
        return DOOR + 3 * COLOURS.index(thing.color) + state
    return THING + len(COLOURS) * KINDS.index(thing.type) + COLOURS.index(thing.color)


def tile_images(pixels: int) -> npt.NDArray[np.uint8]:
    """Every tile as the engine draws it: [tiles, pixels, pixels, 3]."""
    _package()
    from minigrid.core.grid import Grid

    names = [(FLOOR, None), (WALL, None), *((FLOOR, direction) for direction in range(4))]
    shown = [*names, *((tile, None) for tile in range(THING, TILES))]
    drawn = [Grid.render_tile(_object(tile), agent_dir=direction, tile_size=pixels) for tile, direction in shown]
    return np.stack(drawn).astype(np.uint8)


def first_state(level: str, seed: int) -> State:
    """The room in which an episode of a level begins, as its environment makes it."""
    environment = _environment(level)
    with _silent():
        environment.reset(seed=seed)
    state = _state(environment)
    assert state is not None, "an agent begins on the floor"
    return state


def _state(environment: Any) -> State | None:
    """What the room with the agent shows; None while the agent stands in a door."""
    middle = (environment.width - GRID) // 2  # of 3 x 3 rooms, or of the only one
    cells = [cell_of(i) for i in range(GRID * GRID)]
    state = bytes(_tile(environment.grid.get(x + middle, y + middle)) for x, y in cells)
    x, y = environment.agent_pos[0] - middle, environment.agent_pos[1] - middle
    return having(state, (x, y), AGENT + environment.agent_dir) if at(state, (x, y)) == FLOOR else None


def _set_up(state: State, carrying: str = "", known: dict[int, Any] | None = None) -> tuple[Any, dict[int, Any]]:
    """The room in a state, and its things and doors by `base` tile; those that are `known` stay the same objects."""
    from minigrid.core.grid import Grid

    room, objects = _room(), dict(known or {})
    room.grid = Grid(GRID, GRID)
    for index, tile in enumerate(state):
        if tile == WALL:
            room.grid.set(*cell_of(index), _object(WALL))
        elif THING <= tile < TILES:
            thing = objects.setdefault(base(tile), _object(tile))
            if tile >= DOOR:
                thing.is_open, thing.is_locked = (tile - DOOR) % 3 == OPEN, (tile - DOOR) % 3 == LOCKED
            room.put_obj(thing, *cell_of(index))
    (agent, *_) = agents(state)
    room.agent_pos, room.agent_dir, room.step_count, room.max_steps = agent.cell, agent.direction, 0, 10 * _LONGEST
    room.carrying = objects.setdefault(tile_of(carrying), _object(tile_of(carrying))) if carrying else None
    return room, objects


def _mission(action: Action) -> Any:
    """The package's instruction and verifier of a mission."""
    from minigrid.envs.babyai.core.verifier import GoToInstr, ObjDesc, OpenInstr, PickupInstr, PutNextInstr

    made = {"go": GoToInstr, "pick": PickupInstr, "open": OpenInstr, "put": PutNextInstr}[action.kind]
    described = [ObjDesc(*reversed(name.split())) for name in (action.thing, action.other) if name]
    return made(*described)


def holds(action: Action, before: State, after: State) -> bool:
    """Whether the package's verifier of a mission accepts a state as its end.

    Args:
        action: a mission: "go", "pick", "open" or "put".
        before: where it began, with all that it names.
        after: any state with one agent, which need not be one that can be reached.
    """
    room, objects = _set_up(before)
    instruction = _mission(action)
    instruction.surface(room)
    instruction.reset_verifier(room)
    subject = objects[tile_of(action.thing)]
    if action.kind == "put":  # the verifier wants to see the thing carried before it is dropped
        room.carrying = subject
        instruction.verify(_DONE)
    _set_up(after, known=objects)
    if action.kind == "pick" and tile_of(action.thing) not in things(after):
        room.carrying = subject
    last = {"go": _DONE, "pick": _PICK, "open": _TOGGLE, "put": _DROP}[action.kind]
    return bool(instruction.verify(last) == "success")


def carry_out(action: Action, state: State, carrying: str = "") -> tuple[State, str] | None:
    """What an action leads to, and what the agent then carries; None where it cannot be done, or not by the bot.

    Args:
        action: what is done: missions by the bot, anything else step by step.
        state: the room before.
        carrying: the name of what the agent carries, "" for nothing.
    """
    room, _ = _set_up(state, carrying)
    if not _done(room, action):
        return None
    after = _state(room)
    return None if after is None else (after, f"{room.carrying.color} {room.carrying.type}" if room.carrying else "")


def _done(room: Any, action: Action) -> bool:
    match action.kind:
        case "turn":
            return _steps(room, _TURN_STEPS[action.thing])
        case "forward":
            goal = _ahead(room, STEPS.index(action.thing) + 1)
            return _steps(room, [_FORWARD] * (STEPS.index(action.thing) + 1)) and tuple(room.agent_pos) == goal
        case "drop":
            held = room.carrying
            named = held is not None and f"{held.color} {held.type}" == action.thing
            return named and _steps(room, (_DROP,)) and room.carrying is None
        case "close":
            return _play(room, Action("go", action.thing)) and _closes(room)
    return _play(room, action)


def _ahead(room: Any, steps: int) -> tuple[int, int]:
    dx, dy = room.dir_vec
    return room.agent_pos[0] + steps * int(dx), room.agent_pos[1] + steps * int(dy)


def _steps(room: Any, steps: Any) -> bool:
    for step in steps:
        room.step(step)
    return True


def _closes(room: Any) -> bool:
    door = room.grid.get(*room.front_pos)
    return door is not None and door.type == "door" and door.is_open and _steps(room, (_TOGGLE,))


def _play(room: Any, action: Action) -> bool:
    """Let the bot carry a mission out; whether its verifier says that it did."""
    from minigrid.utils.baby_ai_bot import BabyAIBot

    names = {f"{thing.color} {thing.type}" for thing in room.grid.grid if thing is not None and thing.type != "wall"}
    if not {action.thing, action.other or action.thing} <= names:
        return False
    room.instrs = _mission(action)
    with _silent():
        room.instrs.surface(room)
        room.instrs.reset_verifier(room)
        bot: Any = BabyAIBot(room)
        bot.vis_mask[:] = True  # the image shows all of the room: nothing to explore
        bot._process_obs = lambda: None
        try:
            for _ in range(_LONGEST):
                _, reward, ended, *_ = room.step(bot.replan())
                if ended:
                    return bool(reward > 0)
        except (AssertionError, AttributeError, TypeError, IndexError):  # the bot's ways of saying that it is stuck
            return False
    return False
