"""Records in a database table, through Django's connections.

Django's ORM owns the table, its migrations and its routing. The statements of each request are
compiled once per database and run through Django's cursor: building the same query by the ORM
takes longer than the database takes to answer it. Each is a single statement in autocommit, with
no transaction around it, and atomic by itself.
"""

# ruff: noqa: S608 - the statements are made of names from the model; values are parameters.

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeAlias

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import (
    DataError,
    Error,
    IntegrityError,
    OperationalError,
    ProgrammingError,
    connections,
    router,
    transaction,
)
from django.db.models.functions import Length
from django.db.transaction import TransactionManagementError
from django.utils.translation import gettext_noop
from msgspec.structs import replace

from ..exceptions import PayloadTooLarge, StorageUnavailable, UnreadablePayload
from ..records import Record, State
from ..words import Phrase
from .base import Conflict, Gone, Outcome, Page, Storage, Taken, Updated, no_cursor
from .deadline import LimitedCursor

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.models import QuerySet

    from ..models import StoredSession

Row: TypeAlias = Sequence[Any]

_APP: Final = "django_sessionstores"
# Columns are named as fields. In the order of `_row` and `_record`.
_FIELDS: Final = (
    "id",
    "payload",
    "version",
    "state",
    "user_id",
    "created",
    "last_activity",
    "expires",
    "ip",
    "user_agent",
)

_LISTED: Final = tuple(field for field in _FIELDS if field != "payload")
"""Of a row in a list; the size of the payload comes after them."""

# What most saves change. Fewer columns are less to send and to log: a sixth of the time.
_SAVED: Final = ("payload", "version", "last_activity")

# What the drivers say, where no class of Django's says it. The numbers are MySQL's, the codes of
# five characters are PostgreSQL's.
_PACKET_TOO_LARGE: Final = 1153
_TRANSACTION_IS_ABORTED: Final = "25P02"
_LOST_A_RACE: Final = frozenset({"40001", "40P01", 1213})  # Serialization failure, deadlock.
_SCHEMA_DIFFERS: Final = ("no such table", "no such column", "has no column named")

_RETRIES: Final = 10

_CURSOR: Final = re.compile(r"\d{1,18}\.([0-9a-f]{40}|~)", re.ASCII)
"""When the last session of a page expires, which the column has room for; and its id, or what comes
after all ids."""


class _Statements(NamedTuple):
    """The SQL of one database. ``None`` where the database has no single statement for it."""

    read: str
    read_latest: str
    create: str
    update: str
    save: str
    rotate: str | None
    touch: str
    delete: str
    purge: str | None


