"""Records in the table of Django's database cache, by statements of our own.

Not through the cache's own methods. Its ``set`` reports nothing when the database refuses the
write, its ``add`` lets two callers take over an expired row, its ``get`` deletes by key what was
expired when it looked, and each write counts all rows. None of them can compare.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Generator, Iterator
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
from ..records import (
    OWNER_OFFSET,
    START_SIZE,
    Record,
    is_session_id,
    moved,
    pack,
    pack_owner,
    unpack,
    unpack_start,
)
from ..words import Phrase
from .base import (
    NAMESPACE,
    CacheStorage,
    Conflict,
    Gone,
    Outcome,
    Page,
    Taken,
    Updated,
    after,
    page_of,
    prefix_of,
)
from .copies import is_refused
from .deadline import LimitedCursor

# A round is lost only to someone who touched or filled the same session at that very moment.
_ROUNDS: Final = 50

# Below the 999 parameters that every SQLite takes.
_PURGE_AT_MOST: Final = 500

_LIVE: Final = f"{base64.b64encode(pack(Record(id=''))[:3]).decode()}%"
"""The values of live records begin so: with format and state, in the first of four letters."""

_LISTED_AT_MOST: Final = 1000
"""Rows that one statement of a list looks at."""
_END: Final = NAMESPACE[:-2] + chr(ord(NAMESPACE[-2]) + 1)
"""Comes after all that begins with `NAMESPACE`, in the order of any database: the last letter of
that is the next one. Languages differ in how they sort punctuation, and what stands behind it."""
_START_LETTERS: Final = -(-START_SIZE // 3) * 4
_OWNER_LETTER: Final = -(-OWNER_OFFSET * 8 // 6)
"""The first letter of a value that tells nothing but the user, see `_owner_letters`."""

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
    listed: str
    counted: str


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
    between = f"{key} > %s AND {key} < %s"
    # MySQL takes upper and lower case for the same, and the prefixes of two caches with it.
    starts = f"SUBSTR({key}, 1, %s)"
    if connection.vendor == "mysql":
        starts = f"CONVERT({starts} USING utf8mb4) COLLATE utf8mb4_bin"
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
        # Keys of all rows in a stretch of them, but values only of those that are wanted: the
        # work of a statement is bounded, whoever is looked for. Its length without padding tells
        # the size of what is in the value.
        listed=(
            f"SELECT {key}, CASE WHEN {value} LIKE %s AND SUBSTR({value}, {_OWNER_LETTER + 1}, %s)"  # noqa: S608
            f" = %s THEN SUBSTR({value}, 1, {_START_LETTERS}) END, "
            f"CASE WHEN {value} LIKE %s THEN LENGTH(REPLACE({value}, '=', '')) END "
            f"FROM {table} WHERE {between} ORDER BY {key} LIMIT %s"
        ),
        counted=(
            f"SELECT COUNT(*) FROM {table} WHERE {between} AND {starts} = %s "  # noqa: S608
            f"AND {expires} > %s AND {value} LIKE %s"
        ),
    )


class DatabaseCacheStorage(CacheStorage):
    """Records as rows of a cache table, in the database that the routers name for writing it.

    The value is the packed record in Base64, nothing pickled. It is also the handle: an update
    is one statement that replaces the value it has seen. Sessions do not count for the cache's
    ``MAX_ENTRIES``, but are dropped when something else in the table fills it up.

    No statement of a request is waited for longer than a `LimitedCursor` allows. `purge`, which
    nobody waits for, takes the time it takes. So does the `count` of all.

    A list follows the primary key, in whatever order the database sorts it, through the rows under
    `NAMESPACE`. Rows of others among them are passed over.

    Not on Oracle, which compares no long texts.
    """

    thread_sensitive = True  # Django's connections belong to a thread.

    def __init__(self, cache: BaseDatabaseCache) -> None:
        self._cache = cache
        self._model: Any = cache.cache_model_class
        self._table: str = self._model._meta.db_table
        self._compiled: dict[str, _Statements] = {}

    @property
    def lists(self) -> bool:  # type: ignore[override]
        """Whether the keys of the rows tell the ids, which is up to the cache's KEY_FUNCTION.

        Asked when somebody wants to know: what that returns may depend on the request.
        """
        return prefix_of(self._cache.make_key) is not None

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
        moment = _begun(now, connection)
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

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        """See `Storage.scan`. Reads the start of each row of the page, or of the user."""
        return page_of(self._records(after(cursor), limit, user_id), limit)

    def count(self, now: int, user_id: str | None) -> int:
        """See `Storage.count`. Looks at all rows of sessions, and leaves out those that end within
        this second."""
        if user_id is not None:
            records = self._records("", _LISTED_AT_MOST, user_id)
            return sum(record.is_live(now) for record in records)
        connection, statements = self._database()
        prefix = self._prefix()
        condition = (prefix + NAMESPACE, prefix + _END, len(prefix), prefix)
        with self._errors(), connection.cursor() as cursor:
            cursor.execute(statements.counted, (*condition, _expiry(now, connection), _LIVE))
            return int(cursor.fetchone()[0])

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
        record = None if text is None else _unpack(session_id, text)
        return record if record is not None and record.expires > now else None

    def _find(self, session_id: str, moment: int, *, latest: bool = False) -> str | None:
        """The value of a row that expires after a moment, or in its second."""
        connection, statements = self._database()
        lock = latest and connection.in_atomic_block
        with self._errors(), LimitedCursor(connection) as cursor:
            cursor.execute(
                statements.read_latest if lock else statements.read,
                (self._key(session_id), _begun(moment, connection)),
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
        adapted = [_expiry(p, connection) if isinstance(p, int) else p for p in parameters]
        with self._errors(), LimitedCursor(connection) as cursor:
            cursor.execute(getattr(statements, statement), adapted)
            return int(cursor.rowcount)

    def _records(self, last: str, limit: int, user_id: str | None) -> Iterator[Record]:
        """The readable live-state records after an id, by id, without payloads."""
        prefix = self._prefix()
        start = prefix + NAMESPACE
        key, end, letters = start + last, prefix + _END, _owner_letters(user_id)
        at_once = min(limit + 1, _LISTED_AT_MOST) if user_id is None else _LISTED_AT_MOST
        wanted = (_LIVE, len(letters), letters, _LIVE)
        while True:
            connection, statements = self._database()
            with self._errors(), LimitedCursor(connection) as cursor:
                cursor.execute(statements.listed, (*wanted, key, end, at_once))
                rows = cursor.fetchall()
            for key, text, length in rows:
                if text is not None and key.startswith(start):
                    record = self._listed(key[len(start) :], text, length)
                    if record is not None and user_id in {None, record.user_id}:
                        yield record
            if len(rows) < at_once:
                return

    def _listed(self, session_id: str, text: str, length: int) -> Record | None:
        """The record whose value begins with a text; ``None`` where it is none of ours."""
        if not is_session_id(session_id):
            return None
        try:
            record = unpack_start(session_id, base64.b64decode(text), length * 6 // 8)
            return record or self.read(session_id)
        except (ValueError, UnreadablePayload):
            return None

    # --- The database -------------------------------------------------------------------------

    def _prefix(self) -> str:
        """What is in front of `NAMESPACE` in the keys. Only where it `lists`."""
        return self._cache.make_key("")

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


def _expiry(milliseconds: int, connection: BaseDatabaseWrapper) -> Any:
    """When a row expires, as the column has it: in whole seconds, and never too early."""
    return _seconds(-(-milliseconds // 1000), connection)


def _begun(milliseconds: int, connection: BaseDatabaseWrapper) -> Any:
    """The second that a moment is in. Rows that expire in it are not expired yet, or may not be;
    their records know."""
    return _seconds(milliseconds // 1000, connection)


def _seconds(seconds: int, connection: BaseDatabaseWrapper) -> Any:
    moment = datetime.fromtimestamp(min(seconds, _LATEST), tz=UTC if settings.USE_TZ else None)
    return connection.ops.adapt_datetimefield_value(moment)


def _owner_letters(user_id: str | None) -> str:
    """What is at `_OWNER_LETTER` in the values of a user's records, and of few others': it ends a
    few bits before the user does. Empty for any user."""
    if user_id is None:
        return ""
    owner = pack_owner(user_id)
    text = base64.b64encode(bytes(OWNER_OFFSET) + owner).decode()
    # The letters behind that depend on what follows the user.
    return text[_OWNER_LETTER : (OWNER_OFFSET + len(owner)) * 8 // 6]


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
