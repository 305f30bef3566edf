"""What can go wrong, each error with the class that callers of Django already catch."""

from django.contrib.sessions.backends.base import UpdateError
from django.core.exceptions import ImproperlyConfigured, PermissionDenied


class SessionStoresError(Exception):
    """Root of the errors of this package."""


class StorageUnavailable(SessionStoresError):
    """The store did not answer, or refused the operation for want of space or permission.

    It says nothing about the session: it may well exist. So it is never turned into "no session",
    and the session cookie stays. Not a ``KeyError``, ``AttributeError`` or ``OSError``: code that
    expects those from a session must not swallow an outage.
    """


class PartlyEnded(StorageUnavailable):
    """The store stopped answering while sessions were being ended or purged.

    ``ended`` says of how many that is known to be done, ``reason`` why not of all.
    """

    def __init__(self, ended: int, reason: StorageUnavailable) -> None:
        super().__init__(f"{reason} Ended before that: {ended}.")
        self.ended, self.reason = ended, reason


class StorageFull(StorageUnavailable):
    """The store answers, but has no room for the write. Reading and deleting still work."""


class SessionConflict(SessionStoresError):
    """Other requests kept changing the session while this one tried to save; nothing was saved."""


class SessionEnded(SessionStoresError, UpdateError):
    """The session ended, expired or got a new key since it was loaded; nothing was saved.

    Django's ``SessionMiddleware`` turns its parent ``UpdateError`` into ``SessionInterrupted``.
    """


class SessionLimitReached(SessionStoresError, PermissionDenied):
    """A login over ``MAX_SESSIONS`` that ``ON_LIMIT`` refuses. Nothing was saved.

    Django answers its parent ``PermissionDenied`` with 403.
    """


class UnserializableValue(SessionStoresError, TypeError):
    """A value that the serializer cannot keep. Names its key; the stored session stays whole."""


class PayloadTooLarge(SessionStoresError, ValueError):
    """The session is larger than its storage takes. The stored session stays whole."""


class CannotList(SessionStoresError):
    """The engine cannot tell which sessions there are; the text says what would change that."""


class UnreadablePayload(SessionStoresError, ValueError):
    """A payload that is damaged, foreign or sealed under an unknown key, as its text says."""


class MissingExtra(SessionStoresError, ImproperlyConfigured):
    """A client library is not installed; the message holds the command that installs it."""


def missing_extra(library: str, extra: str) -> MissingExtra:
    return MissingExtra(
        f"{library} is not installed. Install it with: "
        f'python -m pip install "django-sessionstores[{extra}]"'
    )
