"""The database of the simulated site, with transactions, savepoints and row locks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from django.db import InternalError

from .internals import (
    Conflict,
    Gone,
    Outcome,
    Page,
    Record,
    State,
    Storage,
    StorageUnavailable,
    Taken,
    Updated,
    core_clock,
    is_removal,
    with_times,
)
from .scheduler import Scheduler
from .stores import page_of_rows

_MISSING: Final = object()


class _Waiting:
    """A function to call after the commit."""

    def __init__(self, action: Callable[[], object]) -> None:
        self._action = action
        self.is_committed = False

    def __call__(self) -> None:
        self._action()


class Connection:
    """The database connection of one request, like Django's connection of a thread."""

    def __init__(self, database: SimulatedDatabase, *, autocommit: bool = True) -> None:
        self._database = database
        self.autocommit = autocommit
        self.changes: dict[str, Record | None] = {}
        """The rows that the open transaction has written; None for those that it has deleted."""
        self.blocks: list[tuple[dict[str, Record | None], int]] = []
        """For each open block, the changes and the number of callbacks when it began."""
        self.callbacks: list[Callable[[], object]] = []
        self.needs_rollback = False
        self.is_aborted = False
        self.undo: list[Callable[[], None]] = []
        """Functions that undo changes outside the table, for example of a user's password."""

    @property
    def in_transaction(self) -> bool:
        return bool(self.blocks) or not self.autocommit

    def begin(self) -> None:
        """Enter a block: a transaction, or a savepoint inside a transaction."""
        self.blocks.append((dict(self.changes), len(self.callbacks)))

    def end(self, *, commit: bool) -> None:
        """Leave the innermost block. Committing the outermost block calls the callbacks."""
        changes, callbacks = self.blocks.pop()
        if self.blocks:
            if not commit or self.needs_rollback:
                self.needs_rollback = self.is_aborted = False
                self.changes = changes
                del self.callbacks[callbacks:]
            return
        if commit and not self.needs_rollback and not self.is_aborted:
            self._commit()
        else:
            self._roll_back()

    def close(self) -> None:
        """Roll back all open blocks, as when the process dies or the connection is closed."""
        self.blocks.clear()
        self._roll_back()

    def commit(self) -> None:
        """Commit the transaction if autocommit is off."""
        self._commit()

    def rollback(self) -> None:
        """Roll the transaction back if autocommit is off."""
        self._roll_back()

    def _commit(self) -> None:
        for session_id, record in self.changes.items():
            self._database.write(session_id, record)
        self.changes = {}
        self.undo.clear()
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            if isinstance(callback, _Waiting):
                callback.is_committed = True
        for callback in callbacks:
            callback()

    def _roll_back(self) -> None:
        self.changes, self.callbacks = {}, []
        self.needs_rollback = self.is_aborted = False
        for undo in reversed(self.undo):
            undo()
        self.undo.clear()


