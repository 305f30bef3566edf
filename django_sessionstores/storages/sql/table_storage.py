"""The base class of storages that keep their records in a database table."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from django.db import connections, router, transaction

from ... import conf
from ...core.flow import Flow, run
from ...exceptions import SessionConflict, StorageUnavailable
from ..base import Storage
from ..ending import end_one_by_one
from . import transactions
from .deadline import LimitedCursor
from .end_statements import EndStatements, returns_deleted
from .free_rows import skips_locked, write
from .lost_races import retry

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

S = TypeVar("S")
T = TypeVar("T")


class TableStorage(Storage, Generic[S]):
    """A storage in the table of a model, in the database to which the routers write the model.

    ``compile_statements`` returns the SQL statements for a connection. It is called once per
    database.
    """

    thread_sensitive = True  # Django's connections belong to a thread.

    def __init__(self, model: Any, compile_statements: Callable[[BaseDatabaseWrapper], S]) -> None:
        self._model = model
        self._compile_statements = compile_statements
        self._compiled: dict[str, S] = {}

    def _tenant(self) -> str:
        return conf.tenant(router.db_for_write(self._model))

    def connection(self) -> BaseDatabaseWrapper:
        """Return Django's connection to the database of the table, which need not be open."""
        return self._database()[0]

    def database(self) -> str:
        return self.connection().alias

    def write_obstacle(self) -> str:
        connection = self.connection()
        if connection.vendor != "sqlite":
            return ""
        return _obstacle_at(Path(connection.settings_dict["NAME"] or ""))

    def in_transaction(self) -> bool:
        return transactions.is_open(self.connection())

    async def ain_transaction(self) -> bool:
        return await self._in_thread(self.in_transaction)()

    def after_commit(self, action: Callable[[], object]) -> Callable[[], bool | None]:
        return transactions.after_commit(self.connection(), action)

    def after_rollback(self, action: Callable[[], object]) -> None:
        transactions.after_rollback(self.connection(), action)

    def end_each(
        self, session_ids: Sequence[str], end: Callable[[str], Flow[bool]]
    ) -> Collection[str]:
        return self._commit_once(
            lambda: [each for each in session_ids if run(end(each))],
            lambda: run(end_one_by_one(session_ids, end)),
        )

    def end_many(self, session_ids: Sequence[str]) -> Collection[str]:
        """See `Storage.end_many`. One statement, if the database can return what it has deleted.

        MySQL and MariaDB need two statements in a transaction.

        Rows that no other transaction has locked are deleted first, so that a locked one does not
        hold up the others. A statement that waited for it with other rows locked would also keep
        them locked in the server after this process has given up. In the caller's transaction, the
        rows stay locked in any case.
        """
        connection, ended = self.connection(), list[str]()
        # In the order of the ids, so that no two transactions wait for each other's rows.
        ids = sorted(session_ids)
        with self._errors():
            if transactions.is_open(connection) or not skips_locked(connection):
                return self._end_together(ids)
        try:
            locked = self._end_free(ids, ended)
            while locked:
                awaited, *others = locked
                try:
                    if self.delete(awaited):
                        ended.append(awaited)
                except StorageUnavailable:
                    # Others may have become free. A wait for each of them would take too long.
                    self._end_free(others, ended)
                    raise
                locked = self._end_free(others, ended)
        except StorageUnavailable:
            if not ended:
                raise
        return ended

    def _end_free(self, session_ids: Sequence[str], ended: list[str]) -> Sequence[str]:
        """End sessions whose rows are not locked, and add their ids to ``ended``.

        Return the ids of live sessions that are left.
        """
        if not session_ids:
            return []
        statements, _ = self._end_statements()
        if statements.deletes_free:
            ended += self._fetch_ids(statements.free_keys, session_ids)
        else:
            with suppress(SessionConflict):  # A deadlock, after which all are left.
                ended += self._end_selected(session_ids)
        left = sorted(set(session_ids).difference(ended))
        return self._fetch_ids(statements.live_keys, left) if left else []

    def _end_selected(self, session_ids: Sequence[str]) -> Sequence[str]:
        """End sessions whose rows are not locked, in a transaction; return their ids."""
        connection, (statements, _) = self.connection(), self._end_statements()
        with self._errors(), transaction.atomic(connection.alias):
            free = self._fetch_ids(statements.free_keys, session_ids)
            if free:
                sql, keys = statements.delete_keys(len(free)), [*map(self._row_key, free)]
                retry(connection, lambda: write(connection, sql, keys))
        return free

    def _end_together(self, session_ids: Sequence[str]) -> Collection[str]:
        """End sessions as `end_many` does, and wait for each row that is locked."""
        if session_ids and returns_deleted(self.connection()):
            statements, _ = self._end_statements()
            return self._fetch_ids(statements.delete_returning, session_ids)
        return super().end_many(session_ids)

    def _fetch_ids(self, sql: Callable[[int], str], session_ids: Sequence[str]) -> Sequence[str]:
        """Return the ids that one of the `EndStatements` returns for sessions with these ids."""
        connection, (_, values) = self.connection(), self._end_statements()
        ids = {self._row_key(each): each for each in session_ids}

        def fetch() -> list[tuple[Any, ...]]:
            with LimitedCursor(connection) as cursor:
                cursor.execute(sql(len(ids)), (*ids, *values))
                rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

        with self._errors():
            return sorted(ids[key] for key, *_ in retry(connection, fetch) if key in ids)

    def _end_statements(self) -> tuple[EndStatements, Sequence[Any]]:
        """Return the statements that end sessions, and the parameters of their ``is_live``."""
        raise NotImplementedError

    def _row_key(self, session_id: str) -> str | bytes:
        """Return the primary key of the row of a session."""
        return session_id

    def _commit_once(self, work: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """Return the result of ``work``, whose statements are committed together.

        If another transaction is in the way, the result is that of ``otherwise``: nothing of the
        work is stored then, and a statement that is a transaction of its own is tried again. In the
        caller's transaction, the caller commits.
        """
        connection = self.connection()
        if transactions.is_open(connection):
            return work()
        try:
            with self._errors(), transaction.atomic(connection.alias):
                return work()
        except (SessionConflict, StorageUnavailable):
            return otherwise()

    def _errors(self) -> AbstractContextManager[None]:
        """Return a context that translates errors of the store."""
        raise NotImplementedError

    def _database(self) -> tuple[BaseDatabaseWrapper, S]:
        """Return the connection to the database of the table, and its statements."""
        # Routers are asked each time, because some decide by the request. They are asked for the
        # database to write to, because a replica may lag.
        alias = router.db_for_write(self._model)
        connection = connections[alias]
        statements = self._compiled.get(alias)
        if statements is None:
            statements = self._compiled[alias] = self._compile_statements(connection)
        return connection, statements

    def _texts(self) -> dict[str, str]:
        """Return the name of the table, and the alias and the vendor of its database."""
        connection = self.connection()
        return {
            "table": self._model._meta.db_table,
            "database": repr(connection.alias),
            "vendor": connection.vendor,
        }


def _obstacle_at(path: Path) -> str:
    """Return what keeps this process from writing to an SQLite file; empty if nothing does.

    A database that is not a file, or is not there yet, has none.
    """
    place = path.resolve()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return ""
    except PermissionError:
        folders = [each for each in reversed(place.parents) if not os.access(each, os.X_OK)]
        action, refused = "enter", folders[:1]
    except OSError:
        return ""
    else:
        # SQLite writes a journal beside the file.
        places = (path, place.parent)
        action, refused = "write to", [each for each in places if not os.access(each, os.W_OK)]
    if not refused:
        return ""
    return (
        f"This process may not {action} {' and '.join(map(str, refused))}. Make the user of the "
        "site the owner of the database file and of its folder."
    )
