"""Records that a store keeps and compares by version, with their entries in the registry."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from ...core.flow import Call, Flow
from ...core.records import Record, State, next_version, without_payload
from ...exceptions import StorageUnavailable, UnreadablePayload
from ..base import Conflict, Gone, Outcome, Taken, Updated, was_rotated
from .ending import EndingRecords
from .entries import (
    combine_outcomes,
    entry_of,
    has_drifted,
    replace_tombstone,
    with_entry,
    without_entry,
)
from .late_saves import carry_over

logger: Final = logging.getLogger("django_sessionstores")


class StoredRecords(EndingRecords):
    """The operations of `RegisteredStorage` if the storage of the data compares versions itself.

    The entry follows the record: it knows the user, the client and the expiry.
    """

    def read(self, locator: str, method: str = "read") -> Flow[Record | None]:
        """See `Storage.read`. ``method`` is the method of both storages to read with."""
        record: Record | None = yield Call(self._data, method, (locator,))
        if record is None or record.state is not State.LIVE:
            return record
        entry: Record | None = yield Call(self._registry, method, (record.id,))
        if entry is None or entry.state is not State.LIVE:
            return entry
        return with_entry(record, entry)

    def lookup(self, session_id: str) -> Flow[Record | None]:
        """See `Storage.lookup`."""
        entry: Record | None = yield Call(self._registry, "lookup", (session_id,))
        if entry is None:
            # During a rotation, the tombstone that leads on may be in the data only.
            data: Record | None = yield Call(self._data, "read", (session_id,))
            entry = data if data is not None and data.state is not State.LIVE else None
        return entry

    def lookup_many(self, session_ids: Sequence[str]) -> Flow[Mapping[str, Record]]:
        """See `Storage.lookup_many`."""
        entries: Mapping[str, Record] = yield Call(self._registry, "lookup_many", (session_ids,))
        unlisted = [each for each in session_ids if each not in entries]
        if not unlisted:
            return entries
        data: Mapping[str, Record] = yield Call(self._data, "lookup_many", (unlisted,))
        left = {key: each for key, each in data.items() if each.state is not State.LIVE}
        return {**entries, **left}

    def follow(self, base: Record, successor: str) -> Flow[Record | None]:
        """See `Storage.follow`."""
        return self.read(successor)

    # --- Creating --------------------------------------------------------------------------

    def create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        """See `Storage.create`."""
        try:
            return (yield from self._create(record, now))
        except CancelledError:
            yield from self._withdraw(record)
            raise

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        # The entry decides which of several requests creates the session.
        registered: Updated | Taken = yield Call(
            self._registry, "create", (without_payload(record), now)
        )
        if isinstance(registered, Taken):
            return (yield from self._take_over(record, now))
        if record.state is not State.LIVE and (yield from self._is_ahead()):
            yield from self._call_after_commit("delete", record.id)
            yield from self._call_after_commit("create", record, now)
            return registered
        created = yield from self._create_data(record, now)
        return created if isinstance(created, Taken) else combine_outcomes(created, registered)

    def _create_data(self, record: Record, now: int) -> Flow[Updated | Taken]:
        """Create the data for an entry that was just created; without the data, remove the entry.

        If the data is there already, either another request has taken over, or it was left over
        from an entry that was rolled back, or could not be removed with it.
        """
        try:
            created: Updated | Taken = yield Call(self._data, "create", (record, now))
            if isinstance(created, Updated):
                return created
            current: Record | None = yield Call(self._registry, "read", (record.id,))
            if current is None or current.version != record.version:
                return created
            yield Call(self._data, "delete", (record.id,))
            created = yield Call(self._data, "create", (record, now))
        except Exception:
            yield from self._withdraw(record)
            raise
        return created

    def _withdraw(self, record: Record) -> Flow[None]:
        """Remove the entry that was created for a record, unless another request has its own."""
        with suppress(StorageUnavailable):
            entry: Record | None = yield Call(self._registry, "read", (record.id,))
            if entry is not None and entry.version == record.version:
                yield Call(self._registry, "delete", (record.id,))

    def _take_over(self, record: Record, now: int) -> Flow[Updated | Taken]:
        """Create the data for an entry if the request that created the entry has stopped there."""
        entry: Record | None = yield Call(self._registry, "read", (record.id,))
        if entry is None or not entry.is_live(now) or record.state is not State.LIVE:
            return Taken()
        if (yield from self._is_ahead()):
            return Taken()  # The other request would not see before the commit that it lost.
        if (yield Call(self._data, "read", (record.id,))) is not None:
            return Taken()
        claim = msgspec.structs.replace(
            without_payload(record), version=next_version(entry.version)
        )
        claimed: Outcome = yield Call(self._registry, "update", (claim, entry, now))
        if not isinstance(claimed, Updated):
            return Taken()
        created: Updated | Taken = yield Call(self._data, "create", (record, now))
        return created if isinstance(created, Taken) else combine_outcomes(created, claimed)

    def issue(self, record: Record, now: int) -> Flow[Updated]:
        """See `Storage.issue`."""
        raise NotImplementedError

    # --- Updating --------------------------------------------------------------------------

    def update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        """See `Storage.update`."""
        if base.state is not State.LIVE:
            return (yield from self._replace_tombstone(record, base, now))
        entry = entry_of(base)
        if record.state is not State.LIVE and (yield from self._is_ahead()):
            if not (yield from self._supersede(entry, record, now)):
                return Gone()
            yield from self._end_data_after_commit(record, without_entry(base), now)
            return Updated(record, is_provisional=True)
        if (yield from self._is_ahead()):
            # If the session was ended in this transaction, its data is there until the commit.
            current: Record | None = yield Call(self._registry, "read", (base.id,))
            if current is None or current.expires <= now:
                return Gone()
            if current.state is not State.LIVE:
                return Conflict(current)
        outcome: Outcome = yield Call(self._data, "update", (record, without_entry(base), now))
        if isinstance(outcome, Conflict):
            return Conflict(with_entry(outcome.current, entry))
        if record.state is not State.LIVE and isinstance(outcome, Gone):
            return (yield from self._supersede_without_data(record, entry, now))
        if isinstance(outcome, Gone):
            return outcome
        if record.state is not State.LIVE:
            return outcome if (yield from self._supersede(entry, record, now)) else Gone()
        followed = yield from self._update_entry(record, entry, now)
        return Gone() if followed is None else combine_outcomes(outcome, followed)

    def _supersede_without_data(self, tombstone: Record, entry: Record, now: int) -> Flow[Outcome]:
        """Replace an entry whose data was lost, or is about to be stored by another request.

        If the entry were removed, a third request could migrate the session meanwhile, and what it
        saves would be replaced by the data of the second one.
        """
        if not (yield from self._supersede(entry, tombstone, now)):
            return Gone()
        # If the data is there by now, it does not count.
        yield Call(self._data, "create", (tombstone, now))
        return Updated(tombstone)

    def _update_entry(self, record: Record, entry: Record, now: int) -> Flow[Updated | None]:
        """Bring an entry up to date with a record that was saved.

        Return ``None`` if there is no entry.
        """
        while has_drifted(record, entry):
            successor = msgspec.structs.replace(
                without_payload(record), version=next_version(entry.version)
            )
            outcome: Outcome = yield Call(self._registry, "update", (successor, entry, now))
            if isinstance(outcome, Updated):
                return outcome
            if isinstance(outcome, Gone):
                return None
            if not outcome.current.is_live(now):
                # A rotation came after the data was saved, and has taken it along.
                is_rotated = bool(outcome.current.successor)
                return Updated(entry, is_rotated=True) if is_rotated else None
            entry = outcome.current
            if entry.last_activity > record.last_activity:
                break  # By a request that was saved later.
        return Updated(entry)

    def _replace_tombstone(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        """Replace a tombstone by another one."""
        if (yield from self._is_ahead()):
            # Until the commit, the tombstone in the data may lead to another id.
            yield from self._end_data_after_commit(record, base, now)
            return (yield from replace_tombstone(self._registry, record, base, now))
        left: Outcome = yield Call(self._data, "update", (record, base, now))
        if isinstance(left, Conflict) and left.current.state is not State.LIVE:
            # The registry's copy of the tombstone has a version of its own.
            yield Call(self._data, "update", (record, left.current, now))
        return (yield from replace_tombstone(self._registry, record, base, now))

    # --- Rotating --------------------------------------------------------------------------

    def rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        """See `Storage.rotate`."""
        try:
            return (yield from self._rotate(record, base, tombstone, now))
        except CancelledError:
            yield from self._settle_rotation(record, base, tombstone, now)
            raise

    def _settle_rotation(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[None]:
        """Make the entries agree with the data after a rotation was cancelled at any of its calls.

        In a transaction of the registry, that is left to the rollback.
        """
        if (yield from self._is_ahead()):
            return
        with suppress(StorageUnavailable, UnreadablePayload):
            if not (yield from was_rotated(self._data, record, base)):
                yield from self._withdraw(record)
                # The call that was cancelled may have gone on in its thread.
                if not (yield from was_rotated(self._data, record, base)):
                    return
                yield Call(self._registry, "create", (without_payload(record), now))
            if not (yield from self._supersede(entry_of(base), tombstone, now)):
                yield from self._withdraw_rotation(record, base, now)

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        entry = entry_of(base)
        registered: Updated | Taken = yield Call(
            self._registry, "create", (without_payload(record), now)
        )
        if isinstance(registered, Taken):
            return registered
        if (yield from self._is_ahead()):
            return (yield from self._rotate_ahead(record, base, tombstone, registered, now))
        try:
            outcome: Outcome | Taken = yield Call(
                self._data, "rotate", (record, without_entry(base), tombstone, now)
            )
        except Exception:
            if not (yield from was_rotated(self._data, record, base)):
                yield Call(self._registry, "delete", (record.id,))
                raise
            outcome = Updated(record)
        if isinstance(outcome, Updated):
            if (yield from self._supersede(entry, tombstone, now)):
                return combine_outcomes(outcome, registered)
            # The session was ended between the two steps, perhaps by a request that did not see
            # its new id.
            if (yield from self._withdraw_rotation(record, base, now)):
                return Gone()
            return msgspec.structs.replace(combine_outcomes(outcome, registered), is_rotated=True)
        yield Call(self._registry, "delete", (record.id,))
        if isinstance(outcome, Conflict):
            return Conflict(with_entry(outcome.current, entry))
        return outcome

    def _rotate_ahead(
        self, record: Record, base: Record, tombstone: Record, registered: Updated, now: int
    ) -> Flow[Outcome | Taken]:
        """Rotate in a transaction of the registry; the old data is superseded at its commit."""
        entry = entry_of(base)
        current: Record | None = yield Call(self._data, "read", (base.id,))
        outcome: Outcome | Taken = Gone()
        if current is not None and current.version != base.version:
            outcome = Conflict(with_entry(current, entry))
        elif current is not None:
            # The entry of the old id is replaced last: the caller may commit after a failure.
            outcome = yield from self._create_data(record, now)
            if isinstance(outcome, Updated):
                if (yield from self._supersede(entry, tombstone, now)):
                    step = partial(carry_over, self._data, current, tombstone, record.id)
                    yield from self._run_after_commit(record.id, step)
                    return combine_outcomes(outcome, registered)
                yield from self.delete(record.id)
                return Gone()
        yield Call(self._registry, "delete", (record.id,))
        return outcome

    def _supersede(self, entry: Record, tombstone: Record, now: int) -> Flow[bool]:
        """Replace the entry by a tombstone, whichever version of the entry is stored by now.

        Return whether the session goes on: its entry has gone if it was ended.
        """
        try:
            while True:
                outcome: Outcome = yield Call(self._registry, "update", (tombstone, entry, now))
                if isinstance(outcome, Updated):
                    return True
                if isinstance(outcome, Gone):
                    return False
                if not outcome.current.is_live(now):
                    # The same tombstone, if the answer to this call was lost.
                    successor = outcome.current.successor
                    return bool(successor) and successor == tombstone.successor
                entry = outcome.current
        except StorageUnavailable as error:
            # The session goes on under its new id, and the response must say so.
            logger.warning("Session %s stays listed until it expires: %s", entry.id, error)
            return True
