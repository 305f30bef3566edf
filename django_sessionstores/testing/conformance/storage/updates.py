"""Tests of a storage: updating and touching records."""
# ruff: noqa: S101

from __future__ import annotations

import os
from functools import partial
from unittest import SkipTest

import msgspec

from ....core.clock import now
from ....core.records import State, make_tombstone
from ....exceptions import PayloadTooLarge
from ....storages.base import Conflict, Updated
from ..execution import in_threads
from ..failures import raises
from ..values import HOUR, successor, without_handle
from .case import StorageCase


class UpdateTests(StorageCase):
    """`Storage.update`, the compare-and-set of a save."""

    def test_update_stores_the_next_version(self) -> None:
        """An update replaces every field of the record, including the user."""
        base = self.create_record()
        record = self.new_record(id=base.id, version=2, payload=b"next", user_id="8")
        outcome = self.store.update(record, base, now())
        assert isinstance(outcome, Updated)
        assert without_handle(self.store.read(base.id)) == record

    def test_update_after_update_needs_no_read(self) -> None:
        """The record that an update returns can be updated again without a read.

        Its handle must be current. Otherwise the second save of a request would conflict.
        """
        base = self.create_record()
        second = self.update_record(base, payload=b"2")
        assert self.update_record(second, payload=b"3").version == base.version + 2

    def test_update_of_a_previous_version_brings_the_current_one(self) -> None:
        """Updating a previous version changes nothing and returns the current record.

        Otherwise an update would be lost. The merge needs the current record.
        """
        base = self.create_record()
        winner = self.update_record(base, payload=b"winner")
        outcome = self.store.update(successor(base, payload=b"loser"), base, now())
        assert isinstance(outcome, Conflict)
        assert without_handle(outcome.current) == without_handle(winner)
        assert self.store.read(base.id).payload == b"winner"

    def test_the_record_of_a_conflict_can_be_updated(self) -> None:
        """The record that a Conflict carries can be updated.

        Its handle must be current. Otherwise a contested save would never end.
        """
        base = self.create_record()
        self.update_record(base, payload=b"winner")
        current = self.store.update(successor(base), base, now()).current
        assert self.update_record(current, payload=b"merged").payload == b"merged"

    def test_update_of_an_absent_record_does_nothing(self) -> None:
        """Updating an absent record does not create it.

        A save after a logout must not bring the session back.
        """
        absent = self.new_record()
        assert not isinstance(self.store.update(successor(absent), absent, now()), Updated)
        assert self.store.read(absent.id) is None

    def test_update_of_an_expired_record_does_nothing(self) -> None:
        """Updating an expired record does not revive it, even before it is purged."""
        base = self.create_record()
        late = base.expires + 1
        revived = successor(base, expires=late + HOUR)
        assert not isinstance(self.store.update(revived, base, late), Updated)

    def test_update_by_a_tombstone_without_a_lifetime_removes_the_record(self) -> None:
        """An update by a tombstone whose ``expires`` is 0 removes the version that the caller has
        seen, and the id can be used again.

        Otherwise a session that was moved to another backend could not be moved back.
        """
        base = self.create_record()
        winner = self.update_record(base, payload=b"winner")
        removal = make_tombstone(base.id, State.ENDED, now=0, seconds=0)
        assert isinstance(self.store.update(removal, base, now()), Conflict)
        assert isinstance(self.store.update(removal, winner, now()), Updated)
        self.assert_gone(base.id)
        again = self.new_record(id=base.id)
        assert isinstance(self.store.create(again, now()), Updated)
        assert without_handle(self.store.read(base.id)) == again

    def test_of_simultaneous_updates_one_succeeds(self) -> None:
        """If several threads update the same version, exactly one succeeds.

        Compare-and-set must be atomic: the promise that no update is lost depends on it.
        """
        base = self.create_record()
        for _ in range(5):
            records = [successor(base, payload=bytes([n])) for n in range(4)]
            outcomes = in_threads([partial(self.try_write, record, base) for record in records])
            (winner,) = [o.record for o in outcomes if isinstance(o, Updated)]
            held = self.store.read(base.id)
            assert (held.version, held.payload) == (base.version + 1, winner.payload)
            base = held

    def test_a_payload_over_the_limit_is_refused(self) -> None:
        """A payload over max_payload raises PayloadTooLarge and changes nothing.

        A truncated payload would lose the session.
        """
        limit = self.storage.max_payload
        if limit is None:
            raise SkipTest("The storage does not declare max_payload.")
        base = self.create_record(payload=b"small")
        record = successor(base, payload=os.urandom(limit + 64 * 1024))
        with raises(PayloadTooLarge):
            self.store.update(record, base, now())
        assert self.store.read(base.id).payload == b"small"


class TouchTests(StorageCase):
    """`Storage.touch`, which moves the expiry of a session in use."""

    def test_touch_moves_the_times_and_nothing_else(self) -> None:
        """Touching changes the expiry and the last activity, and nothing else.

        A touch that rewrote the payload would undo a save made in the meantime.
        """
        base = self.create_record()
        expires, active = base.expires + HOUR, base.last_activity + 5
        self.store.touch(base, expires, active, now())
        moved = msgspec.structs.replace(base, expires=expires, last_activity=active)
        assert without_handle(self.store.read(base.id)) == without_handle(moved)

    def test_touch_of_an_absent_record_creates_nothing(self) -> None:
        """Touching an absent record does not create it.

        A request that read the session before a logout may touch it after the logout.
        """
        absent = self.new_record()
        self.store.touch(absent, absent.expires + HOUR, now(), now())
        assert self.store.read(absent.id) is None

    def test_touch_of_a_previous_version_does_nothing(self) -> None:
        """Touching a previous version changes nothing.

        A save in the meantime may have set a shorter lifetime, which must hold.
        """
        base = self.create_record()
        saved = self.update_record(base, expires=base.expires - HOUR // 2)
        self.store.touch(base, base.expires + HOUR, now(), now())
        assert without_handle(self.store.read(base.id)) == without_handle(saved)

    def test_touch_of_an_expired_record_does_not_revive_it(self) -> None:
        """Touching an expired record does not revive it, even before it is purged."""
        base = self.create_record()
        late = base.expires + 1
        self.store.touch(base, late + HOUR, late, late)
        held = self.store.read(base.id)
        assert held is None or held.expires <= late

    def test_update_after_touch_keeps_what_it_saves(self) -> None:
        """A save succeeds even if another request has touched the session since the load.

        If a touch changes the handle, the storage may first return a Conflict with the same
        version.
        """
        base = self.create_record()
        self.store.touch(base, base.expires + HOUR, now(), now())
        outcome = self.store.update(successor(base, payload=b"saved"), base, now())
        if isinstance(outcome, Conflict):  # Allowed if a touch changes the handle.
            assert outcome.current.version == base.version
            self.update_record(outcome.current, payload=b"saved")
        assert self.store.read(base.id).payload == b"saved"
