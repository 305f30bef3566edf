"""Running requests in one thread, each of which stops before every call of a store.

An actor is a greenlet. It runs from one point to the next, and nothing else runs in the meantime.
The scheduler thus decides the order of all effects, and the same decisions give the same run.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Coroutine, Iterable
from enum import Enum
from typing import Any, Final, NamedTuple

from ...exceptions import missing_extra

try:
    from greenlet import GreenletExit, greenlet
except ImportError as error:
    raise missing_extra("greenlet", "simulation") from error

PAUSE: Final = "pause"
"""The point of an actor that sleeps for a moment."""
_FOREVER: Final = 20_000
"""The number of points after which an actor is considered endless."""


class Fault(Enum):
    """A fault of the next call of a store."""

    BEFORE = "before"
    """The store does not answer, and the call has no effect."""
    AFTER = "after"
    """The call takes effect, but its answer is lost."""


class Step(NamedTuple):
    """A point that an actor has passed, for the trace."""

    actor: str
    text: str
    tick: int = 0


class Stuck(Exception):
    """Actors wait for each other, or one of them does not end."""


class Killed(GreenletExit):
    """The process of an actor has died."""


class Actor:
    """One request of a browser or one call of an operator, from its start to its end."""

    def __init__(self, label: str, work: Callable[[], object], scheduler: Scheduler) -> None:
        self.label = label
        self.skew = 0
        """How far the clock of its server is ahead, in milliseconds."""
        self.worker = 0
        """The index of the process that serves it."""
        self.waits: Callable[[], bool] | None = None
        """A function that returns whether it may go on; None if it does not wait."""
        self.fault: Fault | None = None
        self.is_killed = False
        self.error: BaseException | None = None
        self.points = 0
        self.at = ""
        """The call before which it has stopped."""
        self._scheduler = scheduler
        self._work = work
        self._greenlet = greenlet(self._run)

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - judged by its creator
            self.error = error

    @property
    def is_done(self) -> bool:
        """Return whether it has ended."""
        return self._greenlet.dead

    @property
    def is_ready(self) -> bool:
        """Return whether it can go on."""
        return not self.is_done and (self.waits is None or self.waits())

    def resume(self) -> None:
        """Run to the next point."""
        self._scheduler.current = self
        try:
            self._greenlet.switch()
        finally:
            self._scheduler.current = None

    def kill(self) -> None:
        """End it at its current point, like a process that dies; none of its further calls run."""
        if self.is_done:
            return
        self.is_killed = True
        self._scheduler.current = self
        try:
            self._greenlet.throw(Killed)
        finally:
            self._scheduler.current = None

    def cancel(self) -> None:
        """Cancel it at its current point, like a server whose client has disconnected."""
        if self.is_done:
            return
        self._scheduler.current = self
        try:
            self._greenlet.throw(CancelledError)
        finally:
            self._scheduler.current = None

    def point(self) -> None:
        """Stop here and let others run."""
        if self.is_killed:
            raise Killed
        self.points += 1
        if self.points > _FOREVER:
            raise Stuck(f"{self.label} has made {self.points} calls and does not end")
        parent = self._greenlet.parent
        assert parent is not None  # noqa: S101 - an actor is never the main greenlet
        parent.switch()
        if self.is_killed:
            raise Killed


class Scheduler:
    """Run actors, one at a time."""

    def __init__(self) -> None:
        self.actors: dict[str, Actor] = {}
        self.current: Actor | None = None
        self.ticks = 0
        """The number of events so far, which gives the order of everything that happens."""
        self.trace: list[Step] = []
        self.on_tick: Callable[[], None] = lambda: None
        self.on_fault: Callable[[str, str], None] = lambda label, store: None

    def start(self, label: str, work: Callable[[], object], worker: int = 0) -> Actor:
        """Start an actor, which runs until its first point, and return it."""
        actor = Actor(label, work, self)
        actor.worker = worker
        self.actors[label] = actor
        actor.resume()
        return actor

    def point(self, text: str, *, can_fail: bool = False) -> Fault | None:
        """Stop the running actor before a call; return the fault of the call, if any.

        With ``can_fail``, the caller lets the call fail. The trace says if a fault has no effect.

        If no actor runs, for example during the audit, do nothing.
        """
        actor = self.current
        if actor is None:
            return None
        actor.at = text
        actor.point()
        self.tick()
        fault, actor.fault = actor.fault, None
        outcome = fault.value if fault and can_fail else "which cannot fail"
        said = text if fault is None else f"{text} ({outcome})"
        self.trace.append(Step(actor.label, said, self.ticks))
        return fault

    @property
    def process(self) -> int:
        """Return the process of the running actor; 0 if none runs."""
        return self.current.worker if self.current is not None else 0

    def failed(self, store: str) -> None:
        """Report that a store has not answered the running actor."""
        if self.current is not None:
            self.on_fault(self.current.label, store)

    def tick(self) -> int:
        """Count an event and return its number."""
        self.ticks += 1
        self.on_tick()
        return self.ticks

    def wait(self, until: Callable[[], bool], text: str) -> None:
        """Stop the running actor until ``until`` returns true."""
        actor = self.current
        if actor is None:
            if not until():
                raise Stuck(f"{text}: nobody would end the wait")
            return
        while not until():
            actor.waits, actor.at = until, text
            self.trace.append(Step(actor.label, text))
            try:
                actor.point()
            finally:
                actor.waits = None

    def step(self, label: str, fault: Fault | None = None) -> bool:
        """Run an actor to its next point; return False if there is none or it cannot go on."""
        actor = self.actors.get(label)
        if actor is None or not actor.is_ready:
            return False
        actor.fault = fault
        actor.resume()
        return True

    def finish(self, label: str) -> None:
        """Run an actor to its end, after those that it waits for."""
        actor = self.actors.get(label)
        while actor is not None and not actor.is_done:
            if not actor.is_ready:
                self._move_another(actor)
                continue
            if actor.at == PAUSE and (other := self._working(actor)) is not None:
                # Let others go on during the pause: few processes stand still for so long.
                other.resume()
            actor.resume()

    def finish_all(self) -> None:
        """Run all actors to their ends, in the order in which they began."""
        for label in list(self.actors):
            self.finish(label)

    def _move_another(self, waiting: Actor) -> None:
        for other in self.actors.values():
            if other is not waiting and other.is_ready:
                other.resume()
                return
        raise Stuck(f"{waiting.label} waits ({waiting.at}), and nobody can move")

    def _working(self, pausing: Actor) -> Actor | None:
        others = (each for each in self.actors.values() if each is not pausing)
        return next((each for each in others if each.is_ready and each.at != PAUSE), None)

    def active(self) -> Iterable[Actor]:
        """Return the actors that have not ended."""
        return [actor for actor in self.actors.values() if not actor.is_done]


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end and return its result; it must not wait for an event loop.

    At its points the greenlet switches, so the coroutine itself is never suspended.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise RuntimeError("A coroutine waited for an event loop, which the simulation does not have.")
