"""Tests of a storage: purging expired records."""
# ruff: noqa: S101

from __future__ import annotations

from ....core.clock import now
from ....core.records import State
from ..values import DAY, HOUR, without_handle
from .case import StorageCase


class PurgeTests(StorageCase):
    """`Storage.purge`."""

    def test_purge_removes_what_has_expired_and_counts_it(self) -> None:
        """A purge removes and counts expired records and tombstones, and keeps live records."""
        dead = [self.create_record(expires=now() + HOUR) for _ in range(3)]
        live = self.create_record(expires=now() + DAY)
        tombstone = self.create_superseded()
        moment = now() + 2 * HOUR
        assert sum(self.purge_all(moment, 100)) == 4
        for record in [*dead, tombstone]:
            held = self.store.read(record.id)
            # A cache in front may still hold a copy whose own expiry has passed.
            assert held is None or held.expires <= moment
        assert without_handle(self.store.read(live.id)) == without_handle(live)

    def test_purge_works_in_batches(self) -> None:
        """One call of purge() removes at most one batch.

        A purge of millions at once would lock the store.
        """
        for _ in range(5):
            self.create_record(expires=now() + HOUR)
        answers = self.purge_all(now() + 2 * HOUR, 2)
        assert max(answers) <= 2
        assert sum(answers) == 5

    def test_purge_spares_what_was_touched(self) -> None:
        """A purge keeps a record whose expiry was moved by a touch.

        The expiry that counts is the one stored at that moment.
        """
        base = self.create_record(expires=now() + HOUR)
        self.store.touch(base, now() + DAY, now(), now())
        assert self.purge_all(now() + 2 * HOUR, 10) == [0]
        assert self.store.read(base.id).state is State.LIVE
