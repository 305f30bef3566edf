"""Creating the entry and the data of a session, also beside others that create the same one."""

from __future__ import annotations

from asyncio import CancelledError
from contextlib import suppress

import msgspec

from ...core import clock
from ...core.flow import Call, Flow
from ...core.records import (
    Record,
    State,
    make_tombstone,
    next_version_for,
    saves_of,
    without_payload,
)
from ...exceptions import StorageUnavailable, UnreadablePayload
from ..base import Conflict, Gone, Outcome, Taken, Updated
from .entries import belongs_to, combine_outcomes
from .pair import Pair


class EntryCreation(Pair):
    """The part of `StoredRecords` that creates sessions.

    The entry comes first, and decides which of several requests creates the session. They meet if
    they migrate it from a previous backend: then all of them know its id. Its data says with a
    lineage of its own to which entry it belongs, see `belongs_to`.
    """

    def create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        """See `Storage.create`."""
        try:
            return (yield from self._create(record, now))
        except CancelledError:
            is_stored = yield from self._is_stored(record)
            if not (is_stored or (is_stored is None and record.origin)):
                yield from self._withdraw(record)
            raise

    def issue(self, record: Record, now: int) -> Flow[Updated]:
        """See `Storage.issue`."""
        raise NotImplementedError

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        registered: Updated | Taken = yield Call(
            self._registry, "create", (without_payload(record), now)
        )
        if isinstance(registered, Taken):
            return (yield from self._take_over(record, now))
        if record.state is not State.LIVE and (yield from self._is_ahead()):
            yield from self._call_after_commit("delete", record.id)
            yield from self._call_after_commit("create", record, now)
            return registered
        # Only a session that is migrated has another lineage than its id.
        created = yield from self._create_data(record, now, is_known=bool(record.origin))
        return created if isinstance(created, Taken) else combine_outcomes(created, registered)

    def _create_data(
        self, record: Record, now: int, *, is_known: bool = False
    ) -> Flow[Updated | Taken]:
        """Create the data for an entry that was just created; without the data, remove the entry.

        If there is data, another request has taken over, or it remains from an entry that was
        rolled back or ended. Without the entry, the session has ended, and its data does not count.
        ``is_known`` says that other requests know the id. If the data may be stored, they may have
        saved it since, so the entry stays. If it is not, the next one of them stores it.
        """
        try:
            created = yield from self._store_data(record, now)
            if isinstance(created, Updated):
                return created
            current: Record | None = yield Call(self._registry, "read", (record.id,))
            if current is None or current.version != record.version:
                has_ended = current is None or current.state is not State.LIVE
                return Updated(record, is_rotated=True) if has_ended else created
            created = yield from self._replace_data(record, now)
            if record.state is not State.LIVE and isinstance(created, Taken):
                return Updated(record)  # The data has another tombstone, which does not count.
        except Exception as error:
            is_uncertain = isinstance(error, StorageUnavailable) and error.was_sent
            if not (is_known and is_uncertain):
                yield from self._withdraw(record)
            raise
        return created

    def _replace_data(self, record: Record, now: int) -> Flow[Updated | Taken]:
        """Store the data of an entry in place of what remains from another entry.

        Return `Taken` if that is a tombstone, or if another request has taken over meanwhile.
        """
        try:
            left: Record | None = yield Call(self._data, "read", (record.id,))
        except UnreadablePayload:
            yield Call(self._data, "delete", (record.id,))
            left = None
        outcome: Outcome = Gone()
        if left is not None:
            is_of_entry = bool(record.origin) and left.origin == record.origin
            if is_of_entry or left.state is not State.LIVE:
                return Taken()
            outcome = yield Call(self._data, "update", (record, left, now))
        if isinstance(outcome, Gone):
            return (yield from self._store_data(record, now))
        return Taken() if isinstance(outcome, Conflict) else outcome

    def _store_data(self, record: Record, now: int) -> Flow[Updated | Taken]:
        """Create the data of a record, also if the answer of the store is lost.

        If several requests migrate the session, others may have found it under its entry already.
        """
        try:
            created: Updated | Taken = yield Call(self._data, "create", (record, now))
        except Exception:
            if not (yield from self._is_stored(record)):
                raise
            created = Updated(record)
        return created

    def _is_stored(self, record: Record) -> Flow[bool | None]:
        """Return whether a create that raised has stored the data; ``None`` if the store does not
        tell.

        Other requests may have saved or rotated the session since.
        """
        try:
            current: Record | None = yield Call(self._data, "read_latest", (record.id,))
        except (StorageUnavailable, UnreadablePayload):
            return None
        if current is None or current.version == record.version:
            return current is not None
        if current.state is not State.LIVE:
            return True
        return belongs_to(current, record) and saves_of(current) > saves_of(record)

    def _withdraw(self, record: Record) -> Flow[None]:
        """Remove the entry that was created for a session, unless another request has its own.

        That request may still be in a transaction, so the version is compared in the same step.
        """
        if record.state is not State.LIVE:
            return  # A tombstone counts without its data.
        removal = make_tombstone(record.id, State.ENDED, now=0, seconds=0, of=record)
        with suppress(StorageUnavailable):
            yield Call(self._registry, "update", (removal, without_payload(record), clock.now()))

    def _take_over(self, record: Record, now: int) -> Flow[Updated | Taken]:
        """Create the data for an entry if the request that created the entry has stopped there.

        In a transaction of the registry that is rolled back, the data stays with the entry of that
        request. It is the same session: only those that migrate it meet here.
        """
        entry: Record | None = yield Call(self._registry, "read", (record.id,))
        if entry is None or not entry.is_live(now) or record.state is not State.LIVE:
            return Taken()
        left: Record | None = yield Call(self._data, "read", (record.id,))
        if left is not None and (left.state is not State.LIVE or belongs_to(left, entry)):
            return Taken()
        # Both requests store the session of this entry, whichever of them is the first.
        record = msgspec.structs.replace(record, origin=entry.origin)
        claim = msgspec.structs.replace(
            without_payload(record), version=next_version_for(record, entry.version)
        )
        claimed: Outcome = yield Call(self._registry, "update", (claim, entry, now))
        if not isinstance(claimed, Updated):
            return Taken()
        store = self._store_data if left is None else self._replace_data
        created = yield from store(record, now)
        return created if isinstance(created, Taken) else combine_outcomes(created, claimed)
