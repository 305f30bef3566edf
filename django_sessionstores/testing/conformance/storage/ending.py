"""Tests of a storage: deleting records, and the tombstones of ended and rotated ones."""
# ruff: noqa: S101

from __future__ import annotations

from unittest import SkipTest

from ....core.clock import now
from ....core.records import State, draw_key, session_id
from ....storages.base import Conflict, Updated
from ..values import HOUR, SUCCESSOR, successor
from .case import StorageCase


class DeletionTests(StorageCase):
    """`Storage.delete`."""

    def test_a_deleted_record_is_gone(self) -> None:
        """A deleted record reads as None or as the tombstone of an ended session.

        This is a logout.
        """
        base = self.create_record()
        self.store.delete(base.id)
        self.assert_gone(base.id)

    def test_deleting_what_does_not_exist_does_not_raise(self) -> None:
        """Deleting a record that does not exist does not raise.

        A user may log out twice, or after the session has expired.
        """
        base = self.create_record()
        for _ in range(2):
            self.store.delete(base.id)
        self.store.delete(session_id(draw_key()))

    def test_delete_of_an_expired_record_tells_that_it_was_not_live(self) -> None:
        """delete() removes an expired record and returns False.

        The expiry has ended that session, and no signal may tell another reason.
        """
        moment = now()
        record = self.new_record(expires=moment - 2000)
        self.store.create(record, moment - HOUR)
        assert self.store.delete(record.id) is False
        held = self.store.read(record.id)
        assert held is None or held.state is not State.LIVE

    def test_update_does_not_revive_a_deleted_record(self) -> None:
        """A save that finishes after a logout does not bring the record back."""
        base = self.create_record()
        self.store.delete(base.id)
        assert not isinstance(self.store.update(successor(base), base, now()), Updated)
        self.assert_gone(base.id)

    def test_touch_does_not_revive_a_deleted_record(self) -> None:
        """A touch that finishes after a logout does not bring the record back."""
        base = self.create_record()
        self.store.delete(base.id)
        self.store.touch(base, base.expires + HOUR, now(), now())
        self.assert_gone(base.id)


class BatchTests(StorageCase):
    """`Storage.end_many`."""

    def test_many_end_at_once(self) -> None:
        """end_many() ends the sessions with these ids and no other, and names the live ones.

        The caller counts them, and follows the others to their new ids.
        """
        records = [self.create_record() for _ in range(5)]
        tombstone, kept = self.create_superseded(), self.create_record()
        ids = [each.id for each in records]
        unknown = session_id(draw_key())
        ended = self.store.end_many([tombstone.id, *ids, unknown])
        assert sorted(ended) == sorted(ids)
        for each in ids:
            self.assert_gone(each)
        assert self.store.read(tombstone.id).state is State.SUPERSEDED
        assert self.store.read(kept.id).state is State.LIVE
        assert not self.store.end_many(ids)
        assert self.store.end_many([kept.id])

    def test_update_does_not_revive_one_of_many(self) -> None:
        """A save that finishes after many sessions have ended does not bring its record back."""
        records = [self.create_record() for _ in range(3)]
        self.store.end_many([each.id for each in records])
        for base in records:
            assert not isinstance(self.store.update(successor(base), base, now()), Updated)
            self.store.touch(base, base.expires + HOUR, now(), now())
            self.assert_gone(base.id)

    def test_those_that_ended_among_many_are_not_listed(self) -> None:
        """Lists and counts of users do not have sessions that ended at once."""
        if not self.storage.lists:
            raise SkipTest("The storage does not list sessions.")
        ids = [self.create_record(user_id="ending").id for _ in range(3)]
        assert self.store.count(now(), "ending") == 3
        self.store.end_many(ids[:2])
        assert self.store.count(now(), "ending") == 1
        assert [each.id for each in self.store.scan("", 10, "ending").records] == ids[2:]


class TombstoneTests(StorageCase):
    """Tombstones, which the other methods of a storage must keep."""

    def test_a_tombstone_reads_as_one(self) -> None:
        """A tombstone is read back with its state and its successor.

        They distinguish a request with the old key from a request with an unknown key.
        """
        held = self.store.read(self.create_superseded().id)
        assert held.state is State.SUPERSEDED
        assert held.successor == SUCCESSOR

    def test_update_does_not_replace_a_tombstone(self) -> None:
        """Updating a superseded record conflicts with its tombstone.

        Otherwise a late save would make the old key resolve to a session again.
        """
        base = self.create_superseded()
        outcome = self.store.update(successor(base), base, now())
        assert isinstance(outcome, Conflict)
        assert outcome.current.state is State.SUPERSEDED

    def test_touch_does_not_replace_a_tombstone(self) -> None:
        """Touching a superseded record leaves its tombstone in place.

        Otherwise a late touch would make the old key resolve to a session again.
        """
        base = self.create_superseded()
        self.store.touch(base, base.expires + HOUR, now(), now())
        assert self.store.read(base.id).state is State.SUPERSEDED

    def test_delete_tells_whether_there_was_a_session(self) -> None:
        """delete() returns True only if it deleted a live session.

        A rotated session goes on under another id, and the caller must know that it was not ended.
        """
        record, tombstone = self.create_record(), self.create_superseded()
        assert self.store.delete(tombstone.id) is False
        assert self.store.delete(record.id) is True
        assert self.store.delete(record.id) is False

    def test_a_tombstone_stays_and_leads_on(self) -> None:
        """A tombstone survives delete() and still names its successor.

        Ending a session by its old id finds the session under its new id this way.
        """
        tombstone = self.create_superseded()
        self.store.delete(tombstone.id)
        held = self.store.lookup(tombstone.id)
        assert held.state is State.SUPERSEDED
        assert held.successor == SUCCESSOR
