"""Move all sessions from a previous backend to a storage while the site is running.

Each session is created in the target, unless the target has a session with this id, and is then
removed from the source if it is still as it was read. If a request has saved it meanwhile, it is
read again. If it is no longer in the source, its user has logged out, so it is ended in the target
as well. A run that is killed leaves a copy of at most one session in the source, which the next run
removes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from typing import Final

import msgspec

from ..core import clock
from ..core.flow import run
from ..core.records import Record, State, make_tombstone, next_version
from ..exceptions import PayloadTooLarge, UnreadablePayload
from ..storages.base import Storage, Taken, Updated
from ..storages.tombstones import leave_tombstone
from . import lazy
from .sources import Claim, Entry, PreviousSession, Source

PATIENCE: Final = 1.0
"""Seconds after which a copy in the source counts as left by a killed run. Until then, the request
that has stored the session in the target may be about to remove the copy."""
_MAX_REASONS: Final = 20


class Outcome(StrEnum):
    """What happened to a session."""

    MOVED = "moved"
    ALREADY_THERE = "already_there"
    EXPIRED = "expired"
    ENDED = "ended"


class Report(msgspec.Struct, kw_only=True):
    """The numbers of sessions in the source, by what happened to them."""

    moved: int = 0
    already_there: int = 0
    """Sessions that a request or an earlier run has moved, or that have ended since."""
    expired: int = 0
    """Expired sessions, which stay in the source."""
    ended: int = 0
    """Sessions that ended while they were being moved."""
    unreadable: dict[str, int] = {}
    """Sessions that cannot be moved and stay in the source, by the reason."""

    @property
    def failures(self) -> int:
        """Return the number of sessions that could not be moved."""
        return sum(self.unreadable.values())

    def add(self, outcome: Outcome | str) -> None:
        """Count a session; a string is the reason why it could not be moved."""
        if isinstance(outcome, Outcome):
            setattr(self, outcome.value, getattr(self, outcome.value) + 1)
            return
        if outcome not in self.unreadable and len(self.unreadable) >= _MAX_REASONS:
            outcome = "for other reasons"
        self.unreadable[outcome] = self.unreadable.get(outcome, 0) + 1


def move(source: Source, storage: Storage, batch: int) -> Iterator[Outcome | str]:
    """Move all sessions; yield the outcome for each, or the reason why it cannot be moved.

    ``batch`` is the number of sessions that are read from the source at once.
    """
    copies: deque[tuple[float, str]] = deque()
    for entry in _entries(source, batch):
        outcome = _move_entry(source, storage, entry)
        if outcome is Outcome.ALREADY_THERE:
            copies.append((time.monotonic(), entry.locator))
        while copies and time.monotonic() - copies[0][0] >= PATIENCE:
            source.remove_at(copies.popleft()[1])
        yield outcome
    for since, locator in copies:
        time.sleep(max(0.0, since + PATIENCE - time.monotonic()))
        source.remove_at(locator)


def survey(source: Source, storage: Storage, batch: int) -> Iterator[Outcome | str]:
    """Yield what `move` would do, without writing."""
    for entry in _entries(source, batch):
        try:
            record = _record(storage, entry, entry.found)
        except (UnreadablePayload, PayloadTooLarge) as error:
            yield _reason(error)
            continue
        if record is None:
            yield Outcome.EXPIRED
        else:
            there = storage.lookup(entry.id)
            yield Outcome.MOVED if there is None else Outcome.ALREADY_THERE


def _entries(source: Source, batch: int) -> Iterator[Entry]:
    cursor = ""
    while True:
        entries, cursor = source.scan(cursor, batch)
        yield from entries
        if not cursor:
            return


def _move_entry(source: Source, storage: Storage, entry: Entry) -> Outcome | str:
    try:
        record = _record(storage, entry, entry.found)
        if record is None:
            return Outcome.EXPIRED
        created: Updated | Taken = storage.create(record, clock.now())
    except (UnreadablePayload, PayloadTooLarge) as error:
        return _reason(error)
    if isinstance(created, Taken):
        return Outcome.ALREADY_THERE
    return _remove_from_source(source, storage, entry, created.record)


def _remove_from_source(
    source: Source, storage: Storage, entry: Entry, stored: Record
) -> Outcome | str:
    """Remove a session from the source after it was stored in the target, and return the outcome.

    ``stored`` is the record in the target. If the session in the source has changed since it was
    read, the target is updated first.
    """
    found = entry.found
    while isinstance(found, PreviousSession):
        claim = source.claim(entry.locator, found)
        if claim is Claim.REMOVED:
            return Outcome.MOVED
        if claim is Claim.GONE:
            break
        # A worker that still runs on the source has saved it.
        try:
            found = source.find_at(entry.locator)
            newer = _record(storage, entry, found)
        except (UnreadablePayload, PayloadTooLarge) as error:
            storage.delete(entry.id)
            return _reason(error)
        if newer is None:
            continue
        newer = msgspec.structs.replace(
            newer, version=next_version(stored.version), origin=stored.origin
        )
        outcome = storage.update(newer, stored, clock.now())
        if not isinstance(outcome, Updated):
            # A request has changed or ended the session in the target, which counts from now on.
            source.remove_at(entry.locator)
            return Outcome.MOVED
        stored = outcome.record
    storage.delete(entry.id)
    seconds = lazy.longest_seconds()
    tombstone = make_tombstone(entry.id, State.ENDED, now=clock.now(), seconds=seconds)
    run(leave_tombstone(storage, tombstone))
    return Outcome.ENDED


def _record(
    storage: Storage, entry: Entry, found: PreviousSession | UnreadablePayload | None
) -> Record | None:
    """Return the record to store; ``None`` if the session has expired.

    Raises `UnreadablePayload` and `PayloadTooLarge`.
    """
    if isinstance(found, UnreadablePayload):
        raise found
    moment = clock.now()
    if found is None or not found.record.is_live(moment):
        return None
    record = lazy.record_of(storage, entry.id, found)
    return record if record.is_live(moment) else None


def _reason(error: Exception) -> str:
    # The text of the error contains the size, so each session would have a reason of its own.
    return "it is too large" if isinstance(error, PayloadTooLarge) else str(error)
