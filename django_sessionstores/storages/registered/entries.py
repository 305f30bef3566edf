"""The entry that a registry has of a session, and the records that come with one."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from ...core import clock
from ...core.flow import Call, Flow
from ...core.records import Record
from ..base import Gone, Outcome, Storage, Taken, Updated
from .journal import Journal


class Handle(NamedTuple):
    """The handle of a record that `RegisteredStorage` returned."""

    inner: Any
    """The handle of the storage that has the data."""
    entry: Record
    """The entry that the registry had of the session."""
    known: tuple[int, bytes] | None = None
    """The version and mark of the save up to which the record is complete. ``None`` if the key
    holds the record and the registry does not know the save that made it."""


def with_entry(record: Record, entry: Record, known: tuple[int, bytes] | None = None) -> Record:
    """Return the record with a `Handle` for this entry."""
    handle = Handle(without_entry(record).handle, entry, known)
    return msgspec.structs.replace(
        record, handle=handle, origin=entry.origin, last_activity=last_activity_of(record, entry)
    )


def last_activity_of(record: Record, entry: Record) -> int:
    """Return when a session was last active, by the record and by its entry.

    Requests that only read move the time of the entry. If a server whose clock is ahead has moved
    it, it does not make the session one from the future.
    """
    return max(record.last_activity, min(entry.last_activity, clock.now()))


def without_entry(record: Record) -> Record:
    """Return the record as the storage of the data returned it."""
    if isinstance(record.handle, Handle):
        return msgspec.structs.replace(record, handle=record.handle.inner)
    return record


def entry_of(record: Record) -> Record:
    """Return the entry that a record came with, or the one that it would have."""
    if isinstance(record.handle, Handle):
        return record.handle.entry
    return msgspec.structs.replace(record, payload=b"")


def newest_save(entry: Record) -> tuple[int, bytes] | None:
    """Return the version and mark of the last save in the journal of an entry, if it has one."""
    journal = Journal.unpack(entry.payload)
    return (journal.newest_save.version, journal.newest_save.mark) if journal else None


def combine_outcomes(outcome: Updated, registered: Updated) -> Updated:
    """Return what a write has done to the data (``outcome``) and to the entry (``registered``)."""
    entry = registered.record
    return Updated(
        with_entry(outcome.record, entry, newest_save(entry)),
        outcome.key,
        evicted=outcome.evicted,
        is_provisional=outcome.is_provisional or registered.is_provisional,
        is_rotated=outcome.is_rotated or registered.is_rotated,
    )


def belongs_to(data: Record, entry: Record) -> bool:
    """Return whether data is of the session of an entry, and not of an earlier one with its id.

    A session that is migrated has the same id each time, and another lineage. Its data stays behind
    if the entry is rolled back. Data without a lineage is of a session that began under its id.
    """
    return data.origin in {"", entry.origin}


def has_drifted(record: Record, entry: Record) -> bool:
    """Return whether the entry differs from the record in what lists show, or in its site."""
    # A login that has joined the session of another login moves its beginning.
    fields = ("expires", "user_id", "created", "ip", "user_agent", "site")
    marks = ("is_bound", "was_refused")
    return any(getattr(record, each) != getattr(entry, each) for each in (*fields, *marks))


def replace_tombstone(
    registry: Storage, tombstone: Record, base: Record, now: int
) -> Flow[Outcome]:
    """Replace the entry of a tombstone by that of another one, also if it was purged."""
    outcome: Outcome = yield Call(registry, "update", (tombstone, base, now))
    if not isinstance(outcome, Gone):
        return outcome
    # A purge has removed the entry before it came to the data.
    created: Updated | Taken = yield Call(registry, "create", (tombstone, now))
    return created if isinstance(created, Updated) else outcome