def _compile(model: type[StoredSession], connection: BaseDatabaseWrapper) -> _Statements:
    quote = connection.ops.quote_name
    table = quote(model._meta.db_table)
    name = {field: quote(field) for field in _FIELDS}
    columns = ", ".join(name.values())
    values = ", ".join(["%s"] * len(_FIELDS))
    id_, version, state, expires, active = (
        name[field] for field in ("id", "version", "state", "expires", "last_activity")
    )
    vendor = connection.vendor
    greatest = "MAX" if vendor == "sqlite" else "GREATEST"

    read = f"SELECT {columns} FROM {table} WHERE {id_} = %s"
    create = f"INSERT INTO {table} ({columns}) VALUES ({values})"

    def update_of(fields: Sequence[str]) -> str:
        assignments = ", ".join(f"{name[field]} = %s" for field in fields)
        return (
            f"UPDATE {table} SET {assignments} "
            f"WHERE {id_} = %s AND {version} = %s AND {expires} > %s"
        )

    update = update_of(_FIELDS[1:])
    expired = f"FROM {table} WHERE {expires} <= %s ORDER BY {expires} LIMIT %s"
    # Not INSERT IGNORE on MySQL: it would also cut what is too long for its column. Nor its ON
    # DUPLICATE KEY: the count of rows is the same 1 whether there was a row or not.
    rotate = purge = None
    if vendor == "postgresql":
        create += " ON CONFLICT DO NOTHING"
        rotate = (
            f"WITH superseded AS ({update} "
            f"AND NOT EXISTS (SELECT 1 FROM {table} WHERE {id_} = %s) RETURNING {id_}) "
            f"INSERT INTO {table} ({columns}) SELECT {values} FROM superseded"
        )
        # ARRAY, because the planner may run a subquery of IN again for each row, and each time
        # it would find and lock another batch. A row that is touched after it was found is
        # looked at again when it is locked.
        purge = (
            f"DELETE FROM {table} WHERE {id_} = "
            f"ANY(ARRAY(SELECT {id_} {expired} FOR UPDATE SKIP LOCKED))"
        )
    elif vendor == "sqlite":
        create += " ON CONFLICT DO NOTHING"
        purge = f"DELETE FROM {table} WHERE {id_} IN (SELECT {id_} {expired})"
    elif vendor == "mysql":
        purge = f"DELETE {expired}"
    return _Statements(
        read=read,
        # In a transaction at REPEATABLE READ, MySQL would go on showing the version that has
        # just been found outdated.
        read_latest=read + (" FOR UPDATE" if connection.features.has_select_for_update else ""),
        create=create,
        update=update,
        save=update_of(_SAVED),
        rotate=rotate,
        touch=(
            f"UPDATE {table} SET {expires} = {greatest}({expires}, %s), "
            f"{active} = {greatest}({active}, %s) "
            f"WHERE {id_} = %s AND {version} = %s AND {expires} > %s"
        ),
        delete=f"DELETE FROM {table} WHERE {id_} = %s AND {state} = %s",
        purge=purge,
    )


def _row(record: Record) -> Row:
    return (
        record.id,
        record.payload,
        record.version,
        int(record.state),
        record.user_id,
        record.created,
        record.last_activity,
        record.expires,
        record.ip,
        record.user_agent,
    )


def _record(row: Row) -> Record:
    try:
        state = State(row[3])
    except ValueError:
        raise UnreadablePayload("record is of an unknown state") from None
    payload = row[1]
    return Record(
        id=row[0],
        # Drivers also give a memoryview.
        payload=payload if type(payload) is bytes else bytes(payload),
        version=row[2],
        state=state,
        user_id=row[4],
        created=row[5],
        last_activity=row[6],
        expires=row[7],
        ip=row[8],
        user_agent=row[9],
    )


def _differs_only_as_saved(record: Record, base: Record) -> bool:
    return (
        record.expires == base.expires
        and record.user_id == base.user_id
        and record.state is base.state
        and record.created == base.created
        and record.ip == base.ip
        and record.user_agent == base.user_agent
    )


