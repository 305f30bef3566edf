"""Random programs, which a seed repeats, and which are made small when they fail."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from .configuration import ENGINES, Config
from .history import Violation
from .programs import Amount, Program, Result, judge, run_in, take
from .progress import Progress, silent
from .scheduler import Stuck
from .site import site
from .world import World

_OPERATIONS: Final = (
    *(
        "read",
        "poll",
        "dismiss.a",
        "put.a",
        "put.b",
        "put.a.b",
        "nested",
        "drop.a",
        "login.1",
        "login.2",
    ),
    *("login.1.first", "login.2.first"),
    *("logout", "flush", "delete", "cycle", "password", "others", "save", "replace", "load"),
    *("put.a+save", "put.b+save+error", "login.1+save", "put.a+404", "clear", "cycle+save"),
    *("visit.1", "visit.2", "watch"),
)
_ATOMIC: Final = (
    *("put.a@atomic", "put.a+save@rollback", "put.b+save+404@atomic", "login.1@atomic"),
    *("login.1+save@rollback", "cycle+save+404@atomic", "logout@atomic", "logout@rollback"),
    *("password@atomic", "password+404@atomic", "put.a+save@savepoint", "put.a+save@again"),
    *("read@rollback", "poll@atomic", "others@atomic", "visit.2@atomic", "visit.2@rollback"),
    *("flush@rollback", "delete@rollback", "visit.2+error@atomic"),
)
_MANUAL: Final = ("put.a+save@manual", "put.a+save@undone", "login.1+save@manual")
_OPERATOR: Final = (
    *("end.x", "end.y", "delete_key.x", "end_all.1", "deactivate.2", "purge", "recheck"),
)
_ATOMIC_OPERATOR: Final = ("delete_key.x@rollback", "delete_key.x@atomic", "end.x@rollback")
_PREVIOUS: Final = frozenset({"memory", "cookie"})
"""The options of a site that has moved, by the engine of its previous backend."""
_BROWSERS: Final = "xyzw"
_MAX_ACTIVE: Final = 3
_SITE: Final = 40
"""The number of programs that run in a site before another site is set up."""

Found = Callable[[Program, Result], None]
Take = Callable[[str], None]


class Source(NamedTuple):
    """A source of programs."""

    options: Callable[[random.Random, str], Iterable[str]]
    """Draws the options of a site with this engine."""
    draw: Callable[[World, random.Random, Take], None]
    """Draws a program while it runs, and calls the last argument with each of its steps."""


def explore(
    found: Found,
    steps: int,
    seed: str,
    *,
    source: Source | None = None,
    engines: Sequence[str] = ENGINES,
    middlewares: Sequence[str] = ("own", "django"),
    drivers: Sequence[str] = ("sync", "async"),
    options: Iterable[str] | None = None,
    progress: Progress = silent,
) -> Amount:
    """Run programs until they took ``steps`` points; return how much was run.

    ``found`` is called with each program that fails, and its result. Without a ``source``, programs
    are drawn from `ANY`, and without ``options``, those of the sites are drawn as well.
    """
    amount, source = Amount(), source or ANY
    while amount.points < steps:
        chance = _chance_of(f"{seed}:{amount.programs}")
        engine = chance.choice(engines)
        config = Config(
            engine,
            chance.choice(middlewares),
            chance.choice(drivers),
            frozenset(source.options(chance, engine) if options is None else options),
        )
        with site(config) as new_world:
            for _ in range(_SITE):
                progress("Steps", amount.points, steps)
                chance = _chance_of(f"{seed}:{amount.programs}")
                program, result = draw(source, new_world(), chance)
                amount.add(result)
                if result.violations:
                    found(program, result)
                if amount.points >= steps:
                    break
    return amount


def _chance_of(seed: str) -> random.Random:
    """Return the source of chance that a seed repeats."""
    return random.Random(seed)  # noqa: S311 - must be repeatable, not secret


def draw(source: Source, world: World, chance: random.Random) -> tuple[Program, Result]:
    """Draw a program while it runs; return the program and its result."""
    steps: list[str] = []

    def take_step(step: str) -> None:
        steps.append(step)
        take(world, step)

    try:
        source.draw(world, chance, take_step)
        result = judge(world)
    except Stuck as stuck:
        world.model.violations.append(Violation(0, str(stuck)))
        result = judge(world)
    except Exception as error:
        # This is a mistake of the simulation, not of the package.
        error.add_note(f"The program was: {Program(world.config, tuple(steps))}")
        raise
    return Program(world.config, tuple(steps)), result


def _options(chance: random.Random, engine: str) -> Iterable[str]:
    if chance.random() < 0.2:
        yield "2step"
    if chance.random() < 0.5:
        yield "workers"
    if chance.random() < 0.3:
        yield chance.choice(("limit", "refuse"))
    elif engine != "cookie_registry" and chance.random() < 0.15:
        yield chance.choice(("memory", "cookie"))


class _Drawing:
    """A program that is being drawn.

    Each program has only a few operations, because they then meet each other more often.
    """

    def __init__(self, world: World, chance: random.Random, take: Take) -> None:
        self._world = world
        self._chance = chance
        self._take = take
        is_sync = world.config.driver == "sync"
        self._is_async = not is_sync
        has_previous = bool(world.config.options & _PREVIOUS)
        atomic = [
            each
            for each in _ATOMIC
            # The exception that the page on transactions names.
            if not (has_previous and world.config.engine == "cache_registry" and "+save" in each)
        ]
        every = [*_OPERATIONS, *(atomic if is_sync and chance.random() < 0.4 else ())]
        if is_sync and chance.random() < 0.05:
            every += _MANUAL
        self._operations = ["login.1", "read", *chance.sample(every, chance.randint(2, 7))]
        operator = [*_OPERATOR, *(_ATOMIC_OPERATOR if is_sync else ())]
        self._operator = chance.sample(operator, chance.randint(0, 2))
        self._browsers = _BROWSERS[: chance.randint(1, 4)]
        self._faults = chance.random() < 0.25
        self._skews = chance.random() < 0.1
        self._waits = chance.random() < 0.5
        self._most = chance.randint(4, 20)
        self._started = 0

    def go_on(self) -> None:
        """Take steps until enough requests have begun."""
        if self._world.config.options & _PREVIOUS:
            self._take("previous.x.1")
        while self._started < self._most:
            self._take(self._next())

    def _next(self) -> str:
        chance, world = self._chance, self._world
        active = [each for each in world.scheduler.active() if each.is_ready]
        kind = chance.random()
        if kind < 0.15 and (waiting := self._undelivered()):
            return f">{chance.choice(waiting)}"
        if kind < 0.2 and self._waits:
            return self._wait()
        if kind < 0.22 and self._faults:
            store = chance.choice(sorted(world.storages.leaves))
            steps = ["evict", "secret", f"full.{store}", f"room.{store}"]
            if "cache" in world.storages.leaves:
                steps += ["away.cache", "back.cache"]
            if len(world.storages.processes) > 1:
                steps += [f"{each}.{chance.randint(0, 1)}" for each in ("begin", "cut", "join")]
            return chance.choice(steps)
        if active and (kind < 0.7 or len(active) >= _MAX_ACTIVE):
            label = chance.choice(active).label
            if self._faults and chance.random() < 0.05:
                return f"{label}{chance.choice('-~!%' if self._is_async else '-~!')}"
            return f"{label}*" if chance.random() < 0.1 else label
        return self._start()

    def _undelivered(self) -> list[str]:
        return [
            each.label
            for each in self._world.requests.values()
            if each.ended and not each.arrived and not each.was_killed and each.who != "o"
        ]

    def _wait(self) -> str:
        # A request or a response must not take longer than the rotation grace period.
        for actor in self._world.scheduler.active():
            self._take(f"{actor.label}*")
        for label in self._undelivered():
            self._take(f">{label}")
        return f"+{self._chance.choice((2, 30, 61, 1001))}"

    def _start(self) -> str:
        self._started += 1
        label, chance = str(self._started), self._chance
        if self._skews and chance.random() < 0.3 and self._started > 1:
            self._take(f"skew.{self._started - 1}.{chance.choice((-40, 40))}")
        if self._operator and chance.random() < 0.1:
            return f"{label}:o.{chance.choice(self._operator)}"
        return f"{label}:{chance.choice(self._browsers)}.{chance.choice(self._operations)}"


ANY: Final = Source(_options, lambda *arguments: _Drawing(*arguments).go_on())
"""Programs in which anything may happen."""


def shrink(
    program: Program, result: Result, is_same: Callable[[Result], bool], most: int = 600
) -> tuple[Program, Result]:
    """Return a smaller program that fails in the same way, and its result.

    ``is_same`` tells whether a result shows the same fault. ``most`` is the largest number of runs.
    """
    left = most
    with site(program.config) as new_world:

        def fails(steps: Sequence[str]) -> Result | None:
            nonlocal left
            left -= 1
            shorter = run_in(new_world(), steps)
            return shorter if is_same(shorter) else None

        def leave_out(steps: list[str]) -> list[str]:
            nonlocal result
            size = max(1, len(steps) // 2)
            while size and left > 0:
                at = 0
                while at < len(steps) and left > 0:
                    shorter = [*steps[:at], *steps[at + size :]]
                    if (outcome := fails(shorter)) is not None:
                        steps, result = shorter, outcome
                    else:
                        at += size
                size //= 2
            return steps

        steps = leave_out(list(program.steps))
        for at, step in enumerate(steps):
            # If the request need not stop here, let it run to its end.
            whole = [*steps[:at], f"{step}*", *steps[at + 1 :]]
            if step.isalnum() and left > 0 and (outcome := fails(whole)) is not None:
                steps, result = whole, outcome
        steps = leave_out(steps)
    return Program(program.config, tuple(steps)), result
