"""Tests of an engine: `cycle_key`, which a login calls."""
# ruff: noqa: S101

from __future__ import annotations

from ....core.clock import now
from ....exceptions import SessionEnded
from ..failures import raises
from ..observation import observed
from ..values import HOUR, at
from .case import EngineCase


class RotationTests(EngineCase):
    """The keys, the data and the lineage of a session that rotates."""

    def test_cycle_key_keeps_the_data_and_ends_the_old_key(self) -> None:
        """After a login, the new key holds the data and the old key reads as empty.

        Anyone who knows the key from before the login must be left with nothing.
        """
        self.skip_unless_authoritative()
        key = self.create_session(color="blue")
        session = self.session(key)
        self.log_in(session)
        session.save()
        assert self.data(session.session_key)["color"] == "blue"
        assert self.data(key) == {}

    def test_cycle_key_twice_leaves_one_session(self) -> None:
        """Calling cycle_key() twice before a save leaves one session.

        The key in between was never handed out and must never be stored.
        """
        self.skip_unless_authoritative()
        key = self.create_session()
        session = self.session(key)
        session.cycle_key()
        between = session.session_key
        session.cycle_key()
        session.save()
        assert self.data(key) == self.data(between) == {}
        assert self.data(session.session_key) == {"color": "blue"}

    def test_cycle_key_of_an_unsaved_session_stores_one_record(self) -> None:
        """A login without a cookie makes one write."""
        session = self.session()
        with observed(self.storage) as calls:
            self.log_in(session)
            session.save()
        assert calls == ["create"]

    def test_cycle_key_does_not_revive_a_deleted_session(self) -> None:
        """Rotating a session that another request has deleted raises SessionEnded.

        A user may log out while another request of the user rotates the key.
        """
        self.skip_unless_authoritative()
        key = self.create_session(_auth_user_id="7")
        session = self.session(key)
        session.get("x")
        self.session(key).delete(key)
        with raises(SessionEnded):
            session.cycle_key()
            session.save()
        assert self.data(key) == self.data(session.session_key) == {}

    def test_a_rotated_session_keeps_its_lineage(self) -> None:
        """A session keeps its lineage when it rotates.

        Lists and limits recognise a session by its lineage, whatever its current id.
        """
        self.skip_unless_authoritative()
        session = self.session(self.create_session(_auth_user_id="7"))
        began = session.session_id
        for _ in range(2):
            session.cycle_key()
            session.save()
            assert session.session_id != began
            assert self.record(session.session_key).lineage == began

    def test_a_login_begins_another_lineage(self) -> None:
        """A login starts another lineage.

        Nothing in the anonymous session may lead to the signed-in session.
        """
        self.skip_unless_authoritative()
        session = self.session(self.create_session())
        self.log_in(session)
        session.save()
        assert self.record(session.session_key).lineage == session.session_id

    def test_the_old_id_ends_a_rotated_session(self) -> None:
        """A request that began before a rotation ends the session by its old key.

        A device in a list may get another key while the page with the list is open.
        """
        self.skip_unless_authoritative()
        key = self.create_session(_auth_user_id="7")
        session, other = self.session(key), self.session(key)
        session.cycle_key()
        session.save()
        other.delete()
        assert not self.session().exists(session.session_key)
        assert self.data(session.session_key) == {}

    def test_a_superseded_key_ends_nothing(self) -> None:
        """A request that begins after a rotation ends nothing by the old key.

        Otherwise a thief of the old key could sign the user out after a password change.
        """
        self.skip_unless_authoritative()
        key = self.create_session(_auth_user_id="7")
        session = self.session(key)
        session.cycle_key()
        session.save()
        with at(now() + HOUR // 60):
            self.session(key).delete()
            assert self.data(session.session_key) == {"_auth_user_id": "7"}

    def test_of_two_requests_that_cycle_the_key_one_wins(self) -> None:
        """If two requests rotate a session, the one that saves later raises SessionEnded.

        Two live sessions from one login would need two logouts.
        """
        self.skip_unless_authoritative()
        key = self.create_session(_auth_user_id="7")
        first, second = self.session(key), self.session(key)
        for session in (first, second):
            session.cycle_key()
        first.save()
        with raises(SessionEnded):
            second.save()
        assert self.data(first.session_key) == {"_auth_user_id": "7"}
        assert self.data(second.session_key) == {}
