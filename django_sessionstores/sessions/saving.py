"""Saving: store a state with the data at hand, and return the next state.

Nothing is assigned while a save runs. So a save that raises an error has changed nothing in the
object, and the next save merges as the first one would have.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any, Final

import msgspec
from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.sessions.backends.base import CreateError
from msgspec.structs import replace

from .. import signals
from ..conf import codec, settings
from ..core import clock
from ..core.flow import Call, Flow, Pause
from ..core.records import Client, Record, SecretText, draw_key, make_tombstone, with_times
from ..core.records import State as RecordState
from ..exceptions import (
    PayloadTooLarge,
    SessionConflict,
    SessionEnded,
    StorageUnavailable,
    UnreadablePayload,
)
from ..payloads.codec import Snapshot
from ..payloads.merge import changes
from ..storages import revocation
from ..storages.base import Conflict, Gone, Taken, Updated
from ..storages.outcomes import noting_evicted
from ..storages.revocation import is_in_grace
from ..storages.tombstones import leave_end_notes, leave_tombstone
from . import activity, conflicts, drafting, rotation
from .conflicts import NextTry
from .loading import end_event, eviction_events
from .state import (
    Dead,
    Environment,
    Event,
    New,
    Refused,
    ReplacedSession,
    Rotating,
    RotationCause,
    State,
    Stored,
    Unreachable,
    Unread,
    Unreadable,
    count,
)

_EXPIRY: Final = drafting.EXPIRY.encode()
_HARMLESS_TO_READERS: Final = (
    PayloadTooLarge,
    SessionConflict,
    SessionEnded,
    StorageUnavailable,
)


class Intent(msgspec.Struct, frozen=True):
    """What the caller of a save wants."""

    is_asked_for: bool = False
    """Whether ``modified`` was set."""
    has_changes: bool = False
    """Whether ``modified`` was set, or the data differs from the data that was loaded."""
    must_create: bool = False
    """Whether the save must store a new session, as Django's ``save(must_create=True)``."""


class SaveResult(msgspec.Struct, frozen=True):
    """The result of a save."""

    state: State
    data: dict[str, Any] | None = None
    """The data that is stored now, if it differs from the data that was given."""
    events: tuple[Event, ...] = ()
    is_written: bool = False
    is_news: bool = False
    """Whether the browser needs a new cookie: with another key, or another expiry."""
    is_proved: bool = False
    """Whether the store has confirmed that the session is live."""
    is_provisional: bool = False
    """Whether the write is part of the caller's transaction, and is undone by its rollback."""
    merged: Snapshot | None = None
    """The data that was given, at any depth, as it was when it was merged for the first time."""

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<SaveResult {type(self.state).__name__}>"


_Step = Flow[SaveResult | NextTry]


def save(env: Environment, state: State, data: dict[str, Any], intent: Intent) -> Flow[SaveResult]:
    """Store the data, merged with what others have saved since it was loaded.

    Raises `SessionEnded`, `SessionConflict`, `StorageUnavailable`, `UnserializableValue` and
    `PayloadTooLarge`. With ``must_create``, raises ``CreateError`` if the key is taken.
    """
    given, merged, refused = data, None, 0
    while refused <= settings.CONFLICT_RETRIES:
        step: SaveResult | NextTry
        match state:
            case Stored():
                step = yield from _update(env, state, data, intent)
            case Rotating():
                step = yield from _rotate(env, state, data, intent)
            case New(key=SecretText() as key):
                step = yield from _create(env, state, key, data)
            case New(key=None):
                state = replace(state, key=SecretText(draw_key()))
                continue
            case Unread():
                raise AssertionError("what is stored must be read before it is replaced")
            case Unreachable():
                if intent.has_changes:
                    # The session was served as empty, which must not replace its stored data.
                    raise state.outage
                return SaveResult(state)
            case Refused(drops_writes=True):
                return SaveResult(state)
            case Unreadable() | Refused():
                if not intent.has_changes:
                    # Nothing changed, and a worker with the right keys can read the session, or a
                    # request with the proof of its device.
                    return SaveResult(state)
                state = New(SecretText(draw_key()))
                continue
            case Dead(is_superseded=True) if drafting.user_of(data) is not None:
                state = New(SecretText(draw_key()), superseded=state)
                continue
            case Dead():
                if state.is_superseded and env.policy is not None and not intent.has_changes:
                    return SaveResult(state)
                raise conflicts.no_longer_stored()
        if isinstance(step, SaveResult):
            if data is given:
                return step
            stored = data if step.data is None else step.data
            return replace(step, data=stored, merged=merged)
        if data is given:
            merged = codec().serialize(given)
        state, data = step
        refused += 1
        if refused > 2:
            # So many conflicts mean that many requests write at once: spread them in time.
            seconds = random.uniform(0, 0.002 * min(refused, 20))  # noqa: S311
            yield Call(Pause, "sleep", (seconds,))
    raise _refusal(env, state)


