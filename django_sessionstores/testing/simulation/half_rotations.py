"""Random programs around a rotation of which only half is done: the data, and not the entry.

Other requests then follow the data to the new key, and end the session by the old id or by the new
one. All these requests must meet between two calls of the rotation, so programs that are drawn
without a plan seldom do that.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Final

from .random_programs import Source, Take
from .setups import WAIT
from .world import World

_STARTS: Final = (
    ("s1:x.put.base", "s1*", ">s1"),
    ("s1:x.login.1", "s1*", ">s1"),
    ("s1:x.login.1", "s1*", ">s1", WAIT),
)
_START_IN_PREVIOUS: Final = ("previous.x.1", "s1:x.read", "s1*", ">s1")
_ROTATING: Final = ("read", "put.a", "cycle", "login.1", "login.2", "password")
_FOLLOWING: Final = (*_ROTATING, "poll", "put.b", "save", "login.1", "cycle")
_ENDING: Final = (
    *("x.logout", "x.flush", "x.delete", "y.others", "o.end.x", "o.delete_key.x", "o.end_all.1"),
    *("o.deactivate.1",),
)
_ATOMIC: Final = ("x.logout@atomic", "x.flush@rollback", "y.others@atomic", "o.end.x@rollback")


def _options(chance: random.Random, engine: str) -> Iterable[str]:
    if engine != "cookie_registry" and chance.random() < 0.25:
        yield "memory"
    if chance.random() < 0.25:
        yield "2step"


def _draw(world: World, chance: random.Random, take: Take) -> None:
    """Draw a program while it runs."""
    start = _START_IN_PREVIOUS if "memory" in world.config.options else chance.choice(_STARTS)
    endings = (*_ENDING, *(_ATOMIC if world.config.driver == "sync" else ()))
    others = [f"b:x.{chance.choice(_FOLLOWING)}", f"c:{chance.choice(endings)}"]
    if chance.random() < 0.5:
        others.append(f"d:{chance.choice((*endings, *(f'x.{each}' for each in _FOLLOWING)))}")
    if any(":y." in each for each in others):
        start = ("t1:y.login.1", "t1*", ">t1", *start)
    for step in start:
        take(step)
    chance.shuffle(others)
    take(f"a:x.{chance.choice(_ROTATING)}")
    # Some have read the session before, so that its old version is all they know.
    early = chance.randint(0, 2)
    for step in others[:early]:
        take(step)
        for _ in range(chance.randint(0, 4)):
            take(step[0])
    a = world.scheduler.actors["a"]
    while not a.is_done and a.is_ready and not _has_rotated(world):
        take("a")
    waiting = others[early:]
    while (active := [each.label for each in world.scheduler.active() if each.is_ready]) or waiting:
        if waiting and (not active or chance.random() < 0.2):
            take(waiting.pop())
            continue
        label = chance.choice([each for each in active if each != "a"] or active)
        if chance.random() < 0.1:
            label = chance.choice(active)
        take(f"{label}*" if chance.random() < 0.05 else label)


def _has_rotated(world: World) -> bool:
    """Return whether the first request has made a call that rotates the session."""
    call = "create(" if "2step" in world.config.options else "rotate("
    return any(each.actor == "a" and call in each.text for each in world.scheduler.trace)


HALF_ROTATIONS: Final = Source(_options, _draw)
"""Programs around a rotation of which only half is done."""
