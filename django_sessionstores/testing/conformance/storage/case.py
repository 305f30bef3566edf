"""The base of the storage tests: the storage under test and its records."""
# ruff: noqa: S101

from __future__ import annotations

from typing import Any, ClassVar
from unittest import SkipTest

from ....core.clock import now
from ....core.records import Record, State, draw_key, make_tombstone, session_id
from ....exceptions import StorageUnavailable
from ....storages.base import Storage, Updated
from ..execution import Twin
from ..neutral_settings import NeutralSettings
from ..values import HOUR, NONCE, ORIGIN, SUCCESSOR, successor


class StorageCase(NeutralSettings):
    """A storage under test and the records that the tests put into it."""

    storage: Storage
    """The storage under test, which the subclass sets."""
    awaited: ClassVar[bool] = False
    """Whether the tests call the async twins of the storage's methods."""

    @property
    def store(self) -> Any:
        """Return the storage under test, called by blocking or awaited methods."""
        if self.storage.holds_in_key:
            raise SkipTest("The keys hold the records, so there is no store to test.")
        return Twin(self.storage, self.awaited)

    def damage(self, session_id: str) -> None:
        """Replace what the store has under this id by bytes that are not a record.

        A subclass does this past the storage, if it can. If it does not, the tests of damaged
        records are skipped.
        """
        raise SkipTest("The test class has no method damage(), so no record can be damaged.")

    def new_record(self, **fields: Any) -> Record:
        """Return a record as a session makes it, which is not stored yet.

        ``fields`` replace its default values.
        """
        moment = now()
        values: dict[str, Any] = {
            "id": session_id(draw_key()),
            "payload": bytes(range(256)),
            "user_id": "7",
            "created": moment - 2,
            "last_activity": moment - 1,
            "expires": moment + HOUR,
            "ip": "2001:db8::1",
            "user_agent": "Browsér/1.0 (😀)",
            "origin": ORIGIN,
            "site": self.storage.sites()[0],
            **fields,
        }
        return Record(**values)

    def create_record(self, **fields: Any) -> Record:
        """Create a record in the store and return it as the store reads it."""
        record = self.new_record(**fields)
        assert isinstance(self.store.create(record, now()), Updated)
        held = self.store.read(record.id)
        assert isinstance(held, Record)
        return held

    def update_record(self, base: Record, **changes: Any) -> Record:
        """Update a record and return the outcome's record; the update must succeed."""
        outcome = self.store.update(successor(base, **changes), base, now())
        assert isinstance(outcome, Updated), outcome
        return outcome.record

    def try_write(self, record: Record, base: Record | None = None) -> Any:
        """Create or update a record among other threads and return the outcome.

        A store may refuse a write in a contest, for example because of a deadlock. It must then
        raise `StorageUnavailable`, which is returned as the outcome.
        """
        try:
            if base is None:
                return self.store.create(record, now())
            return self.store.update(record, base, now())
        except StorageUnavailable as busy:
            return busy

    def create_superseded(self, state: State = State.SUPERSEDED) -> Record:
        """Create a record, replace it by a tombstone, and return it as it was before."""
        base = self.create_record()
        tombstone = make_tombstone(base.id, state, now=now(), seconds=60, successor=SUCCESSOR)
        assert isinstance(self.store.update(tombstone, base, now()), Updated)
        return base

    def rotate(self, base: Record, **fields: Any) -> tuple[Record, Any]:
        """Rotate a session; return the record under its new id and the storage's outcome."""
        record = self.new_record(payload=b"rotated", **fields)
        links: dict[str, Any] = {"of": base, "successor": record.id, "nonce": NONCE}
        tombstone = make_tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60, **links)
        return record, self.store.rotate(record, base, tombstone, now())

    def scan_all(self, user_id: str | None = None, limit: int = 2) -> list[Record]:
        """Return the records of all pages of a scan."""
        if not self.storage.lists:
            raise SkipTest("The storage cannot list its sessions.")
        found, cursor = [], ""
        for _ in range(1000):
            records, cursor = self.store.scan(cursor, limit, user_id)
            assert len(records) <= limit
            found += records
            if not cursor:
                return found
        raise AssertionError("The scan does not end.")

    def purge_all(self, moment: int, batch: int) -> list[int]:
        """Purge until nothing is left to do, and return the count of each call."""
        if self.storage.self_expiring:
            raise SkipTest("The store removes expired records by itself.")
        answers = [self.store.purge(moment, batch)]
        while answers[-1] and len(answers) < 100:
            answers.append(self.store.purge(moment, batch))
        return answers

    def assert_gone(self, record_id: str) -> None:
        """Check that an id reads as None or as the tombstone of an ended session."""
        held = self.store.read(record_id)
        assert held is None or held.state is State.ENDED, held