def _refusal(env: Environment, state: State) -> StorageUnavailable | SessionConflict:
    """Return the error for a session that could not be stored in as many rounds as there may be."""
    if isinstance(state, New):
        return StorageUnavailable(
            f"{env.storage.describe()} says of each new session id that it is taken. "
            "It does not keep its promises: run the conformance suite on it."
        )
    return SessionConflict(
        f"Other requests changed the session {settings.CONFLICT_RETRIES} times while it was "
        "being saved. Raise SESSIONSTORES['CONFLICT_RETRIES'], or write to it less often."
    )


# --- A new session -------------------------------------------------------------------------


def _create(env: Environment, state: New, key: SecretText, data: dict[str, Any]) -> _Step:
    if state.is_given and env.storage.holds_in_key:
        raise CreateError  # A save has made such a key: its session is stored, or has ended.
    if state.superseded is not None:
        joined = yield from conflicts.resolve_superseded(env, state.superseded, data)
        if joined is not None:
            return joined
    snapshot = codec().serialize(data)
    record = drafting.draft(env, key, data, snapshot, None)
    outcome = yield from env.calls.create(record, record.last_activity)
    if isinstance(outcome, Updated):
        yield from leave_end_notes(env.storage, outcome.evicted, "evicted")
        created = _event(signals.session_created, outcome.record)
        events = (created, *eviction_events(outcome.evicted))
        if state.replaces is not None or state.superseded is not None:
            events = (*(yield from _end_replaced(env, state, outcome)), *events)
        return _save_result(key, None, outcome, snapshot, events)
    if state.is_given:
        raise CreateError
    return (yield from conflicts.resolve_creation(env, state, key, data))


def _end_replaced(env: Environment, state: New, created: Updated) -> Flow[list[Event]]:
    """End the sessions of the same browser that a new one replaces; return the events."""
    record, events = created.record, list[Event]()
    with noting_evicted(lambda evicted: (*created.evicted, *evicted)):
        if state.replaces is not None:
            events = yield from _replace_flushed(env, state.replaces, record)
        if state.superseded is not None and state.superseded.outdated is not None:
            events = [*(yield from _end_outdated(env, state.superseded.outdated, record)), *events]
    return events


def _replace_flushed(
    env: Environment, replaced: ReplacedSession, record: Record
) -> Flow[list[Event]]:
    """Return the events of a session that was flushed before, and end it if it is still live.

    After a login it is also superseded by the session in ``record``.
    """
    is_login, is_reported = record.user_id is not None, replaced.is_reported
    if not replaced.is_over and replaced.id:
        is_reported = (yield from revocation.end(env.storage, replaced.id)) is None
    if is_login and replaced.id:
        yield from _supersede(env, replaced.id, record)
    if is_reported:
        return []
    return [end_event(replaced.id, "replaced" if is_login else "logout", replaced.user_id)]


def _end_outdated(env: Environment, outdated: Record, record: Record) -> Flow[list[Event]]:
    """End a session whose user has a new password, after a login has replaced it.

    Return the events. The request that has set the password may have continued the session under
    another key.
    """
    was_live = yield from revocation.end(env.storage, outdated.id, None, outdated)
    yield from _supersede(env, outdated.id, record)
    if was_live is None:
        return []
    yield from _supersede(env, was_live.id, record)
    return [end_event(was_live.id, "replaced", outdated.user_id)]


def _supersede(env: Environment, session_id: str, record: Record) -> Flow[None]:
    """Leave a tombstone, so that parallel requests with the old key are anonymous and keep their
    cookie."""
    tombstone = make_tombstone(
        session_id,
        RecordState.SUPERSEDED,
        now=clock.now(),
        seconds=settings.TOMBSTONE_AGE,
        successor=record.id,
    )
    # The session is saved already. Only parallel requests need the tombstone.
    with suppress(StorageUnavailable):
        yield from leave_tombstone(env.storage, tombstone, replace=True)


# --- A stored session ----------------------------------------------------------------------


def _update(env: Environment, state: Stored, data: dict[str, Any], intent: Intent) -> _Step:
    """Store the changes. Without changes, only move the expiry."""
    if drafting.is_old(env, state.record, data) and not intent.must_create:
        return _rotate_for_age(env, state, data, intent)
    snapshot = codec().serialize(data)
    # With ``modified`` set, even another order of the keys is a change.
    same = snapshot == state.base or (not intent.is_asked_for and codec().matches(state.base, data))
    if not same:
        return _replace(env, state, data, snapshot)
    return _renew(env, state, data, snapshot, intent)


