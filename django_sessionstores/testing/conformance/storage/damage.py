"""Tests of a storage: records that cannot be read, such as those of a damaged disk."""
# ruff: noqa: S101

from __future__ import annotations

from contextlib import suppress

from ....core.clock import now
from ....core.records import Record, State
from ....exceptions import UnreadablePayload
from ....storages.base import LITTER_AGE
from ..values import DAY, HOUR
from .case import StorageCase


class DamageTests(StorageCase):
    """What the methods of a storage do with a record that cannot be read."""

    def create_damaged(self) -> Record:
        """Create a record, damage it in the store, and return it as it was before."""
        record = self.create_record(expires=now() + HOUR)
        self.damage(record.id)
        return record

    def test_reading_a_damaged_record_raises_no_other_error(self) -> None:
        """A damaged record reads as a record, or raises `UnreadablePayload`.

        The visitor then begins a new session. Any other error would be one of the site.
        """
        damaged = self.create_damaged()
        with suppress(UnreadablePayload):
            self.store.read(damaged.id)

    def test_a_damaged_record_is_deleted(self) -> None:
        """delete() removes a damaged record without an error, because the session must end."""
        damaged = self.create_damaged()
        self.store.delete(damaged.id)
        self.assert_gone(damaged.id)

    def test_a_damaged_record_among_many_is_deleted(self) -> None:
        """end_many() ends the sessions beside a damaged one, and removes that one too."""
        one, damaged, other = self.create_record(), self.create_damaged(), self.create_record()
        ended = self.store.end_many([one.id, damaged.id, other.id])
        assert {one.id, other.id} <= set(ended) <= {one.id, damaged.id, other.id}
        for each in (one, damaged, other):
            self.assert_gone(each.id)

    def test_a_damaged_record_stops_no_list(self) -> None:
        """Lists, counts and summaries have the sessions beside a damaged one.

        Otherwise nobody could list or end sessions any more, and neither could a session limit or a
        change of a password. The damaged one is listed, or it is left out.
        """
        one, damaged, other = self.create_record(), self.create_damaged(), self.create_record()
        all_of_them = {one.id, damaged.id, other.id}
        for user_id in ("7", None):
            listed = [each.id for each in self.scan_all(user_id)]
            assert {one.id, other.id} <= set(listed) <= all_of_them
            assert len(set(listed)) == len(listed)
            assert 2 <= self.store.count(now(), user_id) <= 3
        assert {one.id, other.id} <= set(self.store.lookup_many(list(all_of_them)))
        assert 2 <= self.store.summarize(now(), 10).live <= 3
        self.store.end_many(listed)
        assert set(listed).isdisjoint(each.id for each in self.scan_all())

    def test_a_damaged_record_is_purged_with_the_others(self) -> None:
        """A purge removes a damaged record too, and what has expired beside it.

        Otherwise it would stop every purge, or stay for ever.
        """
        dead = [self.create_record(expires=now() + HOUR)]
        self.create_damaged()
        dead.append(self.create_record(expires=now() + HOUR))
        live = self.create_record(expires=now() + DAY)
        moment = now() + 2 * HOUR
        purged = sum(self.purge_all(moment, 10))
        assert 2 <= purged <= 3
        for each in dead:
            held = self.store.read(each.id)
            # A cache in front may still hold a copy whose own expiry has passed.
            assert held is None or held.expires <= moment
        assert self.store.read(live.id).state is State.LIVE
        # The store may not be able to tell its site.
        assert purged + sum(self.purge_all(now() + DAY + LITTER_AGE, 10)) == 4
