"""Engines that were in use before, as `adoption` sees them: Django's own and the package's.

Django's are read past their classes, whose ``load`` makes an empty session of an outage, of a
damaged one and of one that is not there.
"""

from __future__ import annotations

import pickle
import tempfile
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.sessions.backends.base import SessionBase
from django.core import signing
from django.core.cache import InvalidCacheBackendError, caches
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, router
from django.db.transaction import TransactionManagementError
from django.utils.module_loading import import_string
from django.utils.translation import gettext_noop

from . import lifetime
from .codec import Snapshot, newest_data
from .conf import (
    NAME,
    FormerEngine,
    bare_codec,
    codec,
    engine_setting,
    session_store,
    settings,
    settings_of,
)
from .exceptions import StorageUnavailable, UnreadablePayload, UnserializableValue
from .records import Record, SecretText, State, is_well_formed, session_id, tombstone
from .storages.base import Conflict, Storage, Updated
from .words import Phrase

_DJANGO: Final = "django.contrib.sessions.backends"
_GRAVE_SECONDS: Final = 60


class Found(NamedTuple):
    """A session as a former engine has it."""

    record: Record
    """Its times, user and client."""
    snapshot: Snapshot | None
    """The data; ``None`` where it is the record's payload, sealed for the record's id."""
    seen: Any = None
    """What tells the engine whether it still has the same."""

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<Found {self.record!r}>"


class Entry(NamedTuple):
    """A session in a list of all that a former engine has."""

    locator: str
    """By which `Former.find_at` finds it."""
    id: str
    """The session id that it has in an engine of this package."""
    found: Found | UnreadablePayload | None


class Claim(Enum):
    """What became of a session that was to be removed where it is as it was read."""

    REMOVED = "removed"
    CHANGED = "changed"
    """It is there still, but someone has saved it meanwhile."""
    GONE = "gone"


class Former:
    """A former engine. Everything that does not answer raises `StorageUnavailable`."""

    in_key: bool = False
    """Whether its sessions are in their keys, so that it cannot be made to forget them."""
    lists: bool = True
    """Whether `scan` works."""

    def describe(self) -> str:
        """Which store, for people."""
        raise NotImplementedError

    def find(self, key: str) -> Found | None:
        """The session with this key, a tombstone, or ``None``. May have expired.

        Raises `UnreadablePayload`.
        """
        raise NotImplementedError

    def remove(self, key: str) -> None:
        """Forget the session with this key. Does nothing where it is `in_key`."""
        raise NotImplementedError

    def remove_id(self, record_id: str) -> None:
        """The same by the session id, where the engine knows it."""

    def find_at(self, locator: str) -> Found | None:
        """The session of an `Entry`, read anew."""
        return self.find(locator)

    def remove_at(self, locator: str) -> None:
        """Forget the session of an `Entry`."""
        self.remove(locator)

    def scan(self, cursor: str, limit: int) -> tuple[list[Entry], str]:
        """Some sessions, and where the next ones begin: empty after the last."""
        raise NotImplementedError

    def count(self) -> int:
        """How many there are, expired ones included, more or less. For a progress bar."""
        raise NotImplementedError

    def claim(self, locator: str, found: Found) -> Claim:
        """Remove the session of an `Entry` if it is as it was found."""
        raise NotImplementedError

    async def afind(self, key: str) -> Found | None:
        """See `find`."""
        return await sync_to_async(self.find)(key)

    async def aremove(self, key: str) -> None:
        """See `remove`."""
        await sync_to_async(self.remove)(key)

    async def aremove_id(self, record_id: str) -> None:
        """See `remove_id`."""

    def close(self) -> None:
        """Let go of connections of its own."""


def open_former(entry: FormerEngine) -> Former:
    """The former engine that an entry of ``MIGRATE_FROM`` names.

    Raises ``ImproperlyConfigured`` where there is none.
    """
    try:
        engine = session_store(entry.path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"A former session engine, {entry.path!r}, cannot be imported: {error}"
        ) from error
    if hasattr(engine, "make_storage"):
        if not entry.options:
            return OwnFormer(engine.storage(), is_shared=True)
        with settings_of(entry):
            return OwnFormer(engine.make_storage(), is_shared=False)
    # The most special first: cached_db is a db. By name, so that none is imported for nothing.
    names = [base.__module__ for base in getattr(engine, "__mro__", ())]
    for name, kind in _KINDS.items():
        if f"{_DJANGO}.{name}" in names:
            with settings_of(entry):
                return kind(engine)
    raise ImproperlyConfigured(
        f"{NAME}['MIGRATE_FROM'] names {entry.path!r}, which is neither an engine of Django's nor "
        "of django_sessionstores, nor built on one."
    )


# --- Of this package -----------------------------------------------------------------------


