"""Tests of an engine: which keys open a session, and where keys must not appear."""
# ruff: noqa: S101

from __future__ import annotations

from ....core.records import session_id
from ....exceptions import SessionEnded
from ..failures import raises
from ..observation import observed, stores_of
from ..values import MALFORMED_KEYS
from .case import EngineCase


class KeyTests(EngineCase):
    """The keys that open a session, and their secrecy."""

    def test_the_session_id_is_not_a_session_key(self) -> None:
        """The session id cannot be used as a session key.

        Anyone who reads a log or the store must not be able to present an id as a cookie.
        """
        key = self.create_session()
        assert self.data(session_id(key)) == {}

    def test_a_malformed_key_never_reaches_the_store(self) -> None:
        """A malformed key reads as an empty session without a call to the store.

        Control characters break protocols, long keys fill logs, and path traversal reads files.
        """
        with observed(*stores_of(self.storage)) as calls:
            for key in MALFORMED_KEYS:
                assert self.data(key) == {}, key
                assert not self.session().exists(key), key
                self.session().delete(key)
        assert calls == []

    def test_a_key_of_another_case_is_another_key(self) -> None:
        """A key in another case does not open the session.

        Keys would be easier to guess in a store whose comparison ignores case.
        """
        key = self.create_session()
        assert self.data(key.upper()) == {}

    def test_repr_and_errors_do_not_show_the_key(self) -> None:
        """Neither repr() nor an error nor the storage's description shows the key.

        They go to logs and error trackers, which more people can read than may log in.
        """
        self.skip_unless_authoritative()
        key = self.create_session()
        session = self.session(key)
        session.set("x", 1)
        self.session().delete(key)
        with raises(SessionEnded) as caught:
            session.save()
        shown = f"{session.target!r} {caught} {self.storage.describe()}"
        assert key not in shown
