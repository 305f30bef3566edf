"""Tests of an engine: requests of one session at the same time."""
# ruff: noqa: S101

from __future__ import annotations

from ....core.clock import now
from ....exceptions import SessionEnded
from ..failures import raises
from ..values import DAY, at
from .case import EngineCase


class ConcurrencyTests(EngineCase):
    """The changes that are kept if two requests save one session."""

    def test_two_requests_that_write_different_keys_both_win(self) -> None:
        """If two requests set different keys, both changes are kept.

        Django's engines keep only the data of the request that saves last.
        """
        self.skip_unless_authoritative()
        key = self.create_session(color="blue")
        first, second = self.session(key), self.session(key)
        first.set("a", 1)
        second.set("b", 2)
        first.save()
        second.save()
        assert self.data(key) == {"color": "blue", "a": 1, "b": 2}

    def test_of_two_requests_that_write_one_key_the_later_save_wins(self) -> None:
        """If two requests set the same key, the later save wins.

        This is documented, so that projects can rely on it.
        """
        self.skip_unless_authoritative()
        key = self.create_session()
        first, second = self.session(key), self.session(key)
        first.set("color", "red")
        second.set("color", "green")
        second.save()
        first.save()
        assert self.data(key) == {"color": "red"}

    def test_a_deleted_key_stays_deleted(self) -> None:
        """A deleted key stays deleted when another request saves the session.

        The other request's change must not be lost either.
        """
        self.skip_unless_authoritative()
        key = self.create_session(coupon="X", color="blue")
        deleter, writer = self.session(key), self.session(key)
        deleter.pop("coupon")
        writer.set("color", "red")
        deleter.save()
        writer.save()
        assert self.data(key) == {"color": "red"}

    def test_a_reader_that_ends_late_does_not_undo_a_writer(self) -> None:
        """A request that only reads does not undo a write when it saves later.

        It holds the old data, and its save touches the session.
        """
        self.skip_unless_authoritative()
        key = self.create_session(color="blue")
        reader = self.session(key)
        reader.get("color")
        writer = self.session(key)
        writer.set("color", "red")
        writer.save()
        with at(now() + DAY):
            reader.save()
            assert self.data(reader.session_key) == {"color": "red"}

    def test_a_save_does_not_revive_a_deleted_session(self) -> None:
        """Saving a session after its logout raises SessionEnded and stores nothing.

        The request thereby learns that nothing was saved.
        """
        self.skip_unless_authoritative()
        key = self.create_session()
        late = self.session(key)
        late.set("x", 1)
        self.session(key).flush()
        with raises(SessionEnded):
            late.save()
        assert self.data(key) == {}

    def test_a_save_does_not_resolve_the_key_from_before_a_login(self) -> None:
        """Saving under the key from before a login raises SessionEnded and stores nothing.

        An attacker may know the anonymous key.
        """
        self.skip_unless_authoritative()
        key = self.create_session()
        late, login = self.session(key), self.session(key)
        late.set("x", 1)
        self.log_in(login)
        login.save()
        with raises(SessionEnded):
            late.save()
        assert self.data(key) == {}

    def test_a_login_keeps_what_another_request_saved(self) -> None:
        """A login keeps what another request saved while the login was under way.

        For example, a cart must keep what was added in the meantime.
        """
        self.skip_unless_authoritative()
        key = self.create_session()
        login = self.session(key)
        self.log_in(login)
        other = self.session(key)
        other.set("cart", [1])
        other.save()
        login.save()
        assert self.data(login.session_key)["cart"] == [1]
