"""The storage of records in a database table, through Django's connections.

Django's ORM owns the table, its migrations and its routing. The statements of each request are
compiled once per database and run through Django's cursor, because building the same query with the
ORM takes longer than the database takes to answer it. Each is a single statement in autocommit,
without a transaction around it, and atomic by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import DataError, Error, IntegrityError, transaction
from django.db.models import Q
from django.db.models.functions import Length
from django.db.transaction import TransactionManagementError
from django.utils.translation import gettext_noop

from ...core import clock
from ...core.phrases import Phrase
from ...core.records import TOMBSTONES, Record, State, is_session_id
from ...core.summary import Summary
from ...exceptions import (
    PayloadTooLarge,
    StorageUnavailable,
    UnreadablePayload,
)
from ..base import (
    LITTER_AGE,
    Conflict,
    Gone,
    Outcome,
    Page,
    Taken,
    Updated,
    expiry_cursor,
    expiry_page,
    is_removal,
    place_of_cursor,
)
from . import ends, transactions
from .connection_errors import (
    NO_GREETING,
    TOO_LARGE,
    handshake_error,
    is_too_large,
    outage_of,
    refuses_statement,
)
from .deadline import LimitedCursor, breaker_of, renew_if_closed
from .end_statements import EndStatements, returns_deleted
from .free_rows import write_if_free
from .lost_races import (
    code_of,
    conflict_before_cleanup,
    conflict_in_transaction,
    retry,
)
from .rows import LIST_FIELDS, Row, differs_only_as_saved, entry_of, key_of, record_of, row_of
from .statements import Statements, compile_statements
from .summary import count_live, is_live, summarize
from .table_storage import TableStorage
from .texts import read_texts

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import QuerySet

    from ...models import StoredSession

_APP: Final = "django_sessionstores"
# PostgreSQL's error for which Django has no class.
_TRANSACTION_IS_ABORTED: Final = "25P02"

_CURRENT_READS: Final = frozenset({"read committed", "read uncommitted"})
"""The isolation levels, as Django names them, at which each statement sees the current rows."""


def require_app() -> None:
    """Raise ``ImproperlyConfigured`` if the app with the table is not installed."""
    if not apps.is_installed(_APP):
        raise ImproperlyConfigured(
            f"Sessions, or their registry, are in a table of {_APP!r}. Add {_APP!r} to "
            "INSTALLED_APPS and run: python manage.py migrate"
        )


def _require_sql(connection: BaseDatabaseWrapper) -> None:
    """Raise ``ImproperlyConfigured`` for a database whose cursors take no SQL."""
    if connection.vendor == "mongodb":
        raise ImproperlyConfigured(
            f"The database {connection.alias!r} is MongoDB, which cannot run the SQL of this "
            "engine. Use the engine 'mongodb' instead, for the registry as well, or have a router "
            f"name another database for the app {_APP!r}."
        )


class DatabaseStorage(TableStorage[Statements]):
    """Records as rows of `StoredSession`, in the database to which the routers write them.

    They are read from there as well: a replica may lag, and a session that was just logged in must
    be found.

    A request does not wait for a statement longer than a `LimitedCursor` allows. `purge` has no
    limit: no request waits for it, and a statement that is cut short would have to be done again.
    """

    lists = True
    indexes_users = True
    indexes_counts = True
    _model: type[StoredSession]

    def __init__(self) -> None:
        require_app()
        # Not at the top: models need an installed app, but this module must be importable without.
        from ...models import StoredSession

        super().__init__(StoredSession, partial(compile_statements, StoredSession))
        _require_sql(self.connection())

    def describe(self) -> str:
        return Phrase(
            gettext_noop("table %(table)s in database %(database)s (%(vendor)s)"),
            **self._texts(),
        )

    def read(self, session_id: str) -> Record | None:
        return self._find(session_id)

    def read_latest(self, session_id: str) -> Record | None:
        return self._find(session_id, locks=_reads_the_past(self.connection()))

    # Callers decide by these reads, as they do by the record that an update of no row returns.

    def lookup(self, session_id: str) -> Record | None:
        return self.read_latest(session_id)

    def lookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        connection, statements = self._database()
        sql, found = statements.lookup_many(len(session_ids)), dict[str, Record]()
        if _reads_the_past(connection):
            sql += " FOR UPDATE"
        keys = tuple(map(key_of, session_ids))
        for *fields, size in _fetch_all(connection, sql, keys) if keys else ():
            with suppress(UnreadablePayload):
                record = entry_of((fields[0], fields[1] or b"", *fields[2:]), size)
                found[record.id] = record
        return found

    async def alookup(self, session_id: str) -> Record | None:
        return await self._in_thread(self.read_latest)(session_id)

    async def aread_latest(self, session_id: str) -> Record | None:
        return await self._in_thread(self.read_latest)(session_id)

    def follow(self, base: Record, successor: str) -> Record | None:
        return self.read_latest(successor)

    async def afollow(self, base: Record, successor: str) -> Record | None:
        return await self._in_thread(self.read_latest)(successor)

    def create(self, record: Record, now: int) -> Updated | Taken:
        connection, statements = self._database()
        try:
            created = _execute(connection, statements.create, row_of(record))
        except IntegrityError:
            # A database without ON CONFLICT does not abort a transaction after this error.
            if self.read_latest(record.id) is None:
                raise
            return Taken()
        return _outcome(connection, record) if created else Taken()

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        connection, statements = self._database()
        condition = (key_of(base.id), base.version, now)
        sql, values = statements.update, row_of(record)[1:]
        if is_removal(record):
            sql, values = statements.remove, ()
        elif differs_only_as_saved(record, base):
            sql, values = statements.save, (record.payload, record.version, record.last_activity)
        if _execute(connection, sql, (*values, *condition)):
            return _outcome(connection, record)
        return self._refusal(base.id, now)

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        """See `Storage.rotate`. One statement on PostgreSQL.

        On other databases, the new record is created first and the tombstone second. Renaming the
        row and then creating a tombstone takes as many statements, but between them the old id
        would be unknown: a parallel request would have its cookie deleted.
        """
        connection, statements = self._database()
        if statements.rotate is None:
            if connection.vendor != "sqlite" or transactions.is_open(connection):
                with conflict_before_cleanup():
                    return super().rotate(record, base, tombstone, now)
            # The cost of a write is its commit, and BEGIN is not a round trip: one commit for both.
            with _errors_of(connection), transaction.atomic(connection.alias):
                outcome = super().rotate(record, base, tombstone, now)
            # The transaction was not the caller's.
            return Updated(record) if isinstance(outcome, Updated) else outcome
        condition = (key_of(base.id), base.version, now, key_of(record.id))
        parameters = (*row_of(tombstone)[1:], *condition, *row_of(record))
        if _execute(connection, statements.rotate, parameters):
            return _outcome(connection, record)
        latest = self._refusal(base.id, now)
        if isinstance(latest, Conflict) and latest.current.version == base.version:
            return Taken()
        return latest

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        connection, statements = self._database()
        parameters = (expires, last_activity, key_of(base.id), base.version, now)
        touch = partial(write_if_free, connection, statements.touch, parameters)
        with _errors_of(connection):
            return retry(connection, touch) > 0

    def delete(self, session_id: str) -> bool:
        connection, statements = self._database()
        sites = (0, *self.sites())
        sql = statements.for_sites(statements.delete, sites)
        row = (key_of(session_id), *TOMBSTONES, *sites)
        parameters = (*row, clock.now())
        if returns_deleted(connection):
            sql = statements.delete_returning(sql, is_told=ends.tells(connection))
            deleted = _fetch_all(connection, sql, parameters)
            return any(is_unexpired for is_unexpired, *_ in deleted)
        # MySQL cannot tell what it deletes. If nothing is live, that takes another statement.
        if _execute(connection, f"{sql} AND {statements.is_unexpired}", parameters):
            return True
        _execute(connection, sql, row)
        return False

    def _end_statements(self) -> tuple[EndStatements, Sequence[Any]]:
        connection, statements = self._database()
        sites = (0, *self.sites())
        is_live = statements.for_sites(statements.end.is_live, sites)
        end = statements.end._replace(is_live=is_live, tells=ends.tells(connection))
        return end, (*TOMBSTONES, *sites)

    def _row_key(self, session_id: str) -> bytes:
        return key_of(session_id)

    def _errors(self) -> AbstractContextManager[None]:
        return _errors_of(self.connection())

    def purge(self, now: int, batch: int) -> int:
        connection, statements = self._database()
        sites, litter = (0, *self.sites()), now - LITTER_AGE
        if statements.purge is not None:
            sql = statements.for_sites(statements.purge, sites)
            removed = _execute(connection, sql, (now, litter, *sites, batch), patient=True)
            if not removed and statements.purge_endless is not None:
                removed = _execute(connection, statements.purge_endless, (batch,), patient=True)
            return removed
        # Other databases have no LIMIT for DELETE, and no common syntax for it in a subquery.
        with _errors_of(connection):
            rows = self._model._base_manager.using(connection.alias).filter(
                Q(site__in=sites) | Q(expires__lte=litter), expires__lte=now
            )
            ids = list(rows.order_by("expires").values_list("pk", flat=True)[:batch])
            return rows.filter(pk__in=ids).delete()[0] if ids else 0

    async def hear_ends(self, tell: Callable[[str], object]) -> None:
        database = await self._in_thread(lambda: ends.database_of(self.connection()))()
        if database is not None:
            await ends.hear(database, tell)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """See `Storage.scan`. The last to expire comes first, which is the last one used."""
        rows = self._rows(user_id)
        if live_at:
            rows = rows.filter(expires__gt=live_at)
        if user_id is not None and _reads_the_past(self.connection()):
            # A limit and `end_all` must not miss sessions that have begun meanwhile.
            rows = rows.select_for_update()
        if cursor:
            expires, last_id = place_of_cursor(cursor)
            # Implied by the second condition, but the index is used for this one.
            rows = rows.filter(expires__lte=expires)
            if is_session_id(last_id):
                rows = rows.exclude(expires=expires, pk__gte=key_of(last_id))
        columns = rows.values_list(*LIST_FIELDS, Length("payload")).order_by("-expires", "-pk")
        size = limit
        while True:
            rows_of_page: Callable[[], list[Row]] = partial(list, columns[: size + 1])
            with _errors_of(self.connection()):
                found = read_texts(self.connection(), rows_of_page)
            entries = _entries_in(found[:size])
            if entries or len(found) <= size:
                break
            size *= 2
        return expiry_page(entries, limit, are_all=len(found) <= size)

    def first_expired(self, now: int) -> str:
        return expiry_cursor(now)

    def count(self, now: int, user_id: str | None) -> int:
        with _errors_of(self.connection()):
            rows = self._rows(user_id)
            return count_live(rows, now) if user_id is None else rows.filter(is_live(now)).count()

    def summarize(self, now: int, limit: int) -> Summary:
        with _errors_of(self.connection()):
            rows = self._rows(None)
            return read_texts(self.connection(), lambda: summarize(rows, now, limit))

    def _rows(self, user_id: str | None) -> QuerySet[StoredSession]:
        rows = self._model._base_manager.using(self.connection().alias).filter(
            state=State.LIVE, site__in=(0, *self.sites())
        )
        if user_id is None:
            return rows
        rows = rows.filter(user_id=user_id)
        if self.connection().vendor == "mysql":
            # Which compares without regard to case, and ignores spaces at the end.
            rows = rows.filter(user_id__startswith=user_id, user_id__endswith=user_id)
        return rows

    def _refusal(self, session_id: str, now: int) -> Conflict | Gone:
        """Return why a write found no row to change."""
        current = self._find(session_id, locks=transactions.is_open(self.connection()))
        return Gone() if current is None or current.expires <= now else Conflict(current)

    def _find(self, session_id: str, *, locks: bool = False) -> Record | None:
        """Return the record in the store. With ``locks``, it is the latest, and its row locked."""
        connection, statements = self._database()
        sql = statements.read_latest if locks else statements.read
        rows = _fetch_all(connection, sql, (key_of(session_id),), only_reads=not locks)
        return record_of(rows[0]) if rows else None


def _entries_in(rows: Sequence[Row]) -> list[Record]:
    """Return the records of those rows of a list that are sessions, however damaged."""
    entries = []
    for each, *others, size in rows:
        with suppress(UnreadablePayload):
            entries.append(entry_of((each, b"", *others), size))
    return entries


def _outcome(connection: BaseDatabaseWrapper, record: Record) -> Updated:
    return Updated(record, is_provisional=transactions.is_open(connection))


def _reads_the_past(connection: BaseDatabaseWrapper) -> bool:
    """Return whether a plain SELECT returns rows as they were when the transaction began.

    UPDATE and DELETE find the current rows nevertheless. This is so on MySQL only: at the same
    isolation level, PostgreSQL refuses to write a row that has changed since.
    """
    if connection.vendor != "mysql" or not transactions.is_open(connection):
        return False
    # Django's default is READ COMMITTED, and None stands for the default of the server.
    return getattr(connection, "isolation_level", None) not in _CURRENT_READS


def _fetch_all(
    connection: BaseDatabaseWrapper, sql: str, parameters: Row, *, only_reads: bool = False
) -> Sequence[Row]:
    """Return the rows of a statement. ``only_reads`` is as for a `LimitedCursor`."""

    was_sent = False

    def fetch() -> Sequence[Row]:
        nonlocal was_sent
        with LimitedCursor(connection, only_reads=only_reads) as cursor:
            was_sent = True
            cursor.execute(sql, parameters)
            rows: Sequence[Row] = cursor.fetchall()
        return rows

    try:
        rows = read_texts(connection, lambda: retry(connection, fetch, only_reads=only_reads))
    except (Error, StorageUnavailable) as error:
        _raise_translated(error, connection, sql, was_sent=was_sent)
    _note_success(connection, sql)
    return rows


def _execute(
    connection: BaseDatabaseWrapper, sql: str, parameters: Row, *, patient: bool = False
) -> int:
    """Return how many rows the statement wrote. ``patient`` means without a limit of time."""

    was_sent = False

    def count() -> int:
        nonlocal was_sent
        with connection.cursor() if patient else LimitedCursor(connection) as cursor:
            was_sent = True
            cursor.execute(sql, parameters)
            rows: int = cursor.rowcount
        return rows

    try:
        written = retry(connection, count)
    except (Error, StorageUnavailable) as error:
        _raise_translated(error, connection, sql, was_sent=was_sent)
    _note_success(connection, sql)
    return written


@contextmanager
def _errors_of(connection: BaseDatabaseWrapper) -> Generator[None]:
    """Translate errors of the store; errors of the caller and of the data pass."""
    try:
        # Before the statements of Django's that follow, and before a transaction begins.
        renew_if_closed(connection)
        yield
    except (Error, StorageUnavailable) as error:
        _raise_translated(error, connection)
    except NO_GREETING as error:
        unopened = handshake_error(connection, error)
        if unopened is None:
            raise
        _raise_translated(unopened, connection)
    _note_success(connection)


def _note_success(connection: BaseDatabaseWrapper, sql: str = "") -> None:
    log = breaker_of(connection).log
    if log.is_open:
        log.succeeded(sql)


def _raise_translated(
    error: Error | StorageUnavailable,
    connection: BaseDatabaseWrapper,
    sql: str = "",
    *,
    was_sent: bool = True,
) -> NoReturn:
    """Raise the exception for an error, and count it as an outage if it is one."""
    translated = _translate(error, connection)
    if isinstance(translated, StorageUnavailable):
        translated.was_sent &= was_sent
        refused = sql if refuses_statement(connection, error) else ""
        breaker_of(connection).log.failed(translated, refused or None)
    if translated is None or translated is error:
        raise error
    raise translated from error


def _translate(
    error: Error | StorageUnavailable, connection: BaseDatabaseWrapper
) -> Exception | None:
    """Return the exception for an error, or ``None`` if the error is not the store's."""
    if isinstance(error, StorageUnavailable):
        return error
    if conflict := conflict_in_transaction(connection, error):
        return conflict
    if is_too_large(error):
        return PayloadTooLarge(
            f"The database {connection.alias!r} ({connection.vendor}) {TOO_LARGE}"
        )
    if isinstance(error, IntegrityError | DataError | TransactionManagementError):
        return None
    if code_of(error) == _TRANSACTION_IS_ABORTED:
        return None
    table = apps.get_model(_APP, "StoredSession")._meta.db_table
    return outage_of(connection, error, table, f"migrate --database={connection.alias}")
