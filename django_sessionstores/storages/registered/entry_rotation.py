"""Letting the entry of a session follow its data, which a rotation replaces first."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Final

import msgspec

from ...core import clock
from ...core.flow import Call, Flow
from ...core.records import Record, State, next_version, without_payload
from ...exceptions import StorageUnavailable, UnreadablePayload
from ..base import Conflict, Gone, Outcome, Taken, Updated
from .entries import belongs_to, with_entry
from .pair import Pair

logger: Final = logging.getLogger("django_sessionstores")


class EntryRotation(Pair):
    """The part of `StoredRecords` that rotates entries.

    A rotation replaces the data first, so that nobody sees an entry whose data is not stored. Then
    it replaces the entry, which decides whether the session goes on under its new id. A request
    that meets the data in between replaces the entry as well. So each session has one entry, all
    requests agree on its id, and whoever ends it by that id ends it for all of them.
    """

    def _registered(self, record: Record, method: str = "read") -> Flow[Record | None]:
        """Return what the registry says of a record of the data; ``None`` if its session has ended.

        If only the data was rotated until now, the entry is rotated as well.
        """
        entry: Record | None = yield Call(self._registry, method, (record.id,))
        if entry is None or entry.state is not State.LIVE:
            return entry
        if record.state is State.LIVE:
            return with_entry(record, entry) if belongs_to(record, entry) else None
        rotated = yield from self._read_successor(record)
        if rotated is None:
            return record
        registered = yield from self._rotate_entry(rotated, entry, record, clock.now())
        if isinstance(registered, Conflict):
            return registered.current
        return None if isinstance(registered, Gone) else record

    def _read_successor(self, tombstone: Record) -> Flow[Record | None]:
        """Return the live data to which a tombstone leads, if there is any that can be read."""
        rotated: Record | None = None
        if tombstone.successor:
            with suppress(UnreadablePayload):
                rotated = yield Call(self._data, "read", (tombstone.successor,))
        return rotated if rotated is not None and rotated.state is State.LIVE else None

    def _conflict(self, current: Record, entry: Record) -> Flow[Conflict | Gone]:
        """Return the outcome of a write that the data has refused because of a newer record."""
        if current.state is State.LIVE and belongs_to(current, entry):
            return Conflict(with_entry(current, entry))
        left = yield from self._registered(current)
        return Gone() if left is None else Conflict(left)

    def _rotate_entry(
        self, record: Record, entry: Record, tombstone: Record, now: int
    ) -> Flow[Outcome]:
        """Rotate the entry of a session whose data has the new id already.

        This decides whether the session goes on under its new id. Any number of requests may do it
        at once. The outcome is as that of `_supersede`. If the session was ended under the new id,
        or has another one by now, it says that the session is rotated.
        """
        first = without_payload(record)
        while True:
            outcome: Outcome | Taken = yield Call(
                self._registry, "rotate", (first, entry, tombstone, now)
            )
            if isinstance(outcome, Updated):
                return outcome
            if isinstance(outcome, Conflict) and outcome.current.is_live(now):
                entry = outcome.current
            elif not isinstance(outcome, Taken) or (yield from self._claim(record.id, now)):
                break
        if isinstance(outcome, Taken):
            # Another request rotates the entry in two steps, or has done so.
            outcome = yield from self._supersede(entry, tombstone, now)
            if not isinstance(outcome, Updated):
                return outcome
        elif isinstance(outcome, Gone) or outcome.current.successor != record.id:
            is_elsewhere = isinstance(outcome, Conflict) and outcome.current.successor
            return outcome if is_elsewhere else Gone()
        current: Record | None = yield Call(self._registry, "read", (record.id,))
        if current is None or current.state is not State.LIVE:
            return Updated(first, is_rotated=True)
        return Updated(current)

    def _claim(self, session_id: str, now: int) -> Flow[bool]:
        """Change an entry, so that the request that has created it does not remove it again.

        Return whether it stays: that request may remove or change it at this moment. See
        `rotate_in_two_steps`.
        """
        entry: Record | None = yield Call(self._registry, "read", (session_id,))
        if entry is None:
            return False
        if not entry.is_live(now):
            return True  # The session has ended under this id.
        claimed = msgspec.structs.replace(entry, version=next_version(entry.version))
        outcome: Outcome = yield Call(self._registry, "update", (claimed, entry, now))
        return isinstance(outcome, Updated)

    def _supersede(self, entry: Record, tombstone: Record, now: int) -> Flow[Outcome]:
        """Replace the entry by a tombstone, whichever version of the entry is stored by now.

        Return `Updated` if the session goes on as the tombstone says, `Conflict` if it goes on
        under another id that a request has given it meanwhile, and `Gone` if it was ended.
        """
        try:
            while True:
                outcome: Outcome = yield Call(self._registry, "update", (tombstone, entry, now))
                if not (isinstance(outcome, Conflict) and outcome.current.is_live(now)):
                    break
                entry = outcome.current
        except StorageUnavailable as error:
            # The data says what became of the session.
            logger.warning("Session %s stays listed until it expires: %s", entry.id, error)
            return Updated(tombstone)
        if not isinstance(outcome, Conflict):
            return outcome
        successor = outcome.current.successor
        if successor and successor == tombstone.successor:
            return Updated(tombstone)  # The answer to this call was lost, or another one did it.
        return outcome if successor else Gone()
