"""The base class of storages that keep their records in a database table."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from django.db import connections, router, transaction

from ... import conf
from ...core.flow import Flow, run
from ...exceptions import SessionConflict, StorageUnavailable
from ..base import Storage
from ..ending import end_one_by_one
from . import transactions

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

    def _place(self) -> dict[str, str]:
        """Return the name of the table, and the alias and the vendor of its database."""
        connection = self.connection()
        return {
            "table": self._model._meta.db_table,
            "database": repr(connection.alias),
            "vendor": connection.vendor,
        }