class OwnFormer(Former):
    """An engine of this package, with another storage than the one in use."""

    def __init__(self, storage: Storage, *, is_shared: bool) -> None:
        self.storage = storage
        self._is_shared = is_shared
        self.in_key = storage.holds_in_key
        self.lists = storage.lists and not storage.holds_in_key

    def describe(self) -> str:
        return self.storage.describe()

    def find(self, key: str) -> Found | None:
        return self._found(self.storage.read(self.storage.locate(key)))

    async def afind(self, key: str) -> Found | None:
        return self._found(await self.storage.aread(self.storage.locate(key)))

    def find_at(self, locator: str) -> Found | None:
        return self._found(self.storage.read(locator))

    def remove(self, key: str) -> None:
        if record_id := self.storage.identify(key):
            self.storage.delete(record_id)

    async def aremove(self, key: str) -> None:
        if record_id := self.storage.identify(key):
            await self.storage.adelete(record_id)

    def remove_id(self, record_id: str) -> None:
        self.storage.delete(record_id)

    def remove_at(self, locator: str) -> None:
        self.storage.delete(locator)

    async def aremove_id(self, record_id: str) -> None:
        await self.storage.adelete(record_id)

    def scan(self, cursor: str, limit: int) -> tuple[list[Entry], str]:
        page = self.storage.scan(cursor, limit, None)
        entries = []
        for record in page.records:
            found: Found | UnreadablePayload | None
            try:
                found = self.find_at(record.id)
            except UnreadablePayload as error:
                found = error
            entries.append(Entry(record.id, record.id, found))
        return entries, page.next

    def count(self) -> int:
        return self.storage.count(0, None)

    def claim(self, locator: str, found: Found) -> Claim:
        # A tombstone in its place, because the contract knows no other removal that compares.
        now = time.time_ns() // 1_000_000
        grave = tombstone(locator, State.ENDED, now=now, seconds=_GRAVE_SECONDS)
        outcome = self.storage.update(grave, found.record, 0)
        if isinstance(outcome, Updated):
            # A tombstone stays, and would be in the way of a move back: it becomes a record that
            # has expired, which does not.
            litter = msgspec.structs.replace(grave, state=State.LIVE, version=1, expires=now + 1)
            self.storage.update(litter, outcome.record, 0)
            self.storage.delete(locator)
            return Claim.REMOVED
        if isinstance(outcome, Conflict) and outcome.current.state is State.LIVE:
            return Claim.CHANGED
        return Claim.GONE

    def _found(self, record: Record | None) -> Found | None:
        if record is None:
            return None
        expires = min(record.expires, settings.limits.end(record.created, record.last_activity))
        if record.state is State.LIVE and expires < record.expires:
            record = msgspec.structs.replace(record, expires=expires)
        if self.in_key and record.state is State.LIVE:
            return Found(record, newest_data(record, bare_codec(), codec()))
        return Found(record, None)

    def close(self) -> None:
        if not self._is_shared:
            self.storage.close()


# --- Django's ------------------------------------------------------------------------------


class DjangoFormer(Former):
    """What Django's engines have in common."""

    def __init__(self, engine: type[SessionBase]) -> None:
        # Not initialised, which would ask for a cache or a folder.
        self._store = engine.__new__(engine)
        self._serializer = import_string(django_settings.SESSION_SERIALIZER)
        self._salt: str = self._store.key_salt
        self._age: int = self._store.get_session_cookie_age()

    def _decoded(self, text: str) -> dict[str, Any]:
        """The data that Django's ``encode`` made text of. Raises `UnreadablePayload`."""
        return self._verified(text, self._salt, None)

    def _verified(self, text: str, salt: str, max_age: int | None) -> dict[str, Any]:
        try:
            data = signing.loads(text, serializer=self._serializer, salt=salt, max_age=max_age)
        except signing.SignatureExpired:
            return {}
        except signing.BadSignature:
            raise UnreadablePayload(
                "its signature is of another SECRET_KEY, or it was altered"
            ) from None
        except Exception as error:  # noqa: BLE001 - whatever a serializer raises
            # Not its text nor its frames: they may show the data.
            raise UnreadablePayload(
                f"session of Django's does not deserialize ({type(error).__name__})"
            ) from None
        return _checked(data)

    def _found(self, data: dict[str, Any], saved: int | None, expires: int, seen: Any) -> Found:
        """A session that was saved last at a moment, if that is known."""
        user_id = data.get("_auth_user_id")
        try:
            snapshot = codec().freeze(data)
        except UnserializableValue as error:
            raise UnreadablePayload(str(error)) from None
        return Found(
            Record(
                id="",
                user_id=None if user_id is None else str(user_id),
                # Django does not keep when a session began. Not after it was saved.
                created=min(saved or _now(), _now()),
                # Nor when it was read. Nobody is to be taken for idle by the move.
                last_activity=_now(),
                expires=expires,
            ),
            snapshot,
            seen,
        )


