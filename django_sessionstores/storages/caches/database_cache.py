"""The storage of records in the table of Django's database cache.

It uses SQL statements of its own, see `cache_table`, and not the methods of the cache. Those do not
have a compare-and-set, and each write counts all rows. ``set`` does not report that the database
has refused the write, ``add`` lets two callers replace the same expired row, and ``get`` deletes by
key a row that was expired when it looked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import msgspec
from django.core.cache.backends.db import BaseDatabaseCache
from django.db import DatabaseError, IntegrityError, InterfaceError
from django.db.transaction import TransactionManagementError
from django.utils.translation import gettext_noop

from ...core import clock
from ...core.phrases import Phrase
from ...core.records import Record, is_session_id, with_times
from ...exceptions import PayloadTooLarge, StorageUnavailable, UnreadablePayload
from ..base import (
    LITTER_AGE,
    NAMESPACE,
    CacheStorage,
    Gone,
    Outcome,
    Page,
    Taken,
    Updated,
    id_of_cursor,
    page_of,
    prefix_of,
    refusal,
)
from ..copies import is_refused
from ..outcomes import known_base
from ..sql.connection_errors import TOO_LARGE, is_too_large, outage_of, refuses_statement
from ..sql.deadline import LimitedCursor, breaker_of, renew_if_closed
from ..sql.end_statements import EndStatements
from ..sql.free_rows import write, write_if_free
from ..sql.lost_races import (
    conflict_before_cleanup,
    conflict_in_transaction,
    retry,
)
from ..sql.table_storage import TableStorage
from .cache_table import (
    LIVE_VALUES,
    NAMESPACE_END,
    TOMBSTONE_VALUES,
    Statements,
    compile_statements,
    expiry_of,
    owner_letters,
    put_statement,
    record_of,
    record_of_start,
    second_of,
    site_letters,
    value_of,
)

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

# A round is lost only to a request that touches or fills the same session at that very moment.
_ROUNDS: Final = 50

# Below the 999 parameters that every SQLite accepts.
_MAX_PURGED: Final = 500

_MAX_PUT: Final = 300
"""The number of rows that one statement writes, with three parameters each, see `_MAX_PURGED`."""

_MAX_LISTED: Final = 1000
"""The maximum number of rows that one statement of a list reads."""


class DatabaseCacheStorage(TableStorage[Statements], CacheStorage):
    """Records as rows of a cache table, in the database to which the routers write it.

    The value of a row is the packed record in Base64; nothing is pickled. The value is also the
    handle: an update is one statement that replaces the value that was read. Sessions do not count
    for the cache's ``MAX_ENTRIES``, but the cache removes them when other entries fill the table.

    A request does not wait for a statement longer than a `LimitedCursor` allows. `purge`, for which
    no request waits, has no limit, and neither has the `count` of all sessions.

    A list follows the primary key, in the order in which the database sorts it, through the rows
    whose keys begin with `NAMESPACE`. Other rows between them are skipped.

    Oracle is not supported, because it cannot compare long texts.
    """

    def __init__(self, cache: BaseDatabaseCache) -> None:
        model = cache.cache_model_class
        self._table: str = model._meta.db_table
        super().__init__(model, partial(compile_statements, self._table))
        self._cache = cache

    @property
    def lists(self) -> bool:  # type: ignore[override]
        """Whether the keys of the rows show the ids, which depends on the cache's KEY_FUNCTION.

        It is not computed once for all, because the result of that may depend on the request.
        """
        return prefix_of(self._cache.make_key) is not None

    def describe(self) -> str:
        return Phrase(
            gettext_noop("cache table %(table)s in database %(database)s (%(vendor)s)"),
            **self._texts(),
        )

    def namespace(self) -> str:
        return self._key("")

    def lookup(self, session_id: str) -> Record | None:
        """See `Storage.lookup`. A row that has expired is found as well, as long as it is there."""
        text = self._find(session_id, 0)
        return None if text is None else record_of(session_id, text)

    def read(self, session_id: str) -> Record | None:
        # The cache removes expired rows only from time to time, so the row may have expired.
        text = self._find(session_id, clock.now())
        return None if text is None else record_of(session_id, text)

    def create(self, record: Record, now: int) -> Updated | Taken:
        text = value_of(record)
        # The cache removes expired rows only from time to time. An expired row counts as absent.
        if self._insert(record.id, text, record.expires) or self._take_over(record, text, now):
            return self._outcome(record, text)
        return Taken()

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        text = value_of(record)
        current = known_base(base, now) or self._current_record(base.id, now)
        for _ in range(_ROUNDS):
            refused = refusal(current, base, now)
            if current is None or refused is not None:
                return refused or Gone()
            if self._replace(record.id, text, record.expires, current.handle):
                return self._outcome(record, text)
            # If the version is still the same, another request has only moved the expiry.
            current = self._current_record(base.id, now)
        raise self._contention()

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        with conflict_before_cleanup():
            return super().rotate(record, base, tombstone, now)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        current = known_base(base, now) or self._current_record(base.id, now)
        if current is None or refusal(current, base, now) is not None:
            return False
        touched = with_times(current, expires, last_activity)
        values = (value_of(touched), touched.expires, self._key(base.id), current.handle)
        return self._execute("touch", *values, write=write_if_free) == 1

    def delete(self, session_id: str) -> bool:
        letters, moment = self._site_letters(), second_of(clock.now(), self.connection())
        row = (self._key(session_id), *TOMBSTONE_VALUES, LIVE_VALUES, *letters)
        if self._execute("delete_unexpired", *row, moment, sites=letters):
            return True
        self._execute("delete", *row, sites=letters)
        return False

    def _end_statements(self) -> tuple[EndStatements, Sequence[Any]]:
        _, statements = self._database()
        letters = self._site_letters()
        is_live = statements.for_sites("is_live", letters)
        values = (*TOMBSTONE_VALUES, LIVE_VALUES, *letters)
        return statements.end._replace(is_live=is_live), values

    def _row_key(self, session_id: str) -> str:
        return self._key(session_id)

    def purge(self, now: int, batch: int) -> int:
        # After a while all expired rows, not only sessions: the cache itself does the same when it
        # is full.
        connection, statements = self._database()
        moment, litter = second_of(now, connection), second_of(now - LITTER_AGE, connection)
        letters, prefix = self._site_letters(), prefix_of(self._cache.make_key) or ""
        own: list[Any] = [*_keys_after(prefix), len(prefix), prefix, *letters]
        with self._errors(), connection.cursor() as cursor:
            sql = statements.for_sites("find_expired", letters)
            cursor.execute(sql, (moment, litter, *own, min(batch, _MAX_PURGED)))
            keys = [row[0] for row in cursor.fetchall()]
            if not keys:
                return 0
            quote = connection.ops.quote_name
            marks = ", ".join(["%s"] * len(keys))
            # The expiry is compared again, because a row may have been touched meanwhile.
            cursor.execute(
                f"DELETE FROM {quote(self._table)} WHERE {quote('cache_key')} IN ({marks}) "  # noqa: S608
                f"AND {quote('expires')} <= %s",
                (*keys, moment),
            )
            return int(cursor.rowcount)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """See `Storage.scan`. Reads the start of each row of the page, or of the user."""
        records = self._records(id_of_cursor(cursor), limit, user_id, live_at)
        return page_of(self.own(records), limit)

    def count(self, now: int, user_id: str | None) -> int:
        """See `Storage.count`. Reads all rows of sessions.

        The count of all sessions leaves out those that expire within this second.
        """
        if user_id is not None:
            records = self._records("", _MAX_LISTED, user_id, now)
            return sum(record.is_live(now) for record in self.own(records))
        connection, statements = self._database()
        letters, prefix = self._site_letters(), self._prefix()
        condition = (*_keys_after(prefix), len(prefix), prefix, *letters)
        with self._errors(), connection.cursor() as cursor:
            parameters = (*condition, expiry_of(now, connection), LIVE_VALUES)
            cursor.execute(statements.for_sites("count_live", letters), parameters)
            return int(cursor.fetchone()[0])

    def fill(self, record: Record, until: int, now: int) -> None:
        text = value_of(record)
        for _ in range(_ROUNDS):
            found = self._find(record.id, 0, latest=True)
            if found is None:
                if self._insert(record.id, text, until):
                    return
                continue
            try:
                if is_refused(record, record_of(record.id, found), now):
                    return
            except UnreadablePayload:
                pass
            if self._replace(record.id, text, until, found):
                return
        raise self._contention()

    def leave_tombstone(self, tombstone: Record, now: int) -> None:
        text = value_of(tombstone)
        for _ in range(_ROUNDS):
            if self._execute(
                "overwrite", text, tombstone.expires, self._key(tombstone.id)
            ) or self._insert(tombstone.id, text, tombstone.expires):
                return
        raise self._contention()

    def leave_tombstones(self, tombstones: Sequence[Record], now: int) -> None:
        """See `CacheStorage.leave_tombstones`. A statement for many rows, if the database has it.

        The rows are written in the order of their keys, so that no two requests that leave some of
        the same tombstones wait for each other.
        """
        one_by_one = partial(super().leave_tombstones, tombstones, now)
        can_put = self.connection().features.supports_update_conflicts
        together = partial(self._put, tombstones) if can_put else one_by_one
        self._commit_once(together, one_by_one)

    def _put(self, records: Sequence[Record]) -> None:
        """Store records in place of whatever there is under their ids."""
        connection, _ = self._database()
        by_key = {self._key(each.id): each for each in records}
        rows = [
            (key, value_of(record), expiry_of(record.expires, connection))
            for key, record in sorted(by_key.items())
        ]
        for start in range(0, len(rows), _MAX_PUT):
            some = rows[start : start + _MAX_PUT]
            sql = put_statement(self._table, connection, len(some))
            with self._errors(sql):
                retry(connection, partial(write, connection, sql, [*chain(*some)]))

    def _outcome(self, record: Record, text: str) -> Updated:
        return Updated(_with_handle(record, text), is_provisional=self.in_transaction())

    # --- Rows ---------------------------------------------------------------------------------

    def _current_record(self, session_id: str, now: int) -> Record | None:
        """Return the record in the store; ``None`` if it had expired a second before ``now``."""
        text = self._find(session_id, now, latest=True)
        return None if text is None else record_of(session_id, text)

    def _find(self, session_id: str, moment: int, *, latest: bool = False) -> str | None:
        """Return the value of a row that expires after ``moment``, or in the same second.

        With ``latest``, the row is read as it is now, also in a transaction.
        """
        connection, statements = self._database()
        lock = latest and connection.in_atomic_block
        sql = statements.read_latest if lock else statements.read
        parameters = (self._key(session_id), second_of(moment, connection))

        def fetch() -> Any:
            with LimitedCursor(connection, only_reads=not lock) as cursor:
                cursor.execute(sql, parameters)
                return cursor.fetchone()

        with self._errors(sql):
            row = retry(connection, fetch, only_reads=not lock)
        return None if row is None else row[0]

    def _insert(self, session_id: str, text: str, expires: int) -> bool:
        try:
            return self._execute("insert", self._key(session_id), text, expires) == 1
        except IntegrityError:
            return False

    def _take_over(self, record: Record, text: str, now: int) -> bool:
        """Store a record in a row that has expired."""
        begun = now - now % 1000
        return self._execute("take_over", text, record.expires, self._key(record.id), begun) == 1

    def _replace(self, session_id: str, text: str, expires: int, seen: str) -> bool:
        return self._execute("replace", text, expires, self._key(session_id), seen) == 1

    def _execute(
        self,
        statement: str,
        *parameters: Any,
        sites: Sequence[str] = (),
        write: Callable[[BaseDatabaseWrapper, str, Sequence[Any]], int] = write,
    ) -> int:
        """Return how many rows the statement changed. An integer in its parameters is a moment."""
        connection, statements = self._database()
        adapted = [expiry_of(p, connection) if isinstance(p, int) else p for p in parameters]
        sql = statements.for_sites(statement, sites)
        with self._errors(sql):
            return retry(connection, lambda: write(connection, sql, adapted))

    def _records(
        self, last: str, limit: int, user_id: str | None, live_at: int
    ) -> Iterator[Record]:
        """Yield the readable live records after an id, in order of ids, without payloads.

        Those that have expired by ``live_at`` are left out, except in the second of ``live_at``.
        """
        prefix = self._prefix()
        start = prefix + NAMESPACE
        key, end, letters = start + last, _keys_after(prefix)[1], owner_letters(user_id)
        at_once = min(limit + 1, _MAX_LISTED) if user_id is None else _MAX_LISTED
        wanted = (LIVE_VALUES, len(letters), letters, LIVE_VALUES)
        while True:
            connection, statements = self._database()
            with self._errors(), LimitedCursor(connection, only_reads=True) as cursor:
                moment = second_of(live_at, connection)
                cursor.execute(statements.list_page, (*wanted, key, end, moment, at_once))
                rows = cursor.fetchall()
            for key, text, length in rows:
                if text is not None and key.startswith(start):
                    record = self._list_entry(key[len(start) :], text, length)
                    if record is not None and user_id in {None, record.user_id}:
                        yield record
            if len(rows) < at_once:
                return

    def _list_entry(self, session_id: str, text: str, length: int) -> Record | None:
        """Return the record whose value begins with a text; ``None`` if it is not a record."""
        if not is_session_id(session_id):
            return None
        try:
            return record_of_start(session_id, text, length) or self.read(session_id)
        except (ValueError, UnreadablePayload):
            return None

    # --- The database -------------------------------------------------------------------------

    def _prefix(self) -> str:
        """Return what precedes `NAMESPACE` in the keys. Only if the storage `lists`."""
        return self._cache.make_key("")

    def _site_letters(self) -> list[str]:
        return [site_letters(each) for each in (0, *self.sites())]

    def _key(self, session_id: str) -> str:
        return self._cache.make_key(NAMESPACE + session_id)

    @contextmanager
    def _errors(self, sql: str = "") -> Generator[None]:
        """Translate errors of the store; errors of the caller's transaction pass.

        ``sql`` is the statement, if there is one only.
        """
        log = breaker_of(self.connection()).log
        try:
            # Before a transaction begins, and before statements without a limit.
            renew_if_closed(self.connection())
            yield
        except (IntegrityError, TransactionManagementError):
            raise
        except (DatabaseError, InterfaceError) as error:
            if conflict := conflict_in_transaction(self.connection(), error):
                raise conflict from error
            if is_too_large(error):
                raise PayloadTooLarge(f"{self.describe()} {TOO_LARGE}") from error
            failure = outage_of(self.connection(), error, self._table, "createcachetable")
            refused = sql if refuses_statement(self.connection(), error) else ""
            log.failed(failure, refused or None)
            raise failure from error
        except StorageUnavailable as failure:
            log.failed(failure)
            raise
        if log.is_open:
            log.succeeded(sql)

    def _contention(self) -> StorageUnavailable:
        return StorageUnavailable(
            f"{self.describe()}: other requests changed the row of a session {_ROUNDS} times in a "
            "row. Try again later."
        )


def _keys_after(prefix: str) -> tuple[str, str]:
    """Return two strings between which all keys with a prefix and `NAMESPACE` sort."""
    return prefix + NAMESPACE, prefix + NAMESPACE_END


def _with_handle(record: Record, value: str) -> Record:
    return msgspec.structs.replace(record, handle=value)
