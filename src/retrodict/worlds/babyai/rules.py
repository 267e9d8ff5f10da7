"""What an action asks for, and whether a state shows it: exact scores, and what happened between two states.

Facts are read off two states. What the action asks for and the source does not show yet is the edit; whatever the
source shows already, or the action leaves alone, must stay.

- Editing success (es): the share of what was asked for that holds. Every end that the mission's own verifier accepts is
  right, not only the one that the bot chooses: "go to the red ball" may end on any side of it. The agent must stand
  where it can have walked.
- Minimal editing (me): the share of all other things, doors and walls that are as in the source. An agent too many or
  too few, and every tile that is none, count as one more fact that was not kept.

The true target scores 1 and a copy of the source exactly 0. Where an action leads nowhere, a copy is what scores 1.
"""

from __future__ import annotations

from collections.abc import Iterator

from retrodict.worlds.babyai import engine
from retrodict.worlds.babyai.language import STEPS, TURNS, Action
from retrodict.worlds.babyai.tiles import (
    CLOSED,
    DOOR,
    FLOOR,
    OPEN,
    THING,
    UNKNOWN,
    WALL,
    Agent,
    Cell,
    State,
    agents,
    at,
    base,
    beside,
    having,
    name_of,
    reachable,
    things,
    tile_of,
)
from retrodict.worlds.base import Score


def possible(action: Action, state: State) -> bool:
    """Whether the image of a state allows an action: what it names is there and can be reached.

    "drop" depends on what is carried, which no image shows: it is possible where the thing is not in sight.
    """
    if not is_room(state):
        return False
    (agent,), where = agents(state), things(state)
    if action.kind == "turn":
        return True
    if action.kind == "forward":
        return all(at(state, agent.ahead(n)) == FLOOR for n in range(1, STEPS.index(action.thing) + 2))
    if action.kind == "drop":
        return tile_of(action.thing) not in where and at(state, agent.ahead()) == FLOOR
    if tile_of(action.thing) not in where:
        return False
    ((cell, tile),) = where[tile_of(action.thing)]
    floor = reachable(state, agent.cell)
    if not any(beside(cell, stand) for stand in floor):
        return False
    match action.kind:
        case "go":
            return agent.ahead() != cell
        case "open" | "close":
            return tile == tile_of(action.thing) + (CLOSED if action.kind == "open" else OPEN)
        case "put":
            if tile_of(action.other) not in where:
                return False
            ((other, _),) = where[tile_of(action.other)]
            return not beside(cell, other)
    return True


def possible_actions(state: State) -> list[Action]:
    """All actions that the image of a state allows, without what depends on the thing carried."""
    names = [name_of(tile) for tile in sorted(things(state))]
    movable = [name for name in names if tile_of(name) < DOOR]
    doors = [name for name in names if tile_of(name) >= DOOR]
    every = [
        *(Action("turn", way) for way in TURNS),
        *(Action("forward", steps) for steps in STEPS),
        *(Action("go", name) for name in names),
        *(Action("pick", name) for name in movable),
        *(Action(kind, name) for kind in ("open", "close") for name in doors),
        *(Action("put", a, b) for a in movable for b in movable if a != b),
    ]
    return [action for action in every if possible(action, state)]


def score(predicted: State, source: State, action: Action) -> Score:
    """How exactly a state shows an action that is `possible` in the source."""
    if predicted == source:
        return Score(0.0, 1.0)
    asked: list[bool] = []
    also: list[bool] = []
    for fact, before in zip(_asked(predicted, source, action), _asked(source, source, action), strict=True):
        (also if before else asked).append(fact)
    kept = [*also, *_kept(predicted, source, action)]
    assert asked, "a possible action asks for something"
    return Score(sum(asked) / len(asked), sum(kept) / len(kept))


def score_still(predicted: State, source: State) -> Score:
    """How exactly a state shows that nothing happened."""
    same = sum(a == b for a, b in zip(predicted, source, strict=True)) / len(source)
    return Score(float(predicted == source), same)


