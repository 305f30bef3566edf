"""Records in the table of Django's database cache, by statements of our own.

Not through the cache's own methods. Its ``set`` reports nothing when the database refuses the
write, its ``add`` lets two callers take over an expired row, its ``get`` deletes by key what was
expired when it looked, and each write counts all rows. None of them can compare.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec
from django.conf import settings
from django.core.cache.backends.db import BaseDatabaseCache
from django.db import (
    DatabaseError,
    IntegrityError,
    InterfaceError,
    connections,
    router,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import TransactionManagementError
from django.utils.translation import gettext_noop

from ..exceptions import PayloadTooLarge, StorageUnavailable, UnreadablePayload
from ..records import Record, moved, pack, unpack
from ..words import Phrase
from .base import NAMESPACE, CacheStorage, Conflict, Gone, Outcome, Taken, Updated
from .copies import is_refused
from .deadline import LimitedCursor

# A round is lost only to someone who touched or filled the same session at that very moment.
_ROUNDS: Final = 50

# Below the 999 parameters that every SQLite takes.
_PURGE_AT_MOST: Final = 500

_LIVE: Final = f"{base64.b64encode(pack(Record(id=''))[:3]).decode()}%"
"""The values of live records begin so: with format and state, in the first of four letters."""

_LATEST: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())
_MYSQL_PACKET_TOO_LARGE: Final = 1153


class _Statements(NamedTuple):
    """The SQL for one database."""

    read: str
    read_latest: str
    insert: str
    replace: str
    overwrite: str
    delete: str
    expired: str


def _compile(table: str, connection: BaseDatabaseWrapper) -> _Statements:
    quote = connection.ops.quote_name
    table, key, value, expires = map(quote, (table, "cache_key", "value", "expires"))
    read = f"SELECT {value} FROM {table} WHERE {key} = %s AND {expires} > %s"  # noqa: S608
    insert = f"INSERT INTO {table} ({key}, {value}, {expires}) VALUES (%s, %s, %s)"  # noqa: S608
    if connection.vendor in {"postgresql", "sqlite"}:
        # Elsewhere it fails on a key that is there, but spoils no transaction.
        insert += " ON CONFLICT DO NOTHING"
    overwrite = f"UPDATE {table} SET {value} = %s, {expires} = %s WHERE {key} = %s"  # noqa: S608
    locks = connection.features.has_select_for_update
    return _Statements(
        read=read,
        # In a transaction at REPEATABLE READ, MySQL would go on showing the value that has just
        # been found outdated.
        read_latest=read + (" FOR UPDATE" if locks else ""),
        insert=insert,
        # The whole value is compared, as there is no column for the version. MySQL takes upper
        # and lower case for the same; payloads that differ only in that do not occur.
        replace=f"{overwrite} AND {value} = %s",
        overwrite=overwrite,
        delete=f"DELETE FROM {table} WHERE {key} = %s AND {value} LIKE %s",  # noqa: S608
        expired=(
            f"SELECT {key} FROM {table} WHERE {expires} <= %s "  # noqa: S608
            f"ORDER BY {expires} LIMIT %s"
        ),
    )


class DatabaseCacheStorage(CacheStorage):
    """Records as rows of a cache table, in the database that the routers name for writing it.

    The value is the packed record in Base64, nothing pickled. It is also the handle: an update
    is one statement that replaces the value it has seen. Sessions do not count for the cache's
    ``MAX_ENTRIES``, but are dropped when something else in the table fills it up.

    No statement of a request is waited for longer than a `LimitedCursor` allows. `purge`, which
    nobody waits for, takes the time it takes.

    Not on Oracle, which compares no long texts.
    """

    thread_sensitive = True  # Django's connections belong to a thread.

    def __init__(self, cache: BaseDatabaseCache) -> None:
        self._cache = cache
        self._model: Any = cache.cache_model_class
        self._table: str = self._model._meta.db_table
        self._compiled: dict[str, _Statements] = {}

    def describe(self) -> str:
        connection = self.connection()
        return Phrase(
            gettext_noop("cache table %(table)s in database %(database)s (%(vendor)s)"),
            table=self._table,
            database=repr(connection.alias),
            vendor=connection.vendor,
        )

    def read(self, session_id: str) -> Record | None:
        # The table is swept now and then only, so that what it has may have expired.
        text = self._find(session_id, time.time_ns() // 1_000_000)
        return None if text is None else _unpack(session_id, text)

    def create(self, record: Record, now: int) -> Updated | Taken:
        text = _pack(record)
        if self._insert(record.id, text, record.expires):
            return Updated(_with_handle(record, text))
        return Taken()

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        text = _pack(record)
        current = self._compared(base, now)
        for _ in range(_ROUNDS):
            if current is None:
                return Gone()
            if current.version != base.version:
                return Conflict(current)
            if self._replace(record.id, text, record.expires, current.handle):
                return Updated(_with_handle(record, text))
            # If the version is still the same, someone has only moved the expiry.
            current = self._current(base.id, now)
        raise self._contended()

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        current = self._compared(base, now)
        if current is None or current.version != base.version:
            return False
        touched = moved(current, expires, last_activity)
        return self._replace(base.id, _pack(touched), touched.expires, current.handle)

    def delete(self, session_id: str) -> bool:
        return bool(self._execute("delete", self._key(session_id), _LIVE))

    def purge(self, now: int, batch: int) -> int:
        # Whatever it is that has expired: the cache itself does the same when it is full.
        connection, statements = self._database()
        moment = _moment(now, connection)
        with self._errors(), connection.cursor() as cursor:
            cursor.execute(statements.expired, (moment, min(batch, _PURGE_AT_MOST)))
            keys = [row[0] for row in cursor.fetchall()]
            if not keys:
                return 0
            quote = connection.ops.quote_name
            marks = ", ".join(["%s"] * len(keys))
            # Looked at again, for who was touched meanwhile.
            cursor.execute(
                f"DELETE FROM {quote(self._table)} WHERE {quote('cache_key')} IN ({marks}) "  # noqa: S608
                f"AND {quote('expires')} <= %s",
                (*keys, moment),
            )
            return int(cursor.rowcount)

    def fill(self, record: Record, until: int, now: int) -> None:
        text = _pack(record)
        for _ in range(_ROUNDS):
            found = self._find(record.id, 0, latest=True)
            if found is None:
                if self._insert(record.id, text, until):
                    return
                continue
            try:
                if is_refused(record, _unpack(record.id, found), now):
                    return
            except UnreadablePayload:
                pass
            if self._replace(record.id, text, until, found):
                return
        raise self._contended()

    def bury(self, grave: Record, now: int) -> None:
        text = _pack(grave)
        for _ in range(_ROUNDS):
            if self._execute("overwrite", text, grave.expires, self._key(grave.id)) or self._insert(
                grave.id, text, grave.expires
            ):
                return
        raise self._contended()

    def in_transaction(self) -> bool:
        return self.connection().in_atomic_block

    async def ain_transaction(self) -> bool:
        return await self._in_thread(self.in_transaction)()

    def after_commit(self, action: Callable[[], object]) -> None:
        transaction.on_commit(action, using=self.connection().alias)

    def connection(self) -> BaseDatabaseWrapper:
        """Django's connection to the database of the table, which need not be open."""
        return self._database()[0]

    # --- Rows ---------------------------------------------------------------------------------

    def _compared(self, base: Record, now: int) -> Record | None:
        """The record to compare with ``base``: itself, where its value is known."""
        if base.handle is not None and base.expires > now:
            return base
        return self._current(base.id, now)

    def _current(self, session_id: str, now: int) -> Record | None:
        """The record in the store, unless it has expired."""
        text = self._find(session_id, now, latest=True)
        return None if text is None else _unpack(session_id, text)

    def _find(self, session_id: str, moment: int, *, latest: bool = False) -> str | None:
        """The value of a row that expires after a moment."""
        connection, statements = self._database()
        lock = latest and connection.in_atomic_block
        with self._errors(), LimitedCursor(connection) as cursor:
            cursor.execute(
                statements.read_latest if lock else statements.read,
                (self._key(session_id), _moment(moment, connection)),
            )
            row = cursor.fetchone()
        return None if row is None else row[0]

    def _insert(self, session_id: str, text: str, expires: int) -> bool:
        try:
            return self._execute("insert", self._key(session_id), text, expires) == 1
        except IntegrityError:
            return False

    def _replace(self, session_id: str, text: str, expires: int, seen: str) -> bool:
        return self._execute("replace", text, expires, self._key(session_id), seen) == 1

    def _execute(self, statement: str, *parameters: Any) -> int:
        """How many rows a statement changed. An integer among its parameters is a moment."""
        connection, statements = self._database()
        adapted = [_moment(p, connection) if isinstance(p, int) else p for p in parameters]
        with self._errors(), LimitedCursor(connection) as cursor:
            cursor.execute(getattr(statements, statement), adapted)
            return int(cursor.rowcount)

    # --- The database -------------------------------------------------------------------------

    def _key(self, session_id: str) -> str:
        return self._cache.make_key(NAMESPACE + session_id)

    def _database(self) -> tuple[BaseDatabaseWrapper, _Statements]:
        # Routers are asked each time: some decide by the request. Never a replica, which may lag.
        alias = router.db_for_write(self._model)
        connection = connections[alias]
        statements = self._compiled.get(alias)
        if statements is None:
            statements = self._compiled[alias] = _compile(self._table, connection)
        return connection, statements

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Tell the store's errors from those of the caller's transaction, which pass."""
        try:
            yield
        except (IntegrityError, TransactionManagementError):
            raise
        except (DatabaseError, InterfaceError) as error:
            # The text has no part of the driver's: that may quote data. It stands in the cause.
            if error.args[:1] == (_MYSQL_PACKET_TOO_LARGE,) or "too big" in str(error):
                raise PayloadTooLarge(
                    f"{self.describe()} takes no session of this size."
                ) from error
            raise StorageUnavailable(
                f"{self.describe()} did not answer as it should ({type(error).__name__}). If the "
                "table is missing, run: python manage.py createcachetable"
            ) from error

    def _contended(self) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self.describe()}: others changed the row of a session {_ROUNDS} times in a row"
        )


def _moment(milliseconds: int, connection: BaseDatabaseWrapper) -> Any:
    """The moment as the column has it, in whole seconds as the cache writes it."""
    seconds = min(-(-milliseconds // 1000), _LATEST)
    moment = datetime.fromtimestamp(seconds, tz=UTC if settings.USE_TZ else None)
    return connection.ops.adapt_datetimefield_value(moment)


def _pack(record: Record) -> str:
    return base64.b64encode(pack(record)).decode("ascii")


def _unpack(session_id: str, text: str) -> Record:
    try:
        data = base64.b64decode(text)
    except ValueError:
        raise UnreadablePayload("record is no Base64") from None
    return unpack(session_id, data, text)


def _with_handle(record: Record, text: str) -> Record:
    return msgspec.structs.replace(record, handle=text)