def _renew(
    env: Environment, state: Stored, data: dict[str, Any], snapshot: Snapshot, intent: Intent
) -> _Step:
    """Store the session again without a change, or only move its expiry, if that is due."""
    record, storage = state.record, env.storage
    is_outdated = storage.is_outdated(record) or not storage.codec.is_newest(record.payload)
    is_behind = drafting.is_behind(env, record, data)
    moves_in_key = storage.holds_in_key and (is_behind or _was_joined(env, state))
    try:
        if is_outdated or moves_in_key or drafting.has_moved(env, record, is_touched=is_behind):
            return (yield from _replace(env, state, data, snapshot))
        return (yield from _touch(env, state, data, intent, is_behind=is_behind))
    except _HARMLESS_TO_READERS as error:
        # If no view asked for the save, its failure must not fail a request that only reads.
        if intent.is_asked_for or _resends_old_key(env, error):
            raise
        return SaveResult(state)


def _was_joined(env: Environment, state: Stored) -> bool:
    """Return whether the session was joined (see `rotation.join`) and its key does not hold it."""
    return not state.is_announced and env.storage.identify(state.key) != state.record.id


def _replace(env: Environment, state: Stored, data: dict[str, Any], snapshot: Snapshot) -> _Step:
    """Store the session in place of the stored record."""
    record = drafting.draft(env, state.key, data, snapshot, state)
    try:
        outcome = yield from env.calls.update(record, state.record, record.last_activity)
    except UnreadablePayload as reason:
        raise _damaged(reason) from None
    if isinstance(outcome, Updated):
        events = _client_events(state.record, outcome.record)
        saved = _save_result(state.key, state, outcome, snapshot, events)
        if not saved.is_news and not _has_same_expiry(state, data):
            # The stored expiry may stay although the cookie gets another lifetime.
            saved = replace(saved, is_news=True)
        return saved
    return (yield from conflicts.resolve_update(env, state, data, outcome))


def _has_same_expiry(state: Stored, data: dict[str, Any]) -> bool:
    """Return whether the value that ``set_expiry()`` stores is unchanged."""
    if drafting.EXPIRY not in data and codec().lacks(state.base, _EXPIRY):
        return True
    return bool(drafting.data_of(state.base).get(drafting.EXPIRY) == data.get(drafting.EXPIRY))


def _touch(
    env: Environment, state: Stored, data: dict[str, Any], intent: Intent, *, is_behind: bool
) -> _Step:
    """Move the expiry if it is behind, and check that the session is live if that matters.

    After a save, Django's middleware sends the cookie again. If the session got another key
    meanwhile, the old cookie would replace the new one and log the user out.
    """
    moment, record = clock.now(), state.record
    if not is_behind:
        if activity.is_due(env.storage, record):
            active = yield from activity.store(env.storage, record)
            if active is not None:
                return _proved(state, with_times(record, record.expires, active))
        if env.storage.holds_in_key:
            return (yield from _prove_token(env, state, intent))
        # The package's middleware sends no cookie after a save that changed nothing.
        is_at_risk = env.policy is None
        if not (intent.is_asked_for or is_at_risk or not state.is_announced):
            return SaveResult(state)
    expires = drafting.expires_at(env, data, moment, record.created)
    if is_behind and (yield from env.calls.touch(record, expires, moment, moment)):
        touched = replace(state, record=with_times(record, expires, moment), is_announced=True)
        return SaveResult(touched, is_written=True, is_news=True, is_proved=True)
    current = yield from env.calls.read_latest(record.id)
    if current is not None and current.is_live(moment):
        return _proved(state, record)
    if is_in_grace(current):
        return (yield from conflicts.resolve_update(env, state, data, Conflict(current)))
    if env.policy is not None:
        return SaveResult(state)  # Nothing is lost, and the middleware does not send a cookie.
    raise conflicts.no_longer_stored()


def _proved(state: Stored, record: Record) -> SaveResult:
    """Return the result of a save that changes nothing and has found the session live."""
    is_news = not state.is_announced
    known = replace(state, record=record, is_announced=True)
    return SaveResult(known, is_proved=True, is_written=is_news, is_news=is_news)


def _prove_token(env: Environment, state: Stored, intent: Intent) -> Flow[SaveResult]:
    """Check that a session which its key holds is live, if that matters.

    Its expiry moves only with the key.
    """
    is_at_risk = env.policy is None
    if not env.storage.authoritative or not (intent.is_asked_for or is_at_risk):
        return SaveResult(state)
    current = yield from env.calls.read(env.storage.locate(state.key))
    if current is not None and current.is_live(clock.now()):
        return SaveResult(state, is_proved=True)
    if env.policy is not None:
        return SaveResult(state)
    raise conflicts.no_longer_stored()


# --- A session that gets another key -------------------------------------------------------


