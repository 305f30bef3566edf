"""Tests of a cache that keeps copies of the records of another storage."""
# ruff: noqa: S101

from __future__ import annotations

from typing import Any
from unittest import SkipTest

from ....core.clock import now
from ....core.records import Record, State, make_tombstone
from ....storages.base import CacheStorage
from ..values import HOUR, successor
from .case import StorageCase


class CopyTests(StorageCase):
    """`CacheStorage.fill` and `CacheStorage.leave_tombstone`; skipped for other storages."""

    @property
    def cache(self) -> Any:
        """Return the storage under test; skip the test if it is not a cache for copies."""
        if not isinstance(self.storage, CacheStorage):
            raise SkipTest("The storage is not a CacheStorage.")
        return self.store

    def fill_copy(self, **fields: Any) -> Record:
        """Fill the cache with a copy of another storage's record, and return that record."""
        record = self.new_record(**{"version": 3, **fields})
        self.cache.fill(record, now() + HOUR, now())
        return record

    def test_a_copy_reads_like_the_record(self) -> None:
        """A copy reads like the record that it was made from.

        The cache must serve the same data as the database.
        """
        record = self.fill_copy()
        held = self.store.read(record.id)
        assert (held.payload, held.version, held.user_id, held.state) == (
            *(record.payload, record.version, record.user_id, record.state),
        )

    def test_a_copy_does_not_replace_a_newer_one(self) -> None:
        """Filling the cache with an older version keeps the newer copy.

        A slow reader may fill the cache after a writer has filled it.
        """
        record = self.fill_copy()
        self.cache.fill(successor(record, version=2, payload=b"old"), now() + HOUR, now())
        assert self.store.read(record.id).payload == record.payload

    def test_a_copy_replaces_an_older_one(self) -> None:
        """Filling the cache with a newer version replaces the copy.

        Otherwise the reads after a save would be stale.
        """
        record = self.fill_copy()
        self.cache.fill(successor(record, payload=b"new"), now() + HOUR, now())
        assert self.store.read(record.id).payload == b"new"

    def test_a_copy_does_not_replace_a_tombstone(self) -> None:
        """Filling the cache does not replace a tombstone.

        A logout may happen while a reader is on its way from the database to the cache.
        """
        record = self.fill_copy()
        self.cache.leave_tombstone(
            make_tombstone(record.id, State.ENDED, now=now(), seconds=60), now()
        )
        self.cache.fill(successor(record), now() + HOUR, now())
        assert self.store.read(record.id).state is State.ENDED

    def test_a_tombstone_is_stored_even_without_a_copy(self) -> None:
        """A tombstone is stored even if the cache does not hold a copy.

        A reader may be about to fill the cache.
        """
        record = self.new_record(version=3)
        self.cache.leave_tombstone(
            make_tombstone(record.id, State.SUPERSEDED, now=now(), seconds=60), now()
        )
        self.cache.fill(record, now() + HOUR, now())
        assert self.store.read(record.id).state is State.SUPERSEDED
