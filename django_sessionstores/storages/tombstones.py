"""Storing a tombstone in place of a session, whatever other requests store there meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from ..conf import settings
from ..core import clock
from ..core.end_notes import make_note
from ..core.flow import Flow
from ..core.records import Record
from ..exceptions import SessionStoresError, UnreadablePayload
from .base import Conflict, Storage, Updated
from .calls import Calls

_ROUNDS: Final = 5


class TombstoneOutcome(NamedTuple):
    """The result of `leave_tombstone`."""

    is_stored: bool
    has_ended: bool
    """Whether the tombstone has replaced a live session."""


def extend_until(tombstone: Record, expires: int) -> Record:
    """Return the tombstone with a lifetime until ``expires`` at least."""
    return msgspec.structs.replace(tombstone, expires=max(tombstone.expires, expires))


def leave_tombstone(
    storage: Storage, tombstone: Record, *, replace: bool = False, outlasts: bool = False
) -> Flow[TombstoneOutcome]:
    """Store a tombstone, in place of the session or of a record that another request stores.

    Another tombstone that has not expired stays, because the session may continue under the id in
    it. With ``replace``, it stays only if it has such an id. With ``outlasts``, the tombstone lasts
    at least as long as the session would have.
    """
    calls, has_ended = Calls(storage), False
    current = yield from _look_up(calls, tombstone.id)
    for _ in range(_ROUNDS):
        now = clock.now()
        if current is None:
            if isinstance((yield from calls.create(tombstone, now)), Updated):
                return TombstoneOutcome(is_stored=True, has_ended=has_ended)
            current = yield from _look_up(calls, tombstone.id)
            continue
        is_live = current.is_live(now)
        if is_live and not storage.is_own(current):
            break
        may_replace = is_live or (replace and not current.successor)
        if current.expires > now and not may_replace:
            break
        if outlasts:
            tombstone = extend_until(tombstone, current.expires)
        # A store does not update a record that has expired at the given time.
        outcome = yield from calls.update(tombstone, current, min(now, current.expires - 1))
        if isinstance(outcome, Updated):
            return TombstoneOutcome(is_stored=True, has_ended=has_ended or is_live)
        if isinstance(outcome, Conflict) and (outcome.current.is_live(now) or not is_live):
            current = outcome.current
            continue
        current = yield from _look_up(calls, tombstone.id)
        if current is not None and current.is_live(now):
            # A registry has the entry of a session that another request is about to store, or still
            # has the entry of a session to which another request has given a new id.
            if (yield from calls.delete(tombstone.id)):
                has_ended, current = True, None
            else:
                current = yield from _look_up(calls, tombstone.id)
    return TombstoneOutcome(is_stored=False, has_ended=has_ended)


def leave_end_notes(storage: Storage, ended: Sequence[Record], cause: str) -> Flow[None]:
    """Leave a note of why sessions have ended, for ``EXPLAIN_ENDS`` seconds, under each of the ids.

    Sessions of visitors get none. An error is ignored: the sessions have ended all the same.
    """
    seconds = settings.EXPLAIN_ENDS
    if not (seconds and storage.authoritative):
        return
    now = clock.now()
    with suppress(SessionStoresError):
        for each in ended:
            if each.user_id is None:
                continue
            note = make_note(each, cause, now=now, seconds=seconds)
            if not isinstance((yield from Calls(storage).create(note, now)), Updated):
                yield from leave_tombstone(storage, note, replace=True)


def _look_up(calls: Calls, session_id: str) -> Flow[Record | None]:
    """Return the record with an id. One that cannot be read is removed, to make room."""
    try:
        return (yield from calls.lookup(session_id))
    except UnreadablePayload:
        yield from calls.delete(session_id)
        return None