class DatabaseStorage(Storage):
    """Records as rows of `StoredSession`, in the database that the routers name for writing it.

    For reading, too: a replica may lag, and a session that was just logged in must be found.

    No statement of a request is waited for longer than a `LimitedCursor` allows. `purge` takes
    the time it takes: nobody waits for it, and what is cut short would have to be done again.
    """

    lists = True
    indexes_users = True
    thread_sensitive = True  # Django's connections belong to a thread.

    def __init__(self) -> None:
        if not apps.is_installed(_APP):
            raise ImproperlyConfigured(
                f"Sessions, or their registry, are in a table of {_APP!r}. Add {_APP!r} to "
                "INSTALLED_APPS and run: python manage.py migrate"
            )
        # Not at the top: importing models takes an installed app, and importing this must not.
        from ..models import StoredSession

        self._model = StoredSession
        self._compiled: dict[str, _Statements] = {}

    def describe(self) -> str:
        connection = self.connection()
        return Phrase(
            gettext_noop("table %(table)s in database %(database)s (%(vendor)s)"),
            table=self._model._meta.db_table,
            database=repr(connection.alias),
            vendor=connection.vendor,
        )

    def read(self, session_id: str) -> Record | None:
        connection, statements = self._database()
        row = _fetch(connection, statements.read, (session_id,))
        return None if row is None else _record(row)

    def create(self, record: Record, now: int) -> Updated | Taken:
        connection, statements = self._database()
        try:
            created = _execute(connection, statements.create, _row(record))
        except IntegrityError:
            # Where nothing spares us the error, it spoils no transaction either.
            if self.read(record.id) is None:
                raise
            return Taken()
        return Updated(record) if created else Taken()

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        connection, statements = self._database()
        condition = (base.id, base.version, now)
        sql, values = statements.update, _row(record)[1:]
        if _differs_only_as_saved(record, base):
            sql, values = statements.save, (record.payload, record.version, record.last_activity)
        if _execute(connection, sql, (*values, *condition)):
            return Updated(record)
        return self._latest(base.id, now)

    def rotate(self, record: Record, base: Record, grave: Record, now: int) -> Outcome | Taken:
        """See `Storage.rotate`. One statement on PostgreSQL.

        Elsewhere the new record first and the tombstone second. To rename the row and then leave
        a tombstone takes as many statements, but there is a moment between them at which the old
        id is unknown: a parallel request would then have its cookie deleted.
        """
        connection, statements = self._database()
        if statements.rotate is None:
            if connection.vendor != "sqlite" or connection.in_atomic_block:
                return super().rotate(record, base, grave, now)
            # A write costs what its commit costs, and BEGIN is no trip: one commit for both.
            with _errors_of(connection), transaction.atomic(connection.alias):
                return super().rotate(record, base, grave, now)
        condition = (base.id, base.version, now, record.id)
        parameters = (*_row(grave)[1:], *condition, *_row(record))
        if _execute(connection, statements.rotate, parameters):
            return Updated(record)
        latest = self._latest(base.id, now)
        if isinstance(latest, Conflict) and latest.current.version == base.version:
            return Taken()
        return latest

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        connection, statements = self._database()
        parameters = (expires, last_activity, base.id, base.version, now)
        return _execute(connection, statements.touch, parameters) > 0

    def delete(self, session_id: str) -> bool:
        connection, statements = self._database()
        return bool(_execute(connection, statements.delete, (session_id, State.LIVE)))

    def purge(self, now: int, batch: int) -> int:
        connection, statements = self._database()
        if statements.purge is not None:
            return _execute(connection, statements.purge, (now, batch), patient=True)
        # No limit in the DELETE of other databases, nor a common way to say it in a subquery.
        with _errors_of(connection):
            rows = self._model._base_manager.using(connection.alias).filter(expires__lte=now)
            ids = list(rows.order_by("expires").values_list("pk", flat=True)[:batch])
            return rows.filter(pk__in=ids).delete()[0] if ids else 0

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        """See `Storage.scan`. What expires last comes first, which is what was used last."""
        rows = self._rows(user_id)
        if cursor:
            if not _CURSOR.fullmatch(cursor):
                raise no_cursor(cursor)
            expires, _, last_id = cursor.partition(".")
            # The first condition is implied by the second, but it is the one that an index serves.
            rows = rows.filter(expires__lte=int(expires)).exclude(
                expires=int(expires), pk__gte=last_id
            )
        with _errors_of(self.connection()):
            listed = rows.values_list(*_LISTED, Length("payload"))
            found = list(listed.order_by("-expires", "-pk")[: limit + 1])
        records = [replace(_record((row[0], b"", *row[1:])), size=row[-1]) for row in found[:limit]]
        is_last = len(found) <= limit
        return Page(records, "" if is_last else f"{records[-1].expires}.{records[-1].id}")

    def first_expired(self, now: int) -> str:
        # No id is that great.
        return f"{now}.~"

    def count(self, now: int, user_id: str | None) -> int:
        with _errors_of(self.connection()):
            return self._rows(user_id).filter(expires__gt=now).count()

    def _rows(self, user_id: str | None) -> QuerySet[StoredSession]:
        rows = self._model._base_manager.using(self.connection().alias).filter(state=State.LIVE)
        if user_id is None:
            return rows
        rows = rows.filter(user_id=user_id)
        if self.connection().vendor == "mysql":
            # Which takes capitals for small letters there, and leaves out spaces at the end.
            rows = rows.filter(user_id__startswith=user_id, user_id__endswith=user_id)
        return rows

    def in_transaction(self) -> bool:
        return self.connection().in_atomic_block

    async def ain_transaction(self) -> bool:
        return await self._in_thread(self.in_transaction)()

    def after_commit(self, action: Callable[[], object]) -> None:
        transaction.on_commit(action, using=self.connection().alias)

    def connection(self) -> BaseDatabaseWrapper:
        """Django's connection to the database of the table, which need not be open."""
        return self._database()[0]

    def _database(self) -> tuple[BaseDatabaseWrapper, _Statements]:
        # Routers are asked each time: some decide by the request.
        alias = router.db_for_write(self._model)
        connection = connections[alias]
        statements = self._compiled.get(alias)
        if statements is None:
            statements = self._compiled[alias] = _compile(self._model, connection)
        return connection, statements

    def _latest(self, session_id: str, now: int) -> Conflict | Gone:
        """What stood in the way of a write that found no row to change."""
        connection, statements = self._database()
        in_transaction = connection.in_atomic_block
        read = statements.read_latest if in_transaction else statements.read
        row = _fetch(connection, read, (session_id,))
        if row is None:
            return Gone()
        current = _record(row)
        return Conflict(current) if current.expires > now else Gone()


