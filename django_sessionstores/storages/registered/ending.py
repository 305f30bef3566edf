"""Ending records that have an entry in a registry, also while a request gives them another id."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Final

from ...conf import settings
from ...core.flow import Call, Flow
from ...core.records import Record, State, make_tombstone
from ...exceptions import StorageUnavailable, UnreadablePayload
from ..base import Conflict, Outcome, Updated
from ..revocation import is_same_session
from .pair import Pair

_ROUNDS: Final = 50
"""How many rotations an end follows that are made while it runs."""


class EndingRecords(Pair):
    """The part of `StoredRecords` that ends sessions.

    The entry goes first, because a session without an entry has ended. A request that rotates the
    session replaces its data first, and its entry afterwards.
    """

    def delete(self, session_id: str) -> Flow[bool]:
        """See `Storage.delete`. Return ``False`` if the session goes on under another id."""
        # A session without an entry has ended, even if its data cannot be reached.
        had_entry: bool = yield Call(self._registry, "delete", (session_id,))
        if (yield from self._is_ahead()):
            # The data must outlive a rollback.
            data = yield from self._read_or_none(session_id)
            has_ended = had_entry and (yield from self._delete_successor(data))
            yield from self._delete_data_after_commit([session_id], {session_id: has_ended})
            return has_ended
        had_data: bool = yield Call(self._data, "delete", (session_id,))
        if had_data or not had_entry:
            return had_entry
        # Either the data was lost, or a rotation is under way that has not come to the entry.
        return (yield from self._delete_successor((yield from self._read_or_none(session_id))))

    def end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        """See `Storage.end_many`. The steps are those of `delete`."""
        had_entry: Collection[str] = yield Call(self._registry, "end_many", (session_ids,))
        has_ended = dict.fromkeys(had_entry, True)
        # Whatever happens to the data, these sessions have ended, and the caller must know it.
        with suppress(StorageUnavailable):
            had_data = frozenset[str]()
            if (yield from self._is_ahead()):
                # The data must outlive a rollback.
                yield from self._delete_data_after_commit(session_ids, has_ended)
            else:
                had_data = frozenset((yield Call(self._data, "end_many", (session_ids,))))
            for each in had_entry:
                if each not in had_data:
                    tombstone = yield from self._read_or_none(each)
                    has_ended[each] = yield from self._delete_successor(tombstone, had_entry)
        return [each for each in had_entry if has_ended[each]]

    def _delete_data_after_commit(
        self, session_ids: Sequence[str], has_ended: Mapping[str, bool]
    ) -> Flow[None]:
        """Delete the data of sessions when the transaction that has deleted their entries commits.

        A session that has an entry by then is left alone: if the end made its rotation fail, the
        login that rotated it has stored it once more, under the same id. Until then, other requests
        can give a session another id. ``has_ended`` tells of which ids a session has ended.
        """

        def delete() -> Flow[None]:
            entries: Mapping[str, Record] = yield Call(
                self._registry, "lookup_many", (session_ids,)
            )
            stored = {key for key, each in entries.items() if each.state is State.LIVE}
            if gone := [each for each in session_ids if each not in stored]:
                had_data = frozenset((yield Call(self._data, "end_many", (gone,))))
                for each in gone:
                    if has_ended.get(each) and each not in had_data:
                        yield from self._delete_successors(each)

        yield from self._run_after_commit(session_ids[0], delete)

    def _withdraw_rotation(self, record: Record, base: Record, now: int) -> Flow[bool]:
        """End a session under its new id, because it was ended under the old one meanwhile.

        Return ``False`` if it has not to end: a login begins another session, whether the rotation
        is its own or it has joined that of another request. Nor is there anything to end if another
        request has rotated the session on, and has told that the next id follows the new one.
        """
        tombstone = make_tombstone(
            record.id, State.ENDED, now=now, seconds=settings.TOMBSTONE_AGE, of=record
        )
        entry: Record | None = yield Call(self._registry, "read", (record.id,))
        while entry is not None and entry.is_live(now) and is_same_session(base, entry):
            outcome: Outcome = yield Call(self._registry, "update", (tombstone, entry, now))
            if not isinstance(outcome, Conflict):
                yield Call(self._data, "delete", (record.id,))
                return True
            entry = outcome.current
        if entry is None:
            return True
        return not (entry.is_live(now) or (entry.successor and is_same_session(record, entry)))

    def _end_data_after_commit(self, tombstone: Record, base: Record, now: int) -> Flow[None]:
        """Replace the data of a session by a tombstone when the transaction commits.

        If other requests have given the session another id until then, it ends under that one.
        """

        def replace() -> Flow[None]:
            outcome: Outcome = yield Call(self._data, "update", (tombstone, base, now))
            if not (isinstance(outcome, Updated) or tombstone.successor):
                yield from self._delete_successors(tombstone.id)

        yield from self._run_after_commit(tombstone.id, replace)

    def _read_or_none(self, session_id: str) -> Flow[Record | None]:
        """Return the data with an id; ``None`` as well if it cannot be read, but has to end."""
        with suppress(UnreadablePayload):
            data: Record | None = yield Call(self._data, "read", (session_id,))
            return data
        return None

    def _delete_successor(
        self, tombstone: Record | None, ended: Collection[str] = ()
    ) -> Flow[bool]:
        """Delete the session that a tombstone leads to, unless a login has begun another one.

        ``ended`` are the ids that the caller has ended as well.

        Return ``False`` if that one has got another id as well, or if another request has ended it
        by its new id. The caller of `Storage.delete` knows whether to follow it.
        """
        if tombstone is None or not tombstone.successor:
            return True
        entry: Record | None = yield Call(self._registry, "read", (tombstone.successor,))
        if entry is None:
            return tombstone.successor in ended
        if not is_same_session(tombstone, entry):
            return True
        if entry.state is State.LIVE:
            if (yield from self.delete(entry.id)):
                return True
            entry = yield Call(self._registry, "read", (tombstone.successor,))
        # It has ended if its rotation was withdrawn, see `_withdraw_rotation`.
        return entry is not None and not entry.successor

    def _delete_successors(self, session_id: str) -> Flow[None]:
        """Delete a session that has ended under the ids that it has got since."""
        tombstone = yield from self._read_or_none(session_id)
        for _ in range(_ROUNDS):
            if tombstone is None or (yield from self._delete_successor(tombstone)):
                return
            tombstone = yield Call(self._registry, "read", (tombstone.successor,))