def _asked(predicted: State, source: State, action: Action) -> list[bool]:
    """What an action asks for, fact by fact, and whether a state shows it."""
    (agent,) = agents(source)
    now = agents(predicted)
    one = now[0] if len(now) == 1 else None
    match action.kind:
        case "turn":
            return [one == Agent(agent.cell, (agent.direction + TURNS.index(action.thing) + 1) % 4)]
        case "forward":
            return [one == Agent(agent.ahead(STEPS.index(action.thing) + 1), agent.direction)]
        case "drop":
            return [_only(predicted, action.thing) == agent.ahead(), one == agent]
    ((cell, _),) = things(source)[tile_of(action.thing)]
    cleared = having(source, agent.cell, FLOOR)
    faces = _stands(one, cleared, agent.cell, cell)
    match action.kind:
        case "go":
            return [faces and engine.holds(action, source, predicted)]
        case "pick":
            gone = tile_of(action.thing) not in things(predicted)
            return [gone and one is not None and engine.holds(action, source, predicted), faces]
        case "open":
            wide = at(predicted, cell) == tile_of(action.thing) + OPEN
            return [wide, faces and (not wide or engine.holds(action, source, predicted))]
        case "close":
            return [at(predicted, cell) == tile_of(action.thing) + CLOSED, faces]
    moved = _only(predicted, action.thing)
    done = moved not in (None, cell) and one is not None and engine.holds(action, source, predicted)
    return [done, done and _stands(one, having(cleared, cell, FLOOR), agent.cell, moved)]


def _only(state: State, name: str) -> Cell | None:
    """Where a thing is, if it is there once."""
    places = things(state).get(tile_of(name), [])
    return places[0][0] if len(places) == 1 else None


def _stands(agent: Agent | None, floor: State, start: Cell, faced: Cell | None) -> bool:
    """Whether an agent looks at a cell from where it can have walked."""
    return agent is not None and agent.ahead() == faced and agent.cell in reachable(floor, start)


def _kept(predicted: State, source: State, action: Action) -> Iterator[bool]:
    """What an action leaves alone, fact by fact, and whether a state still shows it."""
    subject = tile_of(action.thing) if action.kind in ("pick", "drop", "put", "open", "close") else None
    before, now = things(source), things(predicted)
    yield from (before.get(tile) == now.get(tile) for tile in sorted({*before, *now} - {subject}))
    if subject is not None and len(now.get(subject, ())) > 1:
        yield False
    yield all((a == WALL) == (b == WALL) for a, b in zip(predicted, source, strict=True))
    if len(agents(predicted)) != 1:
        yield False
    yield from [False] * predicted.count(UNKNOWN)


def explains(action: Action, source: State, target: State) -> bool:
    """Whether an action leads from one state to the other."""
    return possible(action, source) and score(target, source, action).score == 1


def explanations(source: State, target: State) -> list[Action]:
    """Every action that leads from one state to the other."""
    return [action for action in _candidates(source, target) if explains(action, source, target)]


def _candidates(source: State, target: State) -> Iterator[Action]:
    """The actions that fit what has changed, possible or not."""
    before, now = things(source), things(target)
    changed = [tile for tile in sorted({*before, *now}) if before.get(tile) != now.get(tile)]
    if not changed:
        yield from (Action("turn", way) for way in TURNS)
        yield from (Action("forward", steps) for steps in STEPS)
        faced = [base(at(target, agent.ahead())) for agent in agents(target)]
        yield from (Action("go", name_of(tile)) for tile in faced if THING <= tile < UNKNOWN)
    elif len(changed) == 1:
        name = name_of(changed[0])
        if changed[0] >= DOOR:
            yield from (Action(kind, name) for kind in ("open", "close"))
        elif changed[0] not in now:
            yield Action("pick", name)
        elif changed[0] not in before:
            yield Action("drop", name)
        else:
            yield from (Action("put", name, name_of(other)) for other in sorted(now) if other < DOOR)


def is_room(state: State) -> bool:
    """Whether it has one agent, and every thing and door once, so that its name means it."""
    return len(agents(state)) == 1 and all(len(places) == 1 for places in things(state).values())
