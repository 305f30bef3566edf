"""Ending: end the session of a state or of a key, for ``delete()`` and ``flush()``."""

from __future__ import annotations

from contextlib import suppress

import msgspec

from ..conf import settings
from ..core import clock
from ..core.flow import Flow
from ..core.records import Record, SecretText, make_tombstone
from ..core.records import State as RecordState
from ..exceptions import UnreadablePayload
from ..payloads.codec import Snapshot
from ..storages import revocation
from ..storages.base import Conflict, Updated
from ..storages.revocation import EndedSession
from ..storages.tombstones import leave_tombstone
from . import drafting, request_sessions, verification
from .state import Dead, Environment, New, Refused, Rotating, State, Stored, Unreachable, Unread


class FlushResult(msgspec.Struct, frozen=True):
    """The result of a flush."""

    ended: EndedSession | None
    """The session that ended, if one was live."""
    is_outdated: bool = False
    """Whether it ended because its user has a new password."""


def end_state(env: Environment, state: State) -> Flow[EndedSession | None]:
    """End the session of a state, even if its key was rotated since.

    Return what has ended; ``None`` if there was no live session.
    """
    match state:
        case New(key=SecretText() as key, is_tried=True):
            return (yield from end_key(env, key, key))  # The answer to that save may be lost.
        case New():
            return None
        case Stored(key=key, record=record) | Refused(key=key, record=record):
            return (yield from revocation.end(env.storage, record.id, key, record))
        case Rotating(previous=previous):
            known = previous.record
            return (yield from revocation.end(env.storage, known.id, previous.key, known))
        case Unread(key=key, cookie=cookie) | Unreachable(key=key, cookie=cookie):
            return (yield from end_key(env, key, cookie))
        case Dead():
            return None  # A session to which the key leads belongs to other requests.
        case _:
            return (yield from end_key(env, state.key, state.key))


def end_key(
    env: Environment, key: SecretText, cookie: SecretText, own_id: str | None = None
) -> Flow[EndedSession | None]:
    """End the session that has this key, or had it before its key was rotated.

    ``cookie`` is the key, or the value from which the key is derived. ``own_id`` is the id of the
    session whose key the object itself has drawn. Return what has ended; ``None`` if there was no
    live session.
    """
    session_id = env.storage.identify(key)
    if session_id is None:
        return None
    # The key may be the one from before a rotation by this request, as code knows it that allows a
    # user one session and ends the others.
    spared = request_sessions.ids_cycled_before(env.number)
    if own_id is not None:
        spared.add(own_id)
    return (
        yield from revocation.end(env.storage, session_id, cookie, since=env.opened, spared=spared)
    )


def flush(env: Environment, state: State, *, is_logout: bool) -> Flow[FlushResult]:
    """End the session of a state for ``flush()``.

    Django also flushes a session when it finds that its user has a new password. Another request
    of the same browser may have set that password, and may be about to continue the session. So
    this flush leaves a tombstone by which that request can tell it from another end.
    """
    if isinstance(state, Stored) and not is_logout and (yield from _is_outdated(state.base)):
        record = state.record
        was_live = yield from _mark_outdated(env, record)
        return FlushResult(EndedSession(record.id, record) if was_live else None, is_outdated=True)
    if is_logout and isinstance(state, Dead) and state.outdated is not None:
        # The session was flushed before because of a new password. Now its user logs out.
        known = state.outdated
        ended = yield from revocation.end(env.storage, known.id, state.key, known)
        seconds = settings.TOMBSTONE_AGE
        tombstone = make_tombstone(known.id, RecordState.ENDED, now=clock.now(), seconds=seconds)
        # The request that has set the password must not continue the session either.
        yield from leave_tombstone(env.storage, tombstone, replace=True)
        return FlushResult(ended)
    return FlushResult((yield from end_state(env, state)))


def _is_outdated(base: Snapshot) -> Flow[bool]:
    return (yield from verification.login_is_outdated(drafting.data_of(base)))


def _mark_outdated(env: Environment, record: Record) -> Flow[bool]:
    """Leave a tombstone without a successor; return whether the session was live.

    A session that got another key or the new password meanwhile is left alone.
    """
    current = record
    while current.is_live(clock.now()):
        tombstone = make_tombstone(
            current.id,
            RecordState.SUPERSEDED,
            now=clock.now(),
            seconds=settings.TOMBSTONE_AGE,
            of=current,
        )
        outcome = yield from env.calls.update(tombstone, current, clock.now())
        if not isinstance(outcome, Conflict):
            return isinstance(outcome, Updated)
        current = outcome.current
        with suppress(UnreadablePayload):
            if not (yield from _is_outdated(drafting.open_record(env, current))):
                return False
    return False
