"""Reading a session: from a key to what is stored under it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from .. import signals
from ..conf import codec, reset_on_change, settings
from ..core import clock
from ..core.end_notes import EndNote, note_in
from ..core.flow import Flow
from ..core.lifetime import CLOCK_SKEW
from ..core.records import Record, SecretText
from ..core.records import State as RecordState
from ..exceptions import ForeignPayload, StorageUnavailable, UnreadablePayload
from ..storages.revocation import is_in_grace
from . import device_proof, drafting, rotation
from .state import (
    Dead,
    Environment,
    Event,
    New,
    Refused,
    State,
    Stored,
    Unreachable,
    Unread,
    Unreadable,
)

security_logger = logging.getLogger("django.security.SuspiciousSession")

_NO_EVENTS: Final[tuple[Event, ...]] = ()

_MOST_EXPIRED: Final = 10_000
_expired: Final[set[str]] = set()
"""The ids of expired sessions whose browsers keep the cookie, and whose end was sent."""

reset_on_change()(_expired.clear)


class LoadResult(msgspec.Struct, frozen=True):
    """The result of reading a session."""

    state: State
    data: dict[str, Any]
    events: tuple[Event, ...] = _NO_EVENTS
    is_provisional: bool = False
    """Whether reading has stored something (a migrated session) that a rollback of the caller's
    transaction would undo."""

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<LoadResult {type(self.state).__name__}>"


def load(env: Environment, state: Unread) -> Flow[LoadResult]:
    """Read the session that is stored under a key.

    Raises `StorageUnavailable`, unless the policy of the request says that the session is empty
    during an outage.
    """
    try:
        # Each local variable that holds a key is a `SecretText`: error reports show them.
        found = yield from env.calls.find(state.key, state.cookie)
        key = state.key if found.key is None else SecretText(found.key)
        record, is_announced = found.record, key == state.cookie
        if record is not None and is_in_grace(record):
            is_announced = False
            key, record = yield from rotation.follow(env, record, key)
        if record is None:
            return LoadResult(New(), {}, (rejection_event(_stated_id(env, key, state), "unknown"),))
        record = yield from _with_note(env, record)
        return _result_of(env, key, record, is_announced, found.is_provisional)
    except UnreadablePayload as reason:
        # The key stays until something is saved: a worker with a wrong SECRET_KEY must not log out
        # a user who only reads.
        record_id = _stated_id(env, state.key, state)
        security_logger.warning(
            "Session %s reads as empty: %s.", record_id or "without an id", reason
        )
        why = "foreign" if isinstance(reason, ForeignPayload) else "tampered"
        return LoadResult(
            Unreadable(state.key), {}, (rejection_event(record_id, why, str(reason)),)
        )
    except StorageUnavailable as outage:
        if env.policy is None or not env.policy.anonymous_on_outage:
            raise
        return LoadResult(Unreachable(state.key, state.cookie, outage), {})


def _result_of(
    env: Environment,
    key: SecretText,
    record: Record,
    is_announced: bool,
    is_provisional: bool,
) -> LoadResult:
    """Return the result for the record that was found under a key."""
    moment = clock.now()
    if env.storage.holds_in_key:
        _check_issued(record, moment)
    dead = _load_dead(key, record, moment)
    if dead is not None:
        return dead
    base = drafting.open_record(env, record)
    data = codec().deserialize(base)
    if env.policy is not None and device_proof.is_missing(env.policy, data):
        return LoadResult(Refused(key, record), {}, is_provisional=is_provisional)
    known = Stored(key, record, base, is_announced)
    return LoadResult(known, data, is_provisional=is_provisional)


def _stated_id(env: Environment, key: SecretText, state: Unread) -> str | None:
    """Return the session id to report for a key under which no session was read.

    There is none for a key that was derived from the cookie of a previous backend.
    """
    is_derived = key == state.key and key != state.cookie
    return None if is_derived else env.storage.stated_id(key)


def _load_dead(key: SecretText, record: Record, moment: int) -> LoadResult | None:
    """Return the result for a record whose session is not live; ``None`` if it is live."""
    if record.state is RecordState.LIVE:
        if drafting.ends_at(record) > moment:
            return None
        expired = EndNote("expired", min(drafting.ends_at(record), record.expires))
        is_noted = record.user_id is not None and moment < expired.moment + _note_age()
        if not is_noted:
            return LoadResult(New(), {}, (end_event(record.id, "expired", record.user_id),))
        return LoadResult(New(end=expired), {}, _events_of_noted(record))
    if record.state is RecordState.ENDED or record.expires <= moment:
        # With MIGRATE_FROM, a tombstone lasts for much longer than the note in it.
        is_noted = moment < min(record.expires, record.last_activity + _note_age())
        end = note_in(record) if is_noted and record.state is RecordState.ENDED else None
        return LoadResult(New(end=end), {}, (rejection_event(record.id, "unknown"),))
    reason = "too old" if record.state is RecordState.ROTATED else "superseded"
    return LoadResult(Dead(key, tombstone=record), {}, (rejection_event(record.id, reason),))


def _events_of_noted(record: Record) -> tuple[Event, ...]:
    """Return the event of an expired session, whose cookie the browser keeps to be told.

    Only the first request in this process has it: there may be many until the browser is told.
    """
    if record.id in _expired:
        return _NO_EVENTS
    if len(_expired) >= _MOST_EXPIRED:
        _expired.clear()
    _expired.add(record.id)
    return (end_event(record.id, "expired", record.user_id),)


def _with_note(env: Environment, record: Record) -> Flow[Record]:
    """Return a record, or the tombstone with the reason of the end that a cache does not know."""
    if record.state is not RecordState.ENDED or record.payload or not _note_age():
        return record
    latest = yield from env.calls.read_latest(record.id)
    is_note = latest is not None and latest.state is RecordState.ENDED
    return latest if latest is not None and is_note else record


def _note_age() -> int:
    """Return for how long it is told why a session has ended, in milliseconds."""
    return int(settings.EXPLAIN_ENDS * 1000)


def _check_issued(record: Record, moment: int) -> None:
    """Check the times of a record that only the browser has kept.

    Raises `UnreadablePayload` if it was issued in the future.
    """
    if record.last_activity > moment + CLOCK_SKEW:
        raise UnreadablePayload("issued in the future, by a server whose clock is ahead")
    if record.expires <= moment:
        security_logger.info("Session %s reads as empty: it has expired.", record.id)


def rejection_event(record_id: str | None, reason: str, detail: str = "") -> Event:
    """Return the event for a key that is not accepted."""
    facts = {"session_id": record_id, "reason": reason, "detail": detail}
    return Event(signals.session_rejected, facts)


def eviction_events(evicted: Sequence[Record]) -> tuple[Event, ...]:
    """Return the events for sessions that ``MAX_SESSIONS`` has ended."""
    if not evicted:
        return _NO_EVENTS
    return tuple(end_event(each.id, "evicted", each.user_id) for each in evicted)


def end_event(record_id: str, reason: str, user_id: str | None) -> Event:
    """Return the event for the end of a session."""
    facts = {"session_id": record_id, "user_id": user_id, "reason": reason}
    return Event(signals.session_ended, facts)
