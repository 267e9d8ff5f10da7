"""The physics engine: the things of a scene fall, slide and collide until they rest (pymunk, lengths in pixels)."""

from __future__ import annotations

import math

import pymunk

from retrodict.worlds.tabletop.scene import CELL, PIXELS, PLANK_PIXELS, SHELF_ROW, State, Thing

_GRAVITY = 800  # pixels / s^2
_PUSH = 200  # pixels / s, the speed that a push starts with
_STEP = 1 / 120  # s
_LONGEST = 480  # steps
_STILL = 1.5  # pixels / s
_FRICTION = {"ball": 0.15, "box": 0.8, "cone": 0.8}  # a ball rolls: it goes on for longer
_RADIUS = 7.5  # pixels, half the width of a thing


def simulate(state: State, pushed: Thing | None = None, step: int = 0) -> list[Thing] | None:
    """Where things are after everything has come to rest; `pushed` starts to the left (step -1) or right (1).

    Positions are in cells and not rounded. None when something still moves after 4 s. The same on every run of one
    build of the engine.
    """
    space = pymunk.Space()
    space.gravity = (0, -_GRAVITY)
    space.iterations = 15
    _add_surroundings(space, state)
    bodies = {thing: _add_thing(space, thing) for thing in state.things}
    if pushed is not None:
        bodies[pushed].velocity = (_PUSH * step, 0)
    for count in range(_LONGEST):
        space.step(_STEP)
        # Not before some steps: what is let go in the air starts from rest.
        if count > 6 and all(abs(b.velocity.x) + abs(b.velocity.y) < _STILL for b in bodies.values()):
            return [t.at(b.position.x / CELL - 0.5, b.position.y / CELL) for t, b in bodies.items()]
    return None


def _add_surroundings(space: pymunk.Space, state: State) -> None:
    ground = space.static_body
    floor = pymunk.Poly(ground, [(-50, -50), (PIXELS + 50, -50), (PIXELS + 50, 0), (-50, 0)])
    walls = [pymunk.Poly(ground, [(x, 0), (x + 50, 0), (x + 50, 999), (x, 999)]) for x in (-50, PIXELS)]
    planks = []
    if state.shelf:
        left, right = state.shelf[0] * CELL, (state.shelf[-1] + 1) * CELL
        top = (SHELF_ROW + 1) * CELL
        planks.append(
            pymunk.Poly(ground, [(left, top - PLANK_PIXELS), (right, top - PLANK_PIXELS), (right, top), (left, top)])
        )
    for shape in (floor, *walls, *planks):
        shape.friction = 1
        shape.elasticity = 0.2
        space.add(shape)
    for wall in walls:
        wall.friction = 0


def _add_thing(space: pymunk.Space, thing: Thing) -> pymunk.Body:
    """A body whose position is the middle of the thing's base. Its moment is infinite: things keep upright."""
    body = pymunk.Body(1, math.inf)
    body.position = ((thing.x + 0.5) * CELL, thing.y * CELL)
    shape: pymunk.Shape
    r = _RADIUS
    match thing.shape:
        case "ball":
            shape = pymunk.Circle(body, r, (0, r))
        case "box":
            shape = pymunk.Poly(body, [(-r, 0), (r, 0), (r, CELL), (-r, CELL)])
        case _:
            shape = pymunk.Poly(body, [(-r, 0), (r, 0), (0, CELL)])
    shape.friction = _FRICTION[thing.shape]
    shape.elasticity = 0.2
    space.add(body, shape)
    return body
