"""Tests of an engine: a store that does not answer."""
# ruff: noqa: S101

from __future__ import annotations

from ....exceptions import StorageUnavailable
from ..failures import break_call, raises
from ..observation import observed
from .case import EngineCase


class OutageTests(EngineCase):
    """Sessions during and after an outage."""

    def test_an_outage_does_not_read_as_an_empty_session(self) -> None:
        """An outage raises StorageUnavailable and does not read as an empty session.

        Confusing the two would log every user out.
        """
        key = self.create_session()
        for method in ("load", "save", "delete", "cycle_key"):
            session = self.session(key)
            with observed(self.storage, before=break_call), raises(StorageUnavailable):
                getattr(session, method)()
            assert session.session_key == key, method
        assert self.data(key) == {"color": "blue"}

    def test_a_save_that_failed_can_be_repeated(self) -> None:
        """A save that failed can be repeated on the same session object.

        The object must not treat the failed save as done.
        """
        key = self.create_session()
        session = self.session(key)
        session.set("x", 1)
        with observed(self.storage, before=break_call), raises(StorageUnavailable):
            session.save()
        session.save()
        assert self.data(session.session_key) == {"color": "blue", "x": 1}
