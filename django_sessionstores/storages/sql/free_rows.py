"""Statements that do not wait for another transaction: they leave out rows that one has locked.

A request that only reads its session moves times. It must not wait until another request, which has
saved the same session in a transaction, is done. The times are due again at the next read.

Nor must one such session hold up others that end together with it.
"""

# ruff: noqa: S608 - the statements are made of names from the model; values are parameters.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from django.db import OperationalError

from .deadline import LimitedCursor

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

SKIP_LOCKED: Final = " SKIP LOCKED"
_SQLITE_BUSY: Final = frozenset({5, 6})
"""SQLite's primary codes for a lock of another connection: ``SQLITE_BUSY``, ``SQLITE_LOCKED``."""


def if_free(connection: BaseDatabaseWrapper, table: str, key: str, condition: str) -> str:
    """Return a ``WHERE`` with a condition that selects a row by its key, unless it is locked.

    All arguments are SQL. Only for `write_if_free`. A database that cannot skip locked rows gets
    the condition itself, and so does SQLite, which locks the whole database and not rows.
    """
    if connection.vendor not in {"postgresql", "mysql"}:
        return f"WHERE {condition}"
    locking = f"SELECT {key} FROM {table} WHERE {condition} FOR UPDATE{SKIP_LOCKED}"
    # MySQL reads the table that it updates only through a derived table.
    return f"WHERE {key} = (SELECT {key} FROM ({locking}) AS free_row)"


def skips_locked(connection: BaseDatabaseWrapper) -> bool:
    """Return whether the database can leave out locked rows. May ask a server for its version."""
    return bool(connection.features.has_select_for_update_skip_locked)


def write(connection: BaseDatabaseWrapper, sql: str, parameters: Sequence[Any]) -> int:
    """Return how many rows a statement has written."""
    with LimitedCursor(connection) as cursor:
        cursor.execute(sql, parameters)
        return int(cursor.rowcount)


def write_if_free(connection: BaseDatabaseWrapper, sql: str, parameters: Sequence[Any]) -> int:
    """Return how many rows an update `if_free` has written; 0 if a lock is in the way."""
    with LimitedCursor(connection) as cursor:
        if connection.vendor != "sqlite":
            # Known only now: a server is asked for its version when it is connected.
            if not skips_locked(connection):
                sql = sql.replace(SKIP_LOCKED, "")
            cursor.execute(sql, parameters)
            return int(cursor.rowcount)
        # Not through Django's cursor: these are neither queries of the request nor round trips.
        driver = connection.connection
        (milliseconds,) = driver.execute("PRAGMA busy_timeout").fetchone()
        driver.execute("PRAGMA busy_timeout = 0")
        try:
            cursor.execute(sql, parameters)
            return int(cursor.rowcount)
        except OperationalError as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF not in _SQLITE_BUSY:
                raise
            return 0
        finally:
            driver.execute(f"PRAGMA busy_timeout = {milliseconds}")