def _rotate_for_age(
    env: Environment, state: Stored, data: dict[str, Any], intent: Intent
) -> Flow[SaveResult]:
    """Store the session under another key, because its key is older than ``ROTATE_AFTER``."""
    try:
        rotating = rotation.begin_rotation(state, RotationCause.AGE)
        return (yield from save(env, rotating, data, intent))
    except _HARMLESS_TO_READERS as error:
        # A request that only reads continues with the old key. A later request rotates it.
        if intent.has_changes or _resends_old_key(env, error):
            raise
        return SaveResult(state)


def _rotate(env: Environment, state: Rotating, data: dict[str, Any], intent: Intent) -> _Step:
    """Store the session under its new key and leave a tombstone under the old one, in one step."""
    previous = state.previous
    # If the key was cycled twice, other code than Django's asked for a new key as well.
    is_once = state.cause is RotationCause.CYCLED and state.cycles == 1
    if is_once and (yield from rotation.is_secret_rotation(state.previous, data)):
        return (yield from _keep_key(env, previous, data, intent))
    given, data = data, drafting.with_rotation_time(env, previous.record, data)
    snapshot = codec().serialize(data)
    record = drafting.draft(env, state.key, data, snapshot, previous, cause=state.cause)
    tombstone = rotation.tombstone_of(state, record.id)
    try:
        outcome = yield from env.calls.rotate(
            record, previous.record, tombstone, record.last_activity
        )
    except UnreadablePayload as reason:
        raise _damaged(reason) from None
    if isinstance(outcome, Updated):
        yield from leave_end_notes(env.storage, outcome.evicted, "evicted")
        events = (
            _event(signals.session_rotated, outcome.record, previous_id=previous.record.id),
            *_client_events(previous.record, outcome.record),
            *eviction_events(outcome.evicted),
        )
        saved = _save_result(state.key, previous, outcome, snapshot, events, state.drawn)
        return saved if data is given else replace(saved, data=data)
    if isinstance(outcome, Taken):
        if env.storage.holds_in_key:
            current = yield from env.calls.lookup(previous.record.id)
        else:
            current = yield from env.calls.read_latest(previous.record.id)
        if current is not None and current.is_live(clock.now()):
            return NextTry(rotation.redraw_key(state), data)
        outcome = Gone() if current is None else Conflict(current)
    return (yield from conflicts.resolve_rotation(env, state, data, outcome))


def _keep_key(
    env: Environment, previous: Stored, data: dict[str, Any], intent: Intent
) -> Flow[SaveResult]:
    """Store the new hash of the login under the key that the session has."""
    try:
        return (yield from save(env, previous, data, intent))
    except _HARMLESS_TO_READERS:
        # Django asks for this save, not the view: it must not fail a request that only reads.
        before = drafting.data_of(previous.base)
        changed = {key for key, _ in changes(before, data, codec().is_same)}
        if env.policy is None or changed != {HASH_SESSION_KEY}:
            raise
        return SaveResult(previous)


def _resends_old_key(env: Environment, error: Exception) -> bool:
    """Return whether Django's middleware would replace the key of a login by the old one."""
    return env.policy is None and isinstance(error, SessionEnded)


# --- Common steps --------------------------------------------------------------------------


def _damaged(reason: UnreadablePayload) -> SessionEnded:
    return SessionEnded(f"The stored session was damaged before this save: {reason}.")


def _save_result(
    key: SecretText,
    previous: Stored | None,
    outcome: Updated,
    snapshot: Snapshot,
    events: tuple[Event, ...],
    drawn: int | None = None,
) -> SaveResult:
    """Return the result of a write. ``drawn`` is when the key was drawn, if it is a new one."""
    if outcome.key is not None:
        key = SecretText(outcome.key)
    record = outcome.record
    is_known = previous is not None and previous.is_announced and previous.key == key
    if drawn is None:
        drawn = previous.drawn if previous is not None else next(count)
    return SaveResult(
        Stored(key, record, snapshot, drawn=drawn),
        events=events,
        is_written=True,
        is_news=not is_known or previous is None or previous.record.expires != record.expires,
        is_proved=not outcome.is_rotated,
        is_provisional=outcome.is_provisional,
    )


def _event(signal: Any, record: Record, **facts: Any) -> Event:
    return Event(signal, {"session_id": record.id, "user_id": record.user_id, **facts})


def _client_events(base: Record, record: Record) -> tuple[Event, ...]:
    if base.ip == record.ip and base.user_agent == record.user_agent:
        return ()
    before, after = Client(base.ip, base.user_agent), Client(record.ip, record.user_agent)
    if not any(before):
        return ()
    facts = {"session_id": record.id, "before": before, "after": after}
    return (Event(signals.client_changed, facts),)
