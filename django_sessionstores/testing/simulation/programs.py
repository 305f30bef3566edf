"""Programs: one line of text with the actions on a site and their order.

A program begins with the config of its site, up to the colon, followed by its steps::

    db own sync +limit: 1:x.login.1 1* >1 2:x.put.a 2 3:x.logout 3* 2* >3 >2

`language` has the meaning of each step, `operations` the views, and `views` what may follow them.

At the end, all requests run to their ends, all responses arrive in the order in which the requests
began, and the model judges what is left. A step that makes no sense, for example one of a request
that has ended, does nothing. Therefore parts of a program can be left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from . import language
from .audit import audit
from .configuration import Config
from .history import Request, Violation
from .scheduler import Fault, Stuck
from .site import rotate_secret_key, site
from .site_storages import stores_of
from .views import operation
from .world import World

_FAULTS: Final = {"-": Fault.BEFORE, "~": Fault.AFTER}
_REQUEST_STEP: Final = re.compile(r"(\w+)[-~!%*]?|>(\w+)", re.ASCII)
_LABEL: Final = re.compile(r"\w+", re.ASCII)
_PASSING_TIME: Final = re.compile(r"\+\d+", re.ASCII)
_NUMBER: Final = re.compile(r"-?\d+", re.ASCII)


class Program(NamedTuple):
    """The config of a site, and the steps to take there."""

    config: Config
    steps: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.config}: {' '.join(self.steps)}"

    @classmethod
    def parse(cls, line: str) -> Program:
        """Return the program that ``str()`` turned into this line; raise ``ValueError``."""
        head, _, steps = line.partition(":")
        return cls(Config.parse(head), tuple(steps.split()))

    def check(self) -> None:
        """Raise ``ValueError`` if there is no such site, step or view.

        A step of a request that has ended, or of a number without a request, does nothing.
        """
        self.config.check()
        labels = {
            label for label, colon, _ in (each.partition(":") for each in self.steps) if colon
        }
        for step in self.steps:
            _check_step(step, self.config, labels)


@dataclass
class Amount:
    """How much was run: the number of programs, and of their points."""

    programs: int = 0
    points: int = 0

    def add(self, result: Result) -> Result:
        """Count the result of a program, and return it."""
        self.programs += 1
        self.points += result.points
        return result

    def __iadd__(self, other: Amount) -> Amount:
        self.programs += other.programs
        self.points += other.points
        return self


class Result(NamedTuple):
    """The result of a program."""

    violations: list[Violation]
    points: int
    """The number of points: calls of stores, and other places where it can be interrupted."""
    trace: list[str]
    """The points in their order."""
    requests: list[Request]


def _check_step(step: str, config: Config, labels: Collection[str]) -> None:
    label, colon, action = step.partition(":")
    name, *arguments = step.split(".")
    if colon:
        who, dot, view = action.partition(".")
        if not (dot and _LABEL.fullmatch(label)) or label in language.COMMANDS:
            raise ValueError(f"{step!r} does not begin a request, as '2:x.put.a' does.")
        operation(view).check(who, config.driver)
    elif name in language.COMMANDS:
        if len(arguments) != language.COMMANDS[name]:
            raise ValueError(f"{step!r} has the wrong number of arguments.")
        _check_command(step, name, arguments, config)
    elif not _is_step_of_a_request(step, labels) and not _PASSING_TIME.fullmatch(step):
        raise ValueError(f"{step!r} is not a step. Examples are: {', '.join(language.STEPS)}.")


def _is_step_of_a_request(step: str, labels: Collection[str]) -> bool:
    match = _REQUEST_STEP.fullmatch(step)
    label = match and (match[1] or match[2])
    return bool(label) and (label in labels or str(label).isdecimal())


def _check_command(step: str, name: str, arguments: Sequence[str], config: Config) -> None:
    if name in {"away", "back", "full", "room"}:
        language.check_word(arguments[0], stores_of(config), "a store of this site")
    elif name in {"begin", "cut", "join"}:
        language.check_word(arguments[0], ("0", "1"), "a process")
        if config.engine != "cached_db" or "workers" not in config.options:
            raise ValueError(f"{step!r} needs a site of 'cached_db' with the option '+workers'.")
    elif name == "skew" and not _NUMBER.fullmatch(arguments[1]):
        raise ValueError(f"{step!r} must end with a number of milliseconds.")
    elif name == "previous":
        if not config.options & {"memory", "cookie"}:
            raise ValueError(f"{step!r} needs a site with the option '+memory' or '+cookie'.")
        language.check_argument("BROWSER", arguments[0])
        language.check_word(arguments[1], ("0", *language.USERS), "a user")


def run(program: Program) -> Result:
    """Run a program in a site of its own, and return its result."""
    with site(program.config) as new_world:
        return run_in(new_world(), program.steps)


def run_in(world: World, steps: Sequence[str]) -> Result:
    """Run the steps of a program, and return its result."""
    try:
        for step in steps:
            take(world, step)
    except Stuck as stuck:
        world.model.violations.append(Violation(0, str(stuck)))
    return judge(world)


def judge(world: World) -> Result:
    """Bring a world to rest, judge what is left, and return the result."""
    violations = world.model.violations
    try:
        settle(world)
        audit(world)
    except Stuck as stuck:
        violations.append(Violation(0, str(stuck)))
    return Result(
        list(violations),
        len(world.scheduler.trace),
        [f"{step.actor}: {step.text}" for step in world.scheduler.trace],
        list(world.requests.values()),
    )


def settle(world: World) -> None:
    """Run all requests to their ends, and let their responses arrive."""
    world.scheduler.finish_all()
    for label in list(world.requests):
        world.deliver(label)


def take(world: World, step: str) -> None:
    """Take one step of a program."""
    label, colon, action = step.partition(":")
    if colon:
        who, _, operation = action.partition(".")
        world.start(label, who, operation)
    elif step.startswith(">"):
        world.deliver(step[1:])
    elif step.startswith("+"):
        world.advance(int(step[1:]))
    elif step.endswith("*"):
        world.scheduler.finish(step[:-1])
    elif step[-1] in "!%":
        actor = world.scheduler.actors.get(step[:-1])
        if actor is not None:
            (actor.kill if step[-1] == "!" else actor.cancel)()
    elif step[-1] in _FAULTS:
        world.scheduler.step(step[:-1], _FAULTS[step[-1]])
    elif (name := step.partition(".")[0]) in _COMMANDS:
        _COMMANDS[name](world, *step.split(".")[1:])
    else:
        world.scheduler.step(step)


def _evict(world: World) -> None:
    if world.config.engine == "cached_db":
        under_way = any(each.ended is None for each in world.requests.values())
        world.was_evicted_early |= under_way
        world.storages.leaves["cache"].inner.records.clear()


def _set_store(fault: str, value: bool) -> Callable[[World, str], None]:
    def change(world: World, name: str) -> None:
        if name in world.storages.leaves:
            setattr(world.storages.leaves[name], fault, value)
        if name == "cache":
            world.note_cache_is_back()

    return change


def _begin_process(world: World, slot: str) -> None:
    world.storages.begin_process(int(slot), world.time)


def _cut(world: World, slot: str) -> None:
    world.storages.leaves["cache"].cut_off |= world.storages.processes_of(int(slot))


def _join(world: World, slot: str) -> None:
    world.storages.leaves["cache"].cut_off -= world.storages.processes_of(int(slot))
    world.note_cache_is_back()


def _secret(world: World) -> None:
    rotate_secret_key()
    world.secrets += 1


def _skew(world: World, label: str, milliseconds: str) -> None:
    actor = world.scheduler.actors.get(label)
    if actor is not None:
        actor.skew = int(milliseconds)


def _previous(world: World, browser: str, pk: str) -> None:
    world.start_in_previous(browser, int(pk) or None)


_COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "evict": _evict,
    "away": _set_store("is_away", True),
    "back": _set_store("is_away", False),
    "full": _set_store("is_full", True),
    "room": _set_store("is_full", False),
    "secret": _secret,
    "begin": _begin_process,
    "cut": _cut,
    "join": _join,
    "skew": _skew,
    "previous": _previous,
}
