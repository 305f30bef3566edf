"""Records that a store keeps and compares by version, with their entries in the registry."""

from __future__ import annotations

import logging
from asyncio import CancelledError
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from ...core.flow import Call, Flow
from ...core.records import Record, State, next_version, next_version_for, without_payload
from ...exceptions import StorageUnavailable, UnreadablePayload
from ..base import Conflict, Gone, Outcome, Taken, Updated, was_rotated
from ..outcomes import Unconfirmed
from .entries import (
    combine_outcomes,
    entry_of,
    has_drifted,
    replace_tombstone,
    without_entry,
)
from .entry_creation import EntryCreation
from .entry_rotation import EntryRotation
from .late_saves import carry_over
from .pair import call_of

logger: Final = logging.getLogger("django_sessionstores")


class StoredRecords(EntryCreation, EntryRotation):
    """The operations of `RegisteredStorage` if the storage of the data compares versions itself.

    The entry follows the record: it knows the user, the client and the expiry.
    """

    def read(self, locator: str, method: str = "read") -> Flow[Record | None]:
        """See `Storage.read`. ``method`` is the method of both storages to read with."""
        record: Record | None = yield Call(self._data, method, (locator,))
        return None if record is None else (yield from self._registered(record, method))

    def follow(self, base: Record, successor: str) -> Flow[Record | None]:
        """See `Storage.follow`."""
        return self.read(successor)

    # --- Updating --------------------------------------------------------------------------

    def update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        """See `Storage.update`."""
        if base.state is not State.LIVE:
            return (yield from self._replace_tombstone(record, base, now))
        entry = entry_of(base)
        if record.state is not State.LIVE and (yield from self._is_ahead()):
            superseded = yield from self._supersede(entry, record, now)
            if not isinstance(superseded, Updated):
                return superseded
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
            return (yield from self._conflict(outcome.current, entry))
        if record.state is not State.LIVE and isinstance(outcome, Gone):
            return (yield from self._supersede_without_data(record, entry, now))
        if isinstance(outcome, Gone):
            return outcome
        if record.state is not State.LIVE:
            superseded = yield from self._supersede(entry, record, now)
            return outcome if isinstance(superseded, Updated) else superseded
        followed = yield from self._update_entry(record, entry, now)
        return Gone() if followed is None else combine_outcomes(outcome, followed)

    def _supersede_without_data(self, tombstone: Record, entry: Record, now: int) -> Flow[Outcome]:
        """Replace an entry whose data was lost, or is about to be stored by another request.

        If the entry were removed, a third request could migrate the session meanwhile, and what it
        saves would be replaced by the data of the second one.
        """
        superseded = yield from self._supersede(entry, tombstone, now)
        if not isinstance(superseded, Updated):
            return superseded
        # If the data is there by now, it does not count.
        yield Call(self._data, "create", (tombstone, now))
        return Updated(tombstone)

    def _update_entry(self, record: Record, entry: Record, now: int) -> Flow[Updated | None]:
        """Bring an entry up to date with a record that was saved.

        Return ``None`` if there is no entry.
        """
        while has_drifted(record, entry):
            successor = msgspec.structs.replace(
                without_payload(record),
                version=next_version_for(record, entry.version),
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
            yield from self._end_data_after_commit(record, base, now)
            return (yield from replace_tombstone(self._registry, record, base, now))
        left: Outcome = yield Call(self._data, "update", (record, base, now))
        if isinstance(left, Conflict) and left.current.state is not State.LIVE:
            # The registry's copy of the tombstone has a version of its own.
            yield Call(self._data, "update", (record, left.current, now))
        return (yield from replace_tombstone(self._registry, record, base, now))

    def _end_data_after_commit(self, tombstone: Record, base: Record, now: int) -> Flow[None]:
        """Replace the data of a session by a tombstone when the transaction commits.

        Whatever is there by then: the entry has a version of its own, and decides.
        """

        def replace() -> Flow[None]:
            current: Record | None = base
            while current is not None:
                outcome: Outcome = yield Call(self._data, "update", (tombstone, current, now))
                current = outcome.current if isinstance(outcome, Conflict) else None

        yield from self._run_after_commit(tombstone.id, replace)

    # --- Ending ----------------------------------------------------------------------------

    def delete(self, session_id: str) -> Flow[bool]:
        """See `Storage.delete`. The entry goes first: a session without an entry has ended."""
        had_entry: bool = yield Call(self._registry, "delete", (session_id,))
        if (yield from self._is_ahead()):
            yield from self._call_after_commit("delete", session_id)
        else:
            yield Call(self._data, "delete", (session_id,))
        return had_entry

    def end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        """See `Storage.end_many`."""
        ended: Collection[str] = yield Call(self._registry, "end_many", (session_ids,))
        # Whatever happens to the data, these sessions have ended, and the caller must know it.
        with suppress(StorageUnavailable):
            if (yield from self._is_ahead()):
                yield from self._run_after_commit(
                    session_ids[0], lambda: call_of(self._data, "end_many", session_ids)
                )
            else:
                yield Call(self._data, "end_many", (session_ids,))
        return ended

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
            if (yield from was_rotated(self._data, record, base)):
                yield from self._register_rotation(Updated(record), base, tombstone, now)

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        if (yield from self._is_ahead()):
            return (yield from self._rotate_ahead(record, base, tombstone, now))
        try:
            outcome: Outcome | Taken = yield Call(
                self._data, "rotate", (record, without_entry(base), tombstone, now)
            )
        except Exception:
            if not (yield from was_rotated(self._data, record, base)):
                raise
            outcome = Updated(record)
        if isinstance(outcome, Updated):
            return (yield from self._register_rotation(outcome, base, tombstone, now))
        if isinstance(outcome, Conflict):
            return (yield from self._conflict(outcome.current, entry_of(base)))
        return outcome

    def _register_rotation(
        self, outcome: Updated, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome]:
        """Let the entry follow the data, which the rotation with this outcome has replaced."""
        record, entry = outcome.record, entry_of(base)
        try:
            registered = yield from self._rotate_entry(record, entry, tombstone, now)
        except Unconfirmed:
            raise  # The registry has looked. Whoever meets the data later finds out.
        except Exception:
            if not (yield from was_rotated(self._registry, record, entry)):
                yield from self._undo_rotation(record, base, tombstone, now)
                raise
            registered = Updated(without_payload(record))
        if not isinstance(registered, Updated):
            yield Call(self._data, "delete", (record.id,))
            return registered
        return combine_outcomes(outcome, registered)

    def _undo_rotation(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[None]:
        """Let the data go on under the old id, because the registry has refused the new one."""
        with suppress(StorageUnavailable):
            restored = msgspec.structs.replace(
                without_entry(base), version=next_version(base.version), handle=None
            )
            outcome: Outcome = yield Call(self._data, "update", (restored, tombstone, now))
            if isinstance(outcome, Updated):
                yield Call(self._data, "delete", (record.id,))

    def _rotate_ahead(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        """Rotate in a transaction of the registry; the old data is superseded at its commit."""
        entry = entry_of(base)
        registered: Updated | Taken = yield Call(
            self._registry, "create", (without_payload(record), now)
        )
        if isinstance(registered, Taken):
            return registered
        current: Record | None = yield Call(self._data, "read", (base.id,))
        outcome: Outcome | Taken = Gone()
        if current is not None and current.version != base.version:
            outcome = yield from self._conflict(current, entry)
        elif current is not None:
            # The entry of the old id is replaced last: the caller may commit after a failure.
            outcome = yield from self._create_data(record, now)
            if isinstance(outcome, Updated):
                superseded = yield from self._supersede(entry, tombstone, now)
                if isinstance(superseded, Updated):
                    step = partial(carry_over, self._data, current, tombstone, record.id)
                    yield from self._run_after_commit(record.id, step)
                    return combine_outcomes(outcome, registered)
                # At once: a login may store a new session under this id, before the commit.
                yield Call(self._data, "delete", (record.id,))
                outcome = superseded
        yield Call(self._registry, "delete", (record.id,))
        return outcome
