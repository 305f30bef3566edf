"""Ending a session by one of its ids, also while a request gives it another one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final, NamedTuple, TypeGuard

from .. import conf
from ..core import clock
from ..core.flow import Flow
from ..core.records import Record, State
from ..exceptions import UnreadablePayload
from ..signals import note_ended
from .base import Storage
from .calls import Calls
from .outcomes import noting_evicted

_ROUNDS: Final = 50
"""How often a session that keeps getting other ids is looked up again."""


class EndedSession(NamedTuple):
    """A live session that was ended."""

    id: str
    """The id that it had in the end."""
    record: Record | None
    """Its record, as far as it is known."""

    @property
    def user_id(self) -> str | None:
        """Return the id of its user; ``None`` if there is none, or it is not known."""
        return None if self.record is None else self.record.user_id


def end(
    storage: Storage,
    session_id: str,
    presented: str | None = None,
    known: Record | None = None,
    *,
    since: int | None = None,
    spared: Collection[str] = (),
) -> Flow[EndedSession | None]:
    """End the session that has this id, or had it before its key was rotated.

    ``presented`` is the session key of this id, or the cookie that stands for it, and ``known`` its
    record, if the caller has them. ``since`` is when the caller began, in milliseconds since the
    epoch, if it has nothing but a key: it ends what the key led to at that time, and not what it no
    longer leads to. ``spared`` has the ids under which the caller itself has stored sessions since:
    a key that it has superseded does not lead to them. Return ``None`` if no live session ended.
    """
    calls = Calls(storage)
    for _ in range(_ROUNDS):
        ended = yield from calls.end(session_id, presented)
        # If only the browser has the record, the session ends when the browser drops its cookie.
        if ended or not storage.authoritative:
            note_ended([session_id])
            return EndedSession(session_id, known)
        try:
            current = yield from calls.lookup(session_id)
        except UnreadablePayload:
            return None  # It is not known which session it was, and whether it continues.
        if current is not None and current.is_live(clock.now()):
            if not storage.is_own(current):
                return None
            continue  # Stored at this moment, by a migration.
        if current is None or not current.successor:
            return None
        if not is_in_grace(current):
            if since is not None and current.last_activity < since:
                return None
            if current.successor in spared:
                return None
        try:
            successor = yield from calls.lookup(current.successor)
        except UnreadablePayload:
            successor = None
            if not is_in_grace(current):
                return None
        else:
            if successor is None or not leads_on(current, successor):
                return None
        session_id, presented, known = current.successor, None, successor
    return None


def end_many(storage: Storage, records: Sequence[Record]) -> Flow[list[Record]]:
    """End sessions, in one call of the storage; return the records of those that were live.

    Those that have got other ids at this moment are ended one by one. If that fails, the error has
    those that were ended, see `SessionStoresError.evicted`.
    """
    ids = frozenset((yield from Calls(storage).end_many([each.id for each in records])))
    ended = [each for each in records if each.id in ids]
    with noting_evicted(lambda _: tuple(ended)):
        for each in [record for record in records if record.id not in ids]:
            gone = yield from end(storage, each.id, known=each)
            if gone is not None:
                ended.append(each)
    return ended


def leads_on(tombstone: Record, successor: Record) -> bool:
    """Return whether ending a session by its old key also ends the successor of the tombstone."""
    # As long as the old key is accepted, it can also end the session that it leads to, even if a
    # view has put another user into the session since.
    return is_in_grace(tombstone) or is_same_session(tombstone, successor)


def is_in_grace(tombstone: Record | None) -> TypeGuard[Record]:
    """Return whether any request with the old key is led to the new one."""
    return (
        tombstone is not None
        and tombstone.state is State.ROTATED
        and clock.now() < tombstone.last_activity + conf.settings.ROTATION_GRACE * 1000
    )


def is_same_session(tombstone: Record, successor: Record) -> bool:
    """Return whether a tombstone leads to the same session: not to one that a login began.

    Of a chain of rotations, each tombstone has the user of the session that it stands for, and its
    beginning, which a login of the same user moves.
    """
    return (tombstone.user_id, tombstone.created) == (successor.user_id, successor.created)


def follow_ids(storage: Storage, session_id: str) -> Flow[set[str]]:
    """Return the id and the lineage of the session that has an id, or had it before rotations."""
    calls = Calls(storage)
    found = {session_id}
    for _ in range(_ROUNDS):
        current = yield from calls.lookup_as_listed(session_id)
        if current is None:
            break
        if current.state is State.LIVE:
            found |= {current.id, current.lineage}
            break
        if not current.successor:
            break
        session_id = current.successor
        found.add(session_id)
    return found