class SimulatedDatabase(Storage):
    """A table of records with the isolation level "read committed".

    A transaction sees its own writes, and others see them after the commit. A write to a row that
    another open transaction has written waits until that transaction ends. A write that would wait
    in a circle raises the error of a deadlock.
    """

    lists = True
    indexes_users = True
    indexes_counts = True

    def __init__(self, scheduler: Scheduler) -> None:
        self.rows: dict[str, Record] = {}
        self._scheduler = scheduler
        self._outside = Connection(self)
        self.connections: dict[str, Connection] = {}
        self._waiting: dict[str, Connection] = {}

    @property
    def connection(self) -> Connection:
        """Return the connection of the running request, or one outside all requests."""
        actor = self._scheduler.current
        if actor is None:
            return self._outside
        connection = self.connections.get(actor.label)
        if connection is None:
            connection = self.connections[actor.label] = Connection(self)
        return connection

    def describe(self) -> str:
        return "a simulated database"

    def write(self, session_id: str, record: Record | None) -> None:
        """Store a row, or delete it, visibly to all connections."""
        if record is None:
            self.rows.pop(session_id, None)
        else:
            self.rows[session_id] = record

    def read(self, locator: str) -> Record | None:
        return self._seen(self._open(), locator)

    def create(self, record: Record, now: int) -> Updated | Taken:
        connection = self._lock(record.id)
        if self._seen(connection, record.id) is not None:
            return Taken()
        self._put(connection, record.id, record)
        return Updated(record, is_provisional=self.in_transaction())

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        connection = self._lock(base.id)
        current = self._seen(connection, base.id)
        if current is None or current.expires <= now:
            return Gone()
        if current.version != base.version:
            return Conflict(current)
        self._put(connection, base.id, None if is_removal(record) else record)
        return Updated(record, is_provisional=self.in_transaction())

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        connection = self._lock(base.id)
        if self._seen(connection, record.id) is not None:
            return Taken()
        outcome = self.update(tombstone, base, now)
        if not isinstance(outcome, Updated):
            return outcome
        self._put(connection, record.id, record)
        return Updated(record, is_provisional=self.in_transaction())

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        connection = self._lock(base.id)
        current = self._seen(connection, base.id)
        if current is None or current.version != base.version or current.expires <= now:
            return False
        self._put(connection, base.id, with_times(current, expires, last_activity))
        return True

    def delete(self, session_id: str) -> bool:
        connection = self._lock(session_id)
        current = self._seen(connection, session_id)
        if current is None or current.state is not State.LIVE:
            return False
        self._put(connection, session_id, None)
        return current.is_live(core_clock.now())

    def purge(self, now: int, batch: int) -> int:
        connection = self._open()
        locked = self._owners(connection)
        expired = [
            each.id for each in self.rows.values() if each.expires <= now and each.id not in locked
        ][:batch]
        for each in expired:
            self._put(connection, each, None)
        return len(expired)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        return page_of_rows({**self._all(self._open())}, cursor, limit, user_id)

    def count(self, now: int, user_id: str | None) -> int:
        return sum(
            each.is_live(now) and user_id in {None, each.user_id}
            for each in self._all(self._open()).values()
        )

    def in_transaction(self) -> bool:
        return self.connection.in_transaction

    async def ain_transaction(self) -> bool:
        return self.connection.in_transaction

    def after_commit(self, action: Callable[[], object]) -> Callable[[], bool | None]:
        connection = self.connection
        waiting = _Waiting(action)
        connection.callbacks.append(waiting)

        def has_committed() -> bool | None:
            if waiting.is_committed:
                return True
            return None if any(each is waiting for each in connection.callbacks) else False

        return has_committed

    def _all(self, connection: Connection) -> dict[str, Record]:
        rows = {**self.rows, **connection.changes}
        return {key: row for key, row in rows.items() if row is not None}

    def _seen(self, connection: Connection, session_id: str) -> Record | None:
        changed = connection.changes.get(session_id, _MISSING)
        return self.rows.get(session_id) if changed is _MISSING else changed  # type: ignore[return-value]

    def _put(self, connection: Connection, session_id: str, record: Record | None) -> None:
        if connection.in_transaction:
            connection.changes[session_id] = record
        else:
            self.write(session_id, record)

    def _open(self) -> Connection:
        connection = self.connection
        if connection.is_aborted:
            raise InternalError("current transaction is aborted")
        return connection

    def _owners(self, connection: Connection) -> dict[str, Connection]:
        """Return the rows that other open transactions have written, with their connections."""
        return {
            row: other
            for other in (*self.connections.values(), self._outside)
            if other is not connection
            for row in other.changes
        }

    def _lock(self, session_id: str) -> Connection:
        connection = self._open()

        def is_free() -> bool:
            return session_id not in self._owners(connection)

        actor = self._scheduler.current
        while not is_free():
            owner = self._owners(connection)[session_id]
            if actor is None or self._waits_for(owner, connection):
                connection.is_aborted = connection.in_transaction
                raise StorageUnavailable("The simulated database found a deadlock.")
            self._waiting[actor.label] = owner
            try:
                self._scheduler.wait(is_free, f"waits for the row {session_id[:8]}")
            finally:
                self._waiting.pop(actor.label, None)
        return connection

    def _waits_for(self, owner: Connection, connection: Connection) -> bool:
        """Return whether the owner of a row waits, directly or indirectly, for this connection."""
        labels = {id(each): label for label, each in self.connections.items()}
        seen: set[int] = set()
        while id(owner) not in seen:
            if owner is connection:
                return True
            seen.add(id(owner))
            following = self._waiting.get(labels.get(id(owner), ""))
            if following is None:
                return False
            owner = following
        return True
