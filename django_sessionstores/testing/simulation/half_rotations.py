"""Random programs around a rotation that a registry has half of: the data, and not the entry.

Other requests then follow the data to the new key, and end the session by the old id or by the new
one. All these requests must meet between two calls of the rotation, so programs that are drawn
without a plan seldom do that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from .configuration import Config
from .programs import Amount, Program, judge, take
from .progress import Progress, silent
from .random_programs import Found, chance_of
from .setups import WAIT
from .site import site
from .world import World

_STARTS: Final = {
    "an anonymous session": ("s1:x.put.base", "s1*", ">s1"),
    "a signed-in session": ("s1:x.login.1", "s1*", ">s1"),
    "a session whose key is old": ("s1:x.login.1", "s1*", ">s1", WAIT),
    "a session of a previous backend": ("previous.x.1", "s1:x.read", "s1*", ">s1"),
}
_ROTATING: Final = ("read", "put.a", "cycle", "login.1", "login.2", "password")
_FOLLOWING: Final = (*_ROTATING, "poll", "put.b", "save", "login.1", "cycle")
_ENDING: Final = (
    *("x.logout", "x.flush", "x.delete", "y.others", "o.end.x", "o.delete_key.x", "o.end_all.1"),
    *("o.deactivate.1",),
)
_ATOMIC: Final = ("x.logout@atomic", "x.flush@rollback", "y.others@atomic", "o.end.x@rollback")
_SITE: Final = 40
"""The number of programs that run in a site before another site is set up."""


def explore(
    found: Found,
    steps: int,
    seed: str,
    *,
    middlewares: Sequence[str] = ("own", "django"),
    drivers: Sequence[str] = ("sync", "async"),
    progress: Progress = silent,
) -> Amount:
    """Run programs until they took ``steps`` points; return how much was run.

    ``found`` is called with each program that fails, and its result.
    """
    amount = Amount()
    while amount.points < steps:
        chance = chance_of(f"{seed}:{amount.programs}")
        start = _STARTS[chance.choice(list(_STARTS))]
        options = {"memory"} if start[0].startswith("previous") else set[str]()
        driver = chance.choice(drivers)
        config = Config("cache_registry", chance.choice(middlewares), driver, frozenset(options))
        endings = (*_ENDING, *(_ATOMIC if driver == "sync" else ()))
        with site(config) as new_world:
            for _ in range(_SITE):
                progress("Steps", amount.points, steps)
                world, chance = new_world(), chance_of(f"{seed}:{amount.programs}")
                taken = _draw(world, chance, start, endings)
                result = amount.add(judge(world))
                if result.violations:
                    found(Program(config, tuple(taken)), result)
                if amount.points >= steps:
                    break
    return amount


def _draw(
    world: World, chance: random.Random, start: Sequence[str], endings: Sequence[str]
) -> list[str]:
    """Draw a program while it runs; return its steps."""
    steps = list[str]()

    def do(step: str) -> None:
        steps.append(step)
        take(world, step)

    others = [f"b:x.{chance.choice(_FOLLOWING)}", f"c:{chance.choice(endings)}"]
    if chance.random() < 0.5:
        others.append(f"d:{chance.choice((*endings, *(f'x.{each}' for each in _FOLLOWING)))}")
    if any(":y." in each for each in others):
        start = ("t1:y.login.1", "t1*", ">t1", *start)
    for step in start:
        do(step)
    chance.shuffle(others)
    do(f"a:x.{chance.choice(_ROTATING)}")
    # Some have read the session before, so that its old version is all they know.
    for step in others[: chance.randint(0, 2)]:
        do(step)
        for _ in range(chance.randint(0, 4)):
            do(step[0])
    a = world.scheduler.actors["a"]
    while not a.is_done and a.is_ready and not _has_rotated(world):
        do("a")
    waiting = [each for each in others if each not in steps]
    while (active := [each.label for each in world.scheduler.active() if each.is_ready]) or waiting:
        if waiting and (not active or chance.random() < 0.2):
            do(waiting.pop())
            continue
        label = chance.choice([each for each in active if each != "a"] or active)
        if chance.random() < 0.1:
            label = chance.choice(active)
        do(f"{label}*" if chance.random() < 0.05 else label)
    return steps


def _has_rotated(world: World) -> bool:
    return any(
        each.actor == "a" and each.text.startswith("cache.rotate(")
        for each in world.scheduler.trace
    )
