"""The base of the engine tests: the engine under test and its sessions."""
# ruff: noqa: S101

from __future__ import annotations

from typing import Any, ClassVar
from unittest import SkipTest

from ....core.records import Record
from ....sessions import SessionStore
from ....storages.base import Storage
from ..execution import Twin
from ..neutral_settings import NeutralSettings


class EngineCase(NeutralSettings):
    """An engine under test and the sessions that the tests make with it."""

    SessionStore: type[SessionStore]
    """The engine under test, which the subclass sets."""
    awaited: ClassVar[bool] = False
    """Whether the tests call the async twins of the session's methods."""

    @property
    def storage(self) -> Storage:
        """Return the engine's own storage."""
        return self.SessionStore.own_storage()

    def session(self, key: str | None = None) -> Any:
        """Return a session object as a request gets it, as a `Twin`."""
        return Twin(self.SessionStore(key), self.awaited)

    def create_session(self, **data: Any) -> str:
        """Save a session and return its key. ``data`` replaces the default data."""
        session = self.session()
        session.update(data or {"color": "blue"})
        session.save()
        return str(session.session_key)

    def data(self, key: str | None) -> dict[str, Any]:
        """Return the data that a new request with this key finds."""
        return dict(self.session(key).items())

    def log_in(self, session: Any, user: str = "7") -> None:
        """Log a user in over an anonymous session, without the save.

        This does what ``django.contrib.auth.login`` does.
        """
        session.cycle_key()
        session.update({"_auth_user_id": user, "_auth_user_backend": "b", "_auth_user_hash": "h"})

    def record(self, key: str) -> Record:
        """Return the stored record of a key, which must exist."""
        held = self.storage.read(self.storage.locate(key))
        assert held is not None
        return held

    def skip_unless_authoritative(self) -> None:
        """Skip the test if the engine cannot end a session."""
        if not self.storage.authoritative:
            raise SkipTest("The keys hold the sessions, which therefore cannot be ended.")
