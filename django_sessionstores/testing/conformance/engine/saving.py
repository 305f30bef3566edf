"""Tests of an engine: loading, saving and deleting sessions."""
# ruff: noqa: S101

from __future__ import annotations

from django.contrib.sessions.backends.base import CreateError

from ....core.records import draw_key
from ..failures import raises
from ..observation import observed
from .case import EngineCase


class SavingTests(EngineCase):
    """The life of a session from its first save to its end."""

    def test_an_unknown_key_reads_as_empty_and_leaves_no_record(self) -> None:
        """An unknown key reads as an empty session and stores nothing.

        Scanners that make up keys must not fill the store.
        """
        key = draw_key()
        assert self.data(key) == {}
        assert not self.session(key).exists(key)

    def test_a_save_under_an_unknown_key_uses_a_new_key(self) -> None:
        """A save under an unknown key uses a new key.

        Otherwise an attacker could choose the key of a session (session fixation).
        """
        key = draw_key()
        session = self.session(key)
        session.get("x")
        session.set("x", 1)
        session.save()
        assert session.session_key != key
        assert self.data(key) == {}
        assert self.data(session.session_key) == {"x": 1}

    def test_must_create_refuses_a_taken_key(self) -> None:
        """save(must_create=True) raises CreateError if the key is in use.

        Two sessions must never share a key.
        """
        self.skip_unless_authoritative()
        key = self.create_session(color="blue")
        with raises(CreateError):
            self.session(key).save(must_create=True)
        assert self.data(key) == {"color": "blue"}

    def test_an_unchanged_save_makes_no_write(self) -> None:
        """Saving an unchanged session does not update its record.

        The load on the store must depend on changes, not on how often save() is called.
        """
        session = self.session(self.create_session())
        session.load()
        with observed(self.storage) as calls:
            session.get("color")
            session.save()
        assert "update" not in calls

    def test_a_change_that_was_undone_makes_no_write(self) -> None:
        """A session whose change was undone counts as unmodified.

        The data decides, not the history of the object.
        """
        session = self.session(self.create_session(cart={"a": 1}))
        session.get("cart")["b"] = 2
        del session.get("cart")["b"]
        assert not session.modified

    def test_a_nested_change_is_saved(self) -> None:
        """A change inside a stored value is saved.

        Django's engines lose it unless the project sets ``modified``.
        """
        key = self.create_session(cart={"lines": [{"n": 1}]})
        session = self.session(key)
        session.get("cart")["lines"][0]["n"] = 2
        assert session.modified
        session.save()
        assert self.data(session.session_key) == {"cart": {"lines": [{"n": 2}]}}

    def test_deleting_what_does_not_exist_does_not_raise(self) -> None:
        """Deleting a session twice, or one that never existed, does not raise.

        A user may log out twice.
        """
        self.skip_unless_authoritative()
        key = self.create_session()
        for _ in range(2):
            self.session().delete(key)
        self.session().delete(draw_key())
        assert self.data(key) == {}

    def test_a_flushed_session_goes_on_under_a_new_key(self) -> None:
        """A write after flush() goes to another session under a new key.

        It must never reach the old session.
        """
        key = self.create_session()
        session = self.session(key)
        session.flush()
        session.set("x", 1)
        session.save()
        assert session.session_key != key
        assert self.data(session.session_key) == {"x": 1}
        if self.storage.authoritative:
            assert self.data(key) == {}

    def test_load_gives_the_stored_data(self) -> None:
        """load() returns the stored data, without the unsaved changes of the object."""
        session = self.session(self.create_session(color="blue"))
        session.set("color", "red")
        assert session.load() == {"color": "blue"}
