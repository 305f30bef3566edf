"""Trying every ordered pair of operations, with the second begun at each call of the first.

With one preemption, the second operation runs to its end, and then the first one goes on. With two
preemptions, the second is also interrupted at each of its calls, and goes on after the first one
has ended. The responses arrive in both orders if both of them set the cookie of one browser.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Final

from .configuration import ENGINES, Config
from .history import Violation
from .programs import Amount, Program, Result, run_in
from .progress import Progress, silent
from .setups import OPERATOR, SETUPS, WAIT, Setup
from .site import site
from .world import World

_COME_BACK: Final = ("c1:x.poll", "c1*", ">c1", "c2:x.put.b", "c2*", ">c2")
Found = Callable[[Program, Result], None]


def configs(
    setup: Setup, engines: Iterable[str], middlewares: Iterable[str], drivers: Iterable[str]
) -> Iterator[Config]:
    """Yield the configs of the sites in which a setup makes sense."""
    for engine, kind, driver in product(engines, middlewares, drivers):
        if "memory" in setup.options and engine == "cookie_registry":
            continue
        if "cookie" in setup.options and engine == "cookie_registry":
            continue
        yield Config(engine, kind, driver, frozenset(setup.options))
        if engine in {"cache", "db", "cached_db"} and WAIT in setup.steps:
            yield Config(engine, kind, driver, frozenset((*setup.options, "2step")))


def explore(
    found: Found,
    *,
    setups: Iterable[str] = tuple(SETUPS),
    engines: Iterable[str] = ENGINES,
    middlewares: Iterable[str] = ("own", "django"),
    drivers: Iterable[str] = ("sync", "async"),
    preemptions: int = 1,
    progress: Progress = silent,
) -> Amount:
    """Try every pair of operations; return how much was run.

    ``found`` is called with each program that fails, and its result.
    """
    amount, done = Amount(), 0
    tried = [
        (setup, config, pairs)
        for setup in (SETUPS[name] for name in setups)
        for config in configs(setup, engines, middlewares, drivers)
        if (pairs := list(_pairs(setup, config)))
    ]
    total = sum(len(pairs) for _setup, _config, pairs in tried)
    for setup, config, pairs in tried:
        with site(config) as new_world:
            for a, b in pairs:
                progress("Pairs of operations", done, total)
                amount += _pair(found, new_world, config, setup.steps, a, b, preemptions)
                done += 1
    return amount


def _pairs(setup: Setup, config: Config) -> Iterator[tuple[str, str]]:
    for a, b in product(setup.first, setup.second):
        if config.driver != "async" or not ("@" in a or "@" in b):
            yield a, b


def explore_faults(
    found: Found,
    *,
    engines: Iterable[str] = ENGINES,
    middlewares: Iterable[str] = ("own", "django"),
    drivers: Iterable[str] = ("sync", "async"),
    progress: Progress = silent,
) -> Amount:
    """Let each call of each operation fail, or its process die there; return how much was run.

    Then the browser comes back, reads its session, and sets a key.
    """
    amount, done = Amount(), 0
    tried = [
        (setup, config, (*setup.first, "x.recover", "o.end.x", "o.end_all.1", "o.purge"))
        for setup in (SETUPS["visitor"], SETUPS["due"])
        for config in configs(setup, engines, middlewares, drivers)
    ]
    total = sum(len(operations) for _setup, _config, operations in tried)
    for setup, config, operations in tried:
        with site(config) as new_world:
            for operation in operations:
                progress("Operations with a fault", done, total)
                done += 1
                start = (*setup.steps, f"a:{operation}")
                world = new_world()
                amount.add(run_in(world, (*start, "a*")))
                faults = "-~!%" if config.driver == "async" else "-~!"
                for k, fault in product(range(world.scheduler.actors["a"].points), faults):
                    steps = (*start, *["a"] * k, f"a{fault}", "a*", ">a", *_COME_BACK)
                    result = amount.add(run_in(new_world(), steps))
                    if result.violations:
                        found(Program(config, steps), result)
    return amount


def explore_twins(
    found: Found,
    *,
    engines: Iterable[str] = ENGINES,
    middlewares: Iterable[str] = ("own", "django"),
    progress: Progress = silent,
) -> Amount:
    """Compare the calls of each operation in sync and async views; return how much was run."""
    amount = Amount()
    sites = list(product(("visitor", "due"), engines, middlewares))
    for done, (name, engine, kind) in enumerate(sites):
        progress("Sites with sync and async views", done, len(sites))
        setup, traces = SETUPS[name], []
        operations = (*setup.first, "x.recover", *OPERATOR)
        programs = [(*setup.steps, f"a:{each}", "a*") for each in operations]
        for driver in ("sync", "async"):
            config = Config(engine, kind, driver, frozenset(setup.options))
            with site(config) as new_world:
                results = [amount.add(run_in(new_world(), steps)) for steps in programs]
            traces.append(results)
        for steps, blocking, awaited in zip(programs, *traces, strict=True):
            if _calls(blocking) != _calls(awaited):
                text = f"sync calls {_calls(blocking)}, async {_calls(awaited)}"
                differing = awaited._replace(violations=[Violation(30, text)])
                found(Program(config, steps), differing)
    return amount


def _calls(result: Result) -> list[str]:
    """Return the calls of request ``a`` to the stores of sessions, without those for users."""
    return [
        each[3:]
        for each in result.trace
        if each.startswith("a:") and not each.startswith("a: users.")
    ]


def _pair(
    found: Found,
    new_world: Callable[[], World],
    config: Config,
    before: tuple[str, ...],
    a: str,
    b: str,
    preemptions: int,
) -> Amount:
    amount = Amount()

    def attempt(*steps: str) -> World:
        world = new_world()
        result = amount.add(run_in(world, steps))
        if result.violations:
            found(Program(config, steps), result)
        return world

    def deliver(*steps: str) -> World:
        world = attempt(*steps, ">a", ">b")
        if _is_order_felt(world):
            attempt(*steps, ">b", ">a")
        return world

    def calls(world: World, label: str) -> int:
        return world.scheduler.actors[label].points

    start = (*before, f"a:{a}")
    # In the last round, A has ended, and its response is under way.
    for k in range(calls(attempt(*start, "a*"), "a") + 1):
        head = (*start, *["a"] * k, f"b:{b}")
        b_calls = calls(deliver(*head, "b*", "a*"), "b")
        if preemptions > 1:
            for j in range(1, b_calls):
                deliver(*head, *["b"] * j, "a*", "b*")
    return amount


def _is_order_felt(world: World) -> bool:
    """Return whether the order of the responses to ``a`` and ``b`` decides on a cookie."""
    a, b = world.requests["a"], world.requests["b"]
    return a.who == b.who and a.cookie is not None and b.cookie is not None
