"""Tests of a storage: rotating a session, which moves it to a new id."""
# ruff: noqa: S101

from __future__ import annotations

from ....core.records import State
from ....storages.base import Conflict, Taken, Updated
from ..execution import in_threads
from ..values import NONCE, without_handle
from .case import StorageCase


class RotationTests(StorageCase):
    """`Storage.rotate`."""

    def test_rotate_moves_the_session_to_its_new_id(self) -> None:
        """After a rotation, the new id reads as the session and the old id as superseded.

        A login rotates a session.
        """
        base = self.create_record(user_id=None)
        record, outcome = self.rotate(base)
        assert isinstance(outcome, Updated)
        assert without_handle(outcome.record) == record
        assert without_handle(self.store.read(record.id)) == record
        assert self.store.read(base.id).state is State.SUPERSEDED

    def test_a_rotation_leaves_a_tombstone_that_leads_to_the_new_id(self) -> None:
        """The tombstone of a rotation names the new id, the user and the time of creation.

        A request with the old key finds the new id through it, and so does a caller that ends the
        session. The nonce takes the place of the version. The user and the time of creation tell
        whose session it was.
        """
        base = self.create_record(user_id="8")
        record, _ = self.rotate(base, user_id="8")
        for held in (self.store.read(base.id), self.store.lookup(base.id)):
            assert (held.state, held.successor) == (State.SUPERSEDED, record.id)
            assert (held.version, held.user_id, held.created) == (NONCE, "8", base.created)

    def test_delete_keeps_the_tombstone_of_a_rotation(self) -> None:
        """Deleting the old id of a rotated session keeps its tombstone.

        The tombstone leads a caller that ends the session by its old id to the new id.
        """
        base = self.create_record()
        record, _ = self.rotate(base)
        assert self.store.delete(base.id) is False
        assert self.store.lookup(base.id).successor == record.id
        assert self.store.read(record.id).state is State.LIVE

    def test_a_rotated_record_can_be_updated(self) -> None:
        """The record that a rotation returns can be updated without a read.

        Its handle must be current.
        """
        _, outcome = self.rotate(self.create_record())
        self.update_record(outcome.record, payload=b"saved")

    def test_rotate_over_a_newer_version_does_nothing(self) -> None:
        """Rotating a previous version returns a Conflict and changes nothing.

        Otherwise the save made in the meantime would be missing from the new session.
        """
        base = self.create_record()
        winner = self.update_record(base, payload=b"winner")
        record, outcome = self.rotate(base)
        assert isinstance(outcome, Conflict)
        assert without_handle(outcome.current) == without_handle(winner)
        self.assert_gone(record.id)
        assert without_handle(self.store.read(base.id)) == without_handle(winner)

    def test_a_rotation_that_was_refused_can_be_done_with_the_same_id(self) -> None:
        """A rotation that met a newer version succeeds with that version and the same new id.

        The session may have told its new key already, and must not need another one.
        """
        base = self.create_record()
        winner = self.update_record(base, payload=b"winner")
        record, refused = self.rotate(base)
        assert isinstance(refused, Conflict)
        again, outcome = self.rotate(refused.current, id=record.id)
        assert isinstance(outcome, Updated)
        assert without_handle(self.store.read(record.id)) == again
        assert self.store.read(base.id).successor == record.id
        assert without_handle(refused.current) == without_handle(winner)

    def test_rotate_over_a_deleted_record_does_nothing(self) -> None:
        """Rotating a deleted record creates nothing.

        A new key must not bring back a session that was logged out.
        """
        base = self.create_record()
        self.store.delete(base.id)
        record, outcome = self.rotate(base)
        assert not isinstance(outcome, Updated)
        self.assert_gone(record.id)
        self.assert_gone(base.id)

    def test_rotate_to_a_taken_id_does_nothing(self) -> None:
        """Rotating to an id in use returns Taken and changes neither record."""
        base, other = self.create_record(), self.create_record()
        _, outcome = self.rotate(base, id=other.id)
        assert isinstance(outcome, Taken)
        assert without_handle(self.store.read(other.id)) == without_handle(other)
        assert without_handle(self.store.read(base.id)) == without_handle(base)

    def test_of_simultaneous_rotations_one_succeeds(self) -> None:
        """If several threads rotate the same record, exactly one succeeds.

        Two live sessions from one login would need two logouts.
        """
        base = self.create_record()
        outcomes = in_threads([lambda: self.rotate(base) for _ in range(4)])
        (winner,) = [record for record, said in outcomes if isinstance(said, Updated)]
        for record, _ in outcomes:
            if record.id == winner.id:
                assert self.store.read(record.id).state is State.LIVE
            else:
                self.assert_gone(record.id)