def _fetch(connection: BaseDatabaseWrapper, sql: str, parameters: Row) -> Row | None:
    try:
        with LimitedCursor(connection) as cursor:
            cursor.execute(sql, parameters)
            row: Row | None = cursor.fetchone()
    except Error as error:
        _raise_translated(error, connection)
    return row


def _execute(
    connection: BaseDatabaseWrapper, sql: str, parameters: Row, *, patient: bool = False
) -> int:
    """How many rows the statement wrote. ``patient`` waits for it however long it takes.

    Where the isolation level is stricter than Django's default, whoever comes second gets an
    error instead of finding no row to change. Tried again, the statement sees the other write.
    """

    def count() -> int:
        with connection.cursor() if patient else LimitedCursor(connection) as cursor:
            cursor.execute(sql, parameters)
            rows: int = cursor.rowcount
        return rows

    try:
        for _ in range(_RETRIES):
            try:
                return count()
            except OperationalError as error:
                # In a transaction of the caller, more is lost than this statement.
                if connection.in_atomic_block or _code(error) not in _LOST_A_RACE:
                    raise
        return count()
    except Error as error:
        _raise_translated(error, connection)


@contextmanager
def _errors_of(connection: BaseDatabaseWrapper) -> Generator[None]:
    """Tell the store's errors from those of the caller and of the data, which pass."""
    try:
        yield
    except Error as error:
        _raise_translated(error, connection)


def _raise_translated(error: Error, connection: BaseDatabaseWrapper) -> NoReturn:
    translated = _translated(error, connection)
    if translated is None:
        raise error
    raise translated from error


def _code(error: Exception) -> object:
    """What the server calls the error, where the driver tells."""
    if error.args and isinstance(error.args[0], int):
        return error.args[0]
    cause = error.__cause__
    return getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)  # psycopg 3 and 2.


def _translated(error: Exception, connection: BaseDatabaseWrapper) -> Exception | None:
    """What the error means for a session, or ``None`` if it has nothing to do with the store.

    The text has no part of the driver's: that may quote data. It stands in the cause.
    """
    database = f"The database {connection.alias!r} ({connection.vendor})"
    code = _code(error)
    if code == _PACKET_TOO_LARGE or (isinstance(error, DataError) and "too big" in str(error)):
        return PayloadTooLarge(f"{database} takes no session of this size.")
    if isinstance(error, IntegrityError | DataError | TransactionManagementError):
        return None
    if code == _TRANSACTION_IS_ABORTED:
        return None
    # The statements are fixed: where they are wrong, the table is not the one they are for.
    if isinstance(error, ProgrammingError) or any(text in str(error) for text in _SCHEMA_DIFFERS):
        return StorageUnavailable(
            f"{database} has no table for sessions that could be used ({type(error).__name__}). "
            f"Run: python manage.py migrate --database={connection.alias} (or give its user the "
            "right to the table)."
        )
    return StorageUnavailable(f"{database} did not answer as it should ({type(error).__name__}).")
