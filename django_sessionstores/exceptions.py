"""The exceptions of this package, derived from those that callers of Django already catch."""

from collections.abc import Sequence
from typing import Any

from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import ImproperlyConfigured, PermissionDenied


class SessionStoresError(Exception):
    """The base class of the exceptions of this package."""

    evicted: tuple[Any, ...] = ()
    """The records of sessions that ``MAX_SESSIONS`` had ended before a login failed. They stay
    ended, so the session of the request sends their signals."""


class StorageUnavailable(SessionStoresError):
    """The store did not answer, or refused the operation because space or permission is missing.

    This says nothing about the session, which may exist. So it is never treated as a missing
    session, and the session cookie stays. It is not a ``KeyError``, ``AttributeError`` or
    ``OSError``, because code that expects those from a session must not swallow an outage.
    """

    was_logged = False
    """Whether the log of outages has counted this error, so that it needs no line of its own."""
    was_sent = True
    """Whether the write may have reached the store. If not, it is certain that nothing changed."""


class PartlyEnded(StorageUnavailable):
    """The store stopped answering while sessions were being ended or purged.

    ``ended`` is the number of sessions that are known to have ended. ``reason`` is the exception
    that stopped the operation. ``sessions`` has those sessions if `Inventory.end_many` was called.
    """

    def __init__(
        self, ended: int, reason: StorageUnavailable, sessions: Sequence[Any] = ()
    ) -> None:
        super().__init__(f"{reason} Sessions that were ended before that: {ended}.")
        self.ended, self.reason, self.sessions = ended, reason, sessions
        self.was_logged = reason.was_logged

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.ended, self.reason, self.sessions)


class StorageFull(StorageUnavailable):
    """The store answers, but has no space for the write. Reading and deleting still work."""


class SessionConflict(SessionStoresError):
    """Other requests kept changing the session while this one tried to save. Nothing was saved."""


class SessionEnded(SessionStoresError, UpdateError, SessionInterrupted):
    """The session has ended, expired or got a new key since it was loaded. Nothing was saved.

    Django responds to ``SessionInterrupted``, one of its parents, with status 400.
    """


class SessionLimitReached(SessionStoresError, PermissionDenied):
    """A login exceeds ``MAX_SESSIONS``, and ``ON_LIMIT`` refuses it. Nothing was saved.

    Django responds to ``PermissionDenied``, its parent, with status 403.
    """


class UnserializableValue(SessionStoresError, TypeError):
    """The serializer cannot keep a value. The message names its key. Nothing was saved."""


class PayloadTooLarge(SessionStoresError, ValueError):
    """The session is larger than its storage accepts. Nothing was saved."""


class CannotList(SessionStoresError):
    """The engine cannot list sessions. The message says which setting would change that."""


class UnreadablePayload(SessionStoresError, ValueError):
    """A payload cannot be read, because it is damaged, foreign, or encrypted with an unknown key.

    The message says which.
    """


class ForeignPayload(UnreadablePayload):
    """A payload is encrypted or signed with a key that this worker does not have."""


class MissingExtra(SessionStoresError, ImproperlyConfigured):
    """A client library is not installed. The message has the command that installs it."""


def missing_extra(library: str, extra: str) -> MissingExtra:
    """Return the exception for a library that belongs to an extra of this package."""
    return MissingExtra(
        f"{library} is not installed. Install it with: "
        f'python -m pip install "django-sessionstores[{extra}]"'
    )