class DatabaseFormer(DjangoFormer):
    """Django's ``db``, and what is built on it with a model of its own."""

    @property
    def _rows(self) -> Any:
        try:
            model = self._store.get_model_class()  # type: ignore[attr-defined]
        except RuntimeError as error:
            raise ImproperlyConfigured(
                f"{NAME}['MIGRATE_FROM'] names an engine whose table belongs to an app that "
                f"INSTALLED_APPS lacks, such as 'django.contrib.sessions': {error}"
            ) from None
        # Never a replica, which may lag.
        return model._base_manager.using(router.db_for_write(model))

    def describe(self) -> str:
        rows = self._rows
        return Phrase(
            gettext_noop("table %(table)s in database %(database)s"),
            table=rows.model._meta.db_table,
            database=repr(rows.db),
        )

    def find(self, key: str) -> Found | None:
        with _answering(self):
            row = self._rows.filter(session_key=str(key)).first()
        # Some databases take capitals for small letters.
        return None if row is None or row.session_key != key else self._of_row(row)

    def _of_row(self, row: Any) -> Found:
        data = self._decoded(row.session_data)
        expires, expiry = lifetime.expires_at(row.expire_date, 0, 0), data.get("_session_expiry")
        saved = None
        if not isinstance(expiry, str | datetime):
            saved = expires - int(expiry or self._age) * 1000
        return self._found(data, saved, expires, row.session_data)

    def remove(self, key: str) -> None:
        with _answering(self):
            self._rows.filter(session_key=str(key)).delete()

    def scan(self, cursor: str, limit: int) -> tuple[list[Entry], str]:
        with _answering(self):
            rows = list(
                self._rows.filter(session_key__gt=cursor).order_by("session_key")[: limit + 1]
            )
        entries = [
            Entry(SecretText(row.session_key), session_id(row.session_key), found)
            for row in rows[:limit]
            for found in [_or_error(self._of_row, row)]
        ]
        return entries, SecretText(entries[-1].locator) if len(rows) > limit else ""

    def count(self) -> int:
        with _answering(self):
            return int(self._rows.count())

    def claim(self, locator: str, found: Found) -> Claim:
        with _answering(self):
            row = self._rows.filter(session_key=str(locator))
            if row.filter(session_data=found.seen).delete()[0]:
                self._forget_copy(locator)
                return Claim.REMOVED
            return Claim.CHANGED if row.exists() else Claim.GONE

    def _forget_copy(self, key: str) -> None:
        """Remove what a cache has of the row."""


class CachedDatabaseFormer(DatabaseFormer):
    """Django's ``cached_db``: the rows are what counts."""

    def __init__(self, engine: type[SessionBase]) -> None:
        super().__init__(engine)
        self.alias = _cache_alias()

    def remove(self, key: str) -> None:
        super().remove(key)
        self._forget_copy(key)

    def _forget_copy(self, key: str) -> None:
        with _answering(self):
            caches[self.alias].delete(self._store.cache_key_prefix + key)  # type: ignore[attr-defined]


class CacheFormer(DjangoFormer):
    """Django's ``cache``."""

    lists = False
    # What ``get`` raises for an entry that is no pickle, or one of classes that are gone.
    _damage: Final = (pickle.UnpicklingError, zlib.error, EOFError, ImportError, AttributeError)

    def __init__(self, engine: type[SessionBase]) -> None:
        super().__init__(engine)
        self.alias = _cache_alias()

    def describe(self) -> str:
        return Phrase(
            gettext_noop("the sessions of Django's engine in the cache %(alias)s"),
            alias=repr(self.alias),
        )

    def find(self, key: str) -> Found | None:
        with _answering(self, self._damage):
            data = caches[self.alias].get(self._key(key))
        if data is None:
            return None
        data = _checked(data)
        # The cache knows when it ends, and tells nobody.
        expires = lifetime.expires_at(data.get("_session_expiry"), _now(), self._age)
        return self._found(data, None, expires, None)

    def remove(self, key: str) -> None:
        with _answering(self):
            caches[self.alias].delete(self._key(key))

    def _key(self, key: str) -> str:
        return str(self._store.cache_key_prefix + key)  # type: ignore[attr-defined]


