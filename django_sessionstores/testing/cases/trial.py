"""What one case works with: sessions, browsers and users that nobody else has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import SuspiciousOperation
from django.utils.crypto import get_random_string

from .backend import Backend
from .browser import Browser, without_private
from .limits import errors_ignored
from .users import new_user


class Trial:
    """The sessions, browsers and users of one case."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._sessions: list[Any] = []
        self._browsers: list[Browser] = []
        self._keys: list[str] = []

    def session(self, key: str | None = None) -> Any:
        """Return a session object, as a request with this key gets it."""
        session: SessionBase = self.backend.SessionStore(session_key=key)
        self._sessions.append(session)
        return session

    def store(self, **data: Any) -> str:
        """Save a session and return its key. ``data`` replaces the default data."""
        session = self.session()
        session.update(data or {"color": "blue"})
        return self.save(session)

    def save(self, session: Any) -> str:
        """Save a session and return its key."""
        session.save()
        key = str(session.session_key)
        self._keys.append(key)
        return key

    def data(self, key: str | None) -> dict[str, Any]:
        """Return the data that a new request with this key finds."""
        return without_private(self.session(key).items())

    def unknown_key(self) -> str:
        """Return a key that looks like one of Django's and that nobody has issued."""
        return get_random_string(32, "abcdefghijklmnopqrstuvwxyz0123456789")

    def browser(self, **data: Any) -> Browser:
        """Return a new browser, with a session if there is data for it."""
        browser = Browser(self.backend)
        self._browsers.append(browser)
        if data:
            browser.visit(lambda request: request.session.update(data))
        return browser

    def user(self) -> Any:
        """Return a new user."""
        return new_user()

    def clean_up(self) -> None:
        """Delete the sessions. Errors of the backend do not matter here.

        The users go with their database. Deleting them would tell the backend, and the project.
        """
        keys = {*self._keys, *(key for browser in self._browsers for key in browser.keys)}
        sessions = [session for browser in self._browsers for session in browser.sessions]
        for session in [*self._sessions, *sessions]:
            with errors_ignored():
                keys.add(session.session_key)
        for key in keys - {None, ""}:
            self.backend.remove(key)


def is_refused(save: Callable[[], object]) -> bool:
    """Return whether a save raises an error that Django answers with status 400."""
    try:
        save()
    except (UpdateError, SessionInterrupted, SuspiciousOperation):
        return True
    return False
