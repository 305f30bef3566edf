"""Tests of a storage: listing, counting and looking up sessions."""
# ruff: noqa: S101

from __future__ import annotations

from unittest import SkipTest

import msgspec

from ....core.clock import now
from ....core.records import Record, State, draw_key, session_id
from ....storages.base import Updated
from ..values import DAY, HOUR
from .case import StorageCase


class ListingTests(StorageCase):
    """`Storage.scan`, `Storage.count` and `Storage.lookup`."""

    def test_scan_pages_through_all_sessions(self) -> None:
        """Scanning returns each session once, without its payload, for any page size.

        The size of the payload is right, or None if the storage does not know it.
        """

        def without_payload(record: Record) -> Record:
            return msgspec.structs.replace(record, payload=b"", handle=None, size=None)

        stored = [self.create_record(expires=now() + HOUR + n) for n in range(5)]
        sizes = {record.id: len(record.payload) for record in stored}
        for limit in (1, 2, 5, 100):
            found = self.scan_all(limit=limit)
            assert len(found) == len(stored), limit
            assert set(map(without_payload, stored)) == set(map(without_payload, found))
            for record in found:
                assert record.payload == b""
                assert record.size in {None, sizes[record.id]}

    def test_lists_tell_where_a_session_began(self) -> None:
        """Scans and lookups return the same lineage for a session after each rotation.

        A session that rotates is thereby counted once.
        """
        first = self.create_record(origin="")
        record, _ = self.rotate(first, origin=first.id)
        again = self.update_record(self.store.read(record.id), payload=b"saved")
        assert again.lineage == self.store.lookup(again.id).lineage == first.id
        assert [(each.id, each.lineage) for each in self.scan_all()] == [(again.id, first.id)]

    def test_scan_shows_no_tombstones(self) -> None:
        """Scanning leaves out tombstones. A rotated session would otherwise be listed twice."""
        tombstone = self.create_superseded()
        assert tombstone.id not in {record.id for record in self.scan_all()}

    def test_scan_shows_no_deleted_session(self) -> None:
        """Scanning leaves out deleted sessions.

        A user who has just ended a session must not find it again.
        """
        record, other = self.create_record(), self.create_record()
        self.store.delete(record.id)
        assert [each.id for each in self.scan_all()] == [other.id]

    def test_scan_of_a_user(self) -> None:
        """Scanning by user returns only the sessions of that user.

        Anonymous sessions belong to nobody.
        """
        mine = {self.create_record(user_id="7").id for _ in range(3)}
        for user_id in ("8", "77", None):
            self.create_record(user_id=user_id)
        assert {record.id for record in self.scan_all("7")} == mine
        assert self.scan_all("9") == []

    def test_scan_tells_users_apart(self) -> None:
        """Scanning by user compares user ids exactly, including case, accents and spaces.

        With a database that ignores case, a user could end the sessions of others.
        """
        users = ("ab", "AB", "ab ", "\u00e1b", "a%", "a_")
        stored = {user_id: self.create_record(user_id=user_id).id for user_id in users}
        for user_id, record_id in stored.items():
            assert [record.id for record in self.scan_all(user_id)] == [record_id]
            assert self.store.count(now(), user_id) == 1

    def test_scan_knows_the_user_of_a_rotated_session(self) -> None:
        """A session that a login has rotated is listed for the user under its new id."""
        record, outcome = self.rotate(self.create_record(user_id=None), user_id="7")
        assert isinstance(outcome, Updated)
        assert [each.id for each in self.scan_all("7")] == [record.id]

    def test_scan_knows_the_user_of_an_updated_session(self) -> None:
        """A session whose user changes is listed for the new user only."""
        record = self.update_record(self.create_record(user_id="7"), user_id="8")
        assert self.scan_all("7") == []
        assert [each.id for each in self.scan_all("8")] == [record.id]

    def test_count(self) -> None:
        """Counting includes live sessions only, and neither tombstones nor expired sessions."""
        if not self.storage.lists:
            raise SkipTest("The storage cannot list its sessions.")
        for user_id in ("7", "7", None):
            self.create_record(user_id=user_id)
        self.create_superseded()
        assert (self.store.count(now(), None), self.store.count(now(), "7")) == (3, 2)
        assert self.store.count(now() + 2 * DAY, None) == 0

    def test_lookup(self) -> None:
        """A lookup by id returns the session. Callers without a key depend on it."""
        record = self.create_record(user_id="7")
        held = self.store.lookup(record.id)
        assert (held.id, held.user_id, held.expires) == (record.id, "7", record.expires)
        assert self.store.lookup(session_id(draw_key())) is None

    def test_lookup_many(self) -> None:
        """A lookup of several ids returns what lookups of each return, without payloads."""
        sessions = [self.create_record(user_id="7"), self.create_record(user_id=None)]
        tombstone = self.create_superseded()
        ids = [*(each.id for each in sessions), tombstone.id, session_id(draw_key())]
        found = self.store.lookup_many(ids)
        assert found.keys() == {each for each in ids if self.store.lookup(each) is not None}
        assert set(ids[:2]) <= found.keys()
        for each in found.values():
            held = self.store.lookup(each.id)
            assert (each.state, each.user_id, each.expires) == (
                held.state,
                held.user_id,
                held.expires,
            )
            assert each.successor == held.successor
            assert held.state is not State.LIVE or not each.payload
        assert self.store.lookup_many([]) == {}
