"""Watched sessions: those under which browsers hold connections open, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .history import Life, Request, Violation
from .internals import Finding, Record, Storage, arun, find_out, run
from .judge import TOMBSTONE_AT

if TYPE_CHECKING:
    from .world import World


@dataclass(eq=False)
class Watched:
    """A watched session, with its record as it was last seen."""

    life: Life
    record: Record


class Finder:
    """Look what became of watched sessions, by blocking and by awaited calls."""

    def __init__(self, storage: Storage, watched: Iterable[Watched]) -> None:
        self._storage = storage
        self._known = {each.record.id: each.record for each in watched}

    def find(self) -> dict[str, Finding]:
        return run(find_out(self._storage, self._known))

    async def afind(self) -> dict[str, Finding]:
        return await arun(find_out(self._storage, self._known))


def add(world: World, request: Request, session: Any) -> None:
    """Note that a browser holds a connection open under the session of a request."""
    if request.life is not None and session.known_record is not None:
        world.watched.append(Watched(request.life, session.known_record))


def judge(world: World, request: Request | None, findings: Mapping[str, Finding]) -> None:
    """Judge what was found out: by a request of an operator, or after all requests.

    A watched session must not seem to have ended while it lives, nor to live after its end. Watches
    whose sessions have ended are forgotten.
    """
    now = world.scheduler.tick()
    since, began_at = (now, world.time) if request is None else (request.began, request.began_at)
    who = "afterwards" if request is None else str(request)
    for each in list(world.watched):
        finding = findings.get(each.record.id)
        if isinstance(finding, Record):
            _judge_live(world, each, finding, since, began_at, who)
            each.record = finding
        elif finding is not None:
            _judge_end(world, each.life, finding, now, who)
            world.watched.remove(each)


def _judge_live(
    world: World, watched: Watched, found: Record, since: int, began_at: int, who: str
) -> None:
    model, before = world.model, watched.life
    life = next((each for each in model.lives if found.id in each.ids), None)
    if life is None:
        return  # It has this id since a rotation that is not acknowledged yet.
    watched.life = life
    if life is not before and not before.leads_to(life):
        _broken(world, 11, f"{who}: the watch of session {before.number} follows {life.number}")
    over = [
        each
        for each in life.endings
        if each.acked is not None and each.acked < since and each.acked_at <= began_at
    ]
    if over and not model.is_leased(life, began_at):
        text = f"the watch of session {life.number} does not see its end ({over[0].reason})"
        _broken(world, 7, f"{who}: {text}")


def _judge_end(world: World, life: Life, reason: str, now: int, who: str) -> None:
    if any(each.start < now for each in life.endings) or life.children:
        return
    at = world.now()
    for each in (event for key in life.keys.values() for event in key.superseded):
        if each.acked_at + (each.grace or 0) + TOMBSTONE_AT <= at:
            return  # Nothing leads from its old id to the new one any more.
        if each.request.signs_in is not None and each.start < now:
            return  # This login may have begun another session in its place.
    if world.model.may_be_evicted(life) or not life.is_migrated:
        return
    if not any(world.model.is_idle(life, key, at) for key in life.keys):
        _broken(world, 15, f"{who}: the watch of session {life.number} sees an end ({reason})")


def _broken(world: World, promise: int, text: str) -> None:
    if world.model.is_watching:
        world.model.violations.append(Violation(promise, text))
