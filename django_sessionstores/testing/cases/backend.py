"""The session backend under test, and what it can be held to."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from functools import cached_property
from importlib import import_module
from typing import Any, Final

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test.utils import CaptureQueriesContext
from django.utils.crypto import get_random_string
from django.utils.module_loading import import_string

from .case import Need
from .clocks import moved_clock
from .limits import errors_ignored
from .users import UsersUnavailable, new_user

OWN: Final = "django_sessionstores.backends."
"""The beginning of the names of the package's own backends."""
_OWN_MIDDLEWARE: Final = "django_sessionstores.middleware.SessionMiddleware"
_DJANGO_MIDDLEWARE: Final = "django.contrib.sessions.middleware.SessionMiddleware"
_LONG: Final = 2_000
_REASONS: Final = {
    Need.ENDS: ("The key holds the whole session: the server keeps nothing to end or to merge."),
    Need.CLOCK: "The command cannot move the clock of the store.",
    Need.TRANSACTIONS: "The store takes no part in database transactions.",
}


class Backend:
    """A session backend, by the name that ``SESSION_ENGINE`` has."""

    def __init__(self, engine: str, middleware: str | None = None) -> None:
        self.engine = engine
        self.removes = True
        """Whether sessions are removed after a case: not if ``delete()`` does not end."""
        self.SessionStore: type[SessionBase] = _session_store(engine)
        self.middleware_name = middleware or _middleware_of_project() or _default_middleware(engine)
        try:
            self.middleware: type[SessionMiddleware] = import_string(self.middleware_name)
        except ImportError as error:
            raise ImproperlyConfigured(
                f"The middleware {self.middleware_name!r} cannot be imported: {error}"
            ) from error

    def lack(self, need: Need) -> str | None:
        """Return the reason why a need is not met, or None if it is met."""
        if need is Need.USERS:
            return self._lack_of_users
        is_met = {
            Need.ENDS: self._ends,
            Need.CLOCK: lambda: self.has_movable_clock,
            Need.TRANSACTIONS: self._is_in_database,
        }[need]
        return None if is_met() else _REASONS[need]

    def try_out(self) -> None:
        """Store and delete a session. Raises the error of a store that does not work."""
        self.remove(self._stored_key())

    def remove(self, key: str | None) -> None:
        """Delete a session of the command. Errors of the backend do not matter here."""
        if not self.removes:
            return
        with errors_ignored():
            # Some backends delete the session of the object, whatever key they are given.
            self.SessionStore(session_key=key).delete(key)

    @cached_property
    def holds_data_in_key(self) -> bool:
        """Whether the key holds the session: it then grows with the data."""
        key = self._stored_key(text=get_random_string(_LONG))
        self.remove(key)
        return len(key) >= _LONG

    @cached_property
    def _lack_of_users(self) -> str | None:
        try:
            new_user()
        except UsersUnavailable as reason:
            return str(reason)
        return None

    def _ends(self) -> bool:
        return not self.holds_data_in_key or self._ended_key_is_empty

    @cached_property
    def _ended_key_is_empty(self) -> bool:
        key = self._stored_key()
        self.SessionStore(session_key=key).flush()
        return not dict(self.SessionStore(session_key=key).items())

    @cached_property
    def has_movable_clock(self) -> bool:
        """Whether sessions expire if the clock of this process is moved, by any lifetime."""
        if self._expires_when_clock_moves(None):
            return True
        with suppress(Exception):  # Not all backends know lifetimes.
            return self._expires_when_clock_moves(3600)
        return False

    def _expires_when_clock_moves(self, lifetime: int | None) -> bool:
        saved = self.SessionStore()
        saved["color"] = "blue"
        if lifetime is not None:
            saved.set_expiry(lifetime)
        saved.save()
        session = self.SessionStore(session_key=saved.session_key)
        with moved_clock(2 * settings.SESSION_COOKIE_AGE):
            is_empty = not dict(session.items())
        # Django's file backend stores an empty session in the place of an expired one.
        for each in {saved.session_key, session.session_key} - {None}:
            self.remove(each)
        return is_empty

    def _is_in_database(self) -> bool:
        return self._makes_queries

    @cached_property
    def _makes_queries(self) -> bool:
        with ExitStack() as stack:
            captured = [
                stack.enter_context(CaptureQueriesContext(connections[alias]))
                for alias in connections
                if connections[alias].vendor != "unknown"
            ]
            key = self._stored_key()
        self.remove(key)
        return any(len(each) for each in captured)

    def _stored_key(self, **data: Any) -> str:
        session = self.SessionStore()
        session.update(data or {"color": "blue"})
        session.save()
        return str(session.session_key)


def _session_store(engine: str) -> type[SessionBase]:
    module = import_module(engine)
    if not isinstance(getattr(module, "SessionStore", None), type):
        raise ImproperlyConfigured(f"The module {engine} has no class SessionStore.")
    found: type[SessionBase] = module.SessionStore
    return found


def _middleware_of_project() -> str | None:
    """Return the session middleware of the project, if it has one."""
    for name in settings.MIDDLEWARE:
        try:
            middleware = import_string(name)
        except ImportError as error:
            raise ImproperlyConfigured(f"MIDDLEWARE: {name} cannot be imported.") from error
        if getattr(middleware, "__name__", "") == "SessionMiddleware":
            return str(name)
    return None


def _default_middleware(engine: str) -> str:
    return _OWN_MIDDLEWARE if engine.startswith(OWN) else _DJANGO_MIDDLEWARE