class FileFormer(DjangoFormer):
    """Django's ``file``."""

    def __init__(self, engine: type[SessionBase]) -> None:
        super().__init__(engine)
        self._folder = Path(engine_setting("SESSION_FILE_PATH") or tempfile.gettempdir())
        if not self._folder.is_dir():
            raise ImproperlyConfigured(
                f"The former session engine's SESSION_FILE_PATH is {str(self._folder)!r}, which is "
                "not a folder."
            )
        self._listed: list[SecretText] = []

    def describe(self) -> str:
        return Phrase(
            gettext_noop("the files of Django's engine in %(folder)s"), folder=str(self._folder)
        )

    def find(self, key: str) -> Found | None:
        # No variable for the path, nor for the text before all is done: error reports show them.
        with _answering(self):
            try:
                saved = int(self._path(key).stat().st_mtime * 1000)
                text = self._path(key).read_text("ascii", "replace")
            except FileNotFoundError:
                return None
        if not text:
            return None  # The placeholder of a session that is being made.
        data = self._decoded(text)
        expires = lifetime.expires_at(data.get("_session_expiry"), saved, self._age)
        return self._found(data, saved, expires, text)

    def remove(self, key: str) -> None:
        with _answering(self):
            self._path(key).unlink(missing_ok=True)

    def scan(self, cursor: str, limit: int) -> tuple[list[Entry], str]:
        if not cursor:
            # All names at once: a folder has no order to go on in. 100,000 take 10 MB.
            self._listed = self._keys()
        start = bisect_right(self._listed, cursor)
        keys = self._listed[start : start + limit + 1]
        entries = [
            Entry(SecretText(key), session_id(key), _or_error(self.find, key))
            for key in keys[:limit]
        ]
        return entries, SecretText(keys[limit - 1]) if len(keys) > limit else ""

    def count(self) -> int:
        return len(self._keys())

    def claim(self, locator: str, found: Found) -> Claim:
        with _answering(self):
            try:
                if self._path(locator).read_text("ascii", "replace") != found.seen:
                    return Claim.CHANGED
                self._path(locator).unlink()
            except FileNotFoundError:
                return Claim.GONE
        return Claim.REMOVED

    def _keys(self) -> list[SecretText]:
        prefix = django_settings.SESSION_COOKIE_NAME
        with _answering(self):
            names = [path.name for path in self._folder.iterdir()]
        keys = (SecretText(name[len(prefix) :]) for name in names if name.startswith(prefix))
        # Besides them there are files that are being written.
        return sorted(key for key in keys if is_well_formed(key))

    def _path(self, key: str) -> Path:
        return self._folder / f"{django_settings.SESSION_COOKIE_NAME}{key}"


class SignedCookieFormer(DjangoFormer):
    """Django's ``signed_cookies``: whoever has the cookie, has the session, until it expires."""

    in_key = True
    lists = False

    def describe(self) -> str:
        return Phrase(gettext_noop("the browsers' cookies, signed by Django's engine"))

    def find(self, key: str) -> Found | None:
        if key.count(":") < 2:
            return None  # Nothing that Django has signed.
        data = self._verified(key, f"{_DJANGO}.signed_cookies", self._age)
        if not data:
            return None
        signed = signing.b62_decode(key.rsplit(":", 2)[1]) * 1000
        until = lifetime.expires_at(data.get("_session_expiry"), signed, self._age)
        return self._found(data, signed, min(until, signed + self._age * 1000), None)

    async def afind(self, key: str) -> Found | None:
        return self.find(key)

    def remove(self, key: str) -> None:
        pass

    async def aremove(self, key: str) -> None:
        pass


_KINDS: Final[dict[str, Callable[[type[SessionBase]], Former]]] = {
    "cached_db": CachedDatabaseFormer,
    "db": DatabaseFormer,
    "cache": CacheFormer,
    "file": FileFormer,
    "signed_cookies": SignedCookieFormer,
}


def _cache_alias() -> str:
    alias: str = engine_setting("SESSION_CACHE_ALIAS")
    if alias not in caches.settings:
        raise InvalidCacheBackendError(
            f"The former session engine's SESSION_CACHE_ALIAS is {alias!r}, which CACHES does not "
            f"have. It has: {', '.join(map(repr, caches.settings))}."
        )
    return alias


def _checked(data: Any) -> dict[str, Any]:
    if isinstance(data, dict):
        return data
    del data  # Error reports show local variables.
    raise UnreadablePayload("session of Django's is not a dict")


def _or_error(read: Callable[[Any], Found | None], what: Any) -> Found | UnreadablePayload | None:
    try:
        return read(what)
    except UnreadablePayload as error:
        return error


@contextmanager
def _answering(former: Former, damage: tuple[type[Exception], ...] = ()) -> Generator[None]:
    """Make an outage of whatever a store raises. No cause: its frames hold session keys."""
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
            hint = " Is the table there?"
        raise StorageUnavailable(
            f"A former session engine, {former.describe()}, does not answer ({name}).{hint}"
        ) from None


def _now() -> int:
    return time.time_ns() // 1_000_000
