"""The common parts of sources that are backends of Django.

Their stores are read without the backends' methods, because ``load`` returns an empty session for
an outage, for a damaged session and for one that does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import SessionBase
from django.core import signing
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError
from django.db.transaction import TransactionManagementError
from django.utils.module_loading import import_string

from ...conf import codec
from ...core import clock
from ...core.records import Record, is_user_id
from ...exceptions import StorageUnavailable, UnreadablePayload, UnserializableValue
from ...storages.outage_log import OutageLog
from ...storages.sql.lost_races import summary_of
from .base import ForeignSession, PreviousSession, Source

DJANGO_BACKENDS: Final = "django.contrib.sessions.backends"
"""The package of Django's backends."""


class DjangoSource(Source):
    """The common parts of sources that are backends of Django."""

    def __init__(self, engine: type[SessionBase]) -> None:
        # Not initialised, because that would need a cache or a folder.
        self._store = engine.__new__(engine)
        self._serializer = import_string(django_settings.SESSION_SERIALIZER)
        self._salt: str = self._store.key_salt
        self._age: int = self._store.get_session_cookie_age()
        self.outages = OutageLog(lambda: f"a previous backend, {self.describe()}")

    def _decode(self, text: str) -> dict[str, Any]:
        """Return the data that Django's ``encode`` has encoded. Raises `UnreadablePayload`."""
        return self._read_signed(text, self._salt, None)

    def _read_signed(self, text: str, salt: str, max_age: int | None) -> dict[str, Any]:
        """Return the data in a signed text; nothing if it is older than ``max_age`` seconds."""
        try:
            data = signing.loads(text, serializer=self._serializer, salt=salt, max_age=max_age)
        except signing.SignatureExpired:
            return {}
        except signing.BadSignature:
            raise ForeignSession(
                "its signature is of another SECRET_KEY, or it was altered"
            ) from None
        except Exception as error:  # noqa: BLE001 - whatever a serializer raises
            # Not its text nor its frames: they may show the data.
            raise UnreadablePayload(
                f"session of Django's does not deserialize ({type(error).__name__})"
            ) from None
        return require_dict(data)

    def _session(
        self, data: dict[str, Any], saved: int | None, expires: int, seen: Any
    ) -> PreviousSession:
        """Return a session with this data, which was saved at ``saved``, if that is known.

        Times are in milliseconds since the epoch. Raises `UnreadablePayload`.
        """
        user_id = data.get(SESSION_KEY)
        user_id = None if user_id is None else str(user_id)
        if user_id is not None and not is_user_id(user_id):
            raise UnreadablePayload("the user in it cannot be stored")
        try:
            snapshot = codec().serialize(data)
        except UnserializableValue as error:
            raise UnreadablePayload(str(error)) from None
        return PreviousSession(
            Record(
                id="",
                user_id=user_id,
                # Django does not store when a session began. It was not after the last save.
                created=min(saved or clock.now(), clock.now()),
                # Nor when it was used. A move must not make users idle.
                last_activity=clock.now(),
                expires=expires,
            ),
            snapshot,
            seen,
        )


def require_dict(data: Any) -> dict[str, Any]:
    """Return deserialized data if it is a dict. Raises `UnreadablePayload` otherwise."""
    if isinstance(data, dict):
        return data
    del data  # Error reports show local variables.
    raise UnreadablePayload("session of Django's is not a dict")


def session_or_error(
    read: Callable[[Any], PreviousSession | None], subject: Any
) -> PreviousSession | UnreadablePayload | None:
    """Return what ``read(subject)`` returns, or the error if the session cannot be read."""
    try:
        return read(subject)
    except UnreadablePayload as error:
        return error


@contextmanager
def translate_errors(
    source: DjangoSource, damage: tuple[type[Exception], ...] = ()
) -> Generator[None]:
    """Raise `StorageUnavailable` for any error of a store.

    Without its cause, whose frames hold session keys. Errors of the types ``damage`` become
    `UnreadablePayload`.
    """
    try:
        yield
    except (TransactionManagementError, ImproperlyConfigured):
        raise
    except Exception as error:  # noqa: BLE001 - any cache, any client
        name = type(error).__name__
        if damage and isinstance(error, damage) and not isinstance(error, OSError):
            raise UnreadablePayload(f"entry of the cache is damaged ({name})") from None
        hint = ""
        if isinstance(error, DatabaseError | InterfaceError):
            hint = (
                " Look at the entry of that database in DATABASES, whether the table exists, and "
                "whether its user may read and delete the rows."
            )
        elif alias := getattr(source, "alias", None):
            hint = f" Look at CACHES[{alias!r}], and whether its server runs."
        elif isinstance(error, PermissionError):
            hint = " Make the user of this process the owner of the folder and of all in it."
        failure = StorageUnavailable(
            f"A previous backend, {source.describe()}, is unreachable ({summary_of(error)}).{hint}"
        )
        source.outages.failed(failure)
        raise failure from None
    if source.outages.is_open:
        source.outages.succeeded()
