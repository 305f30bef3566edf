"""The SQL statements that end several sessions, of any table with a row for each session."""

# ruff: noqa: S608 - the statements are made of names from the model; values are parameters.

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final, NamedTuple

from .ends import telling
from .free_rows import SKIP_LOCKED

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

_SQLITE_RETURNING: Final = (3, 35)
"""The version of SQLite from which on DELETE has RETURNING."""
_BY_KEY: Final = " FORCE INDEX (PRIMARY)"
"""For MySQL and MariaDB, which scan a small table instead, and lock or wait for rows that are not
asked for."""


class EndStatements(NamedTuple):
    """The statements for a table. Their parameters are ``number`` keys, and those of ``is_live``.

    The first three attributes are SQL.
    """

    table: str
    key: str
    """The column of the primary key."""
    is_live: str
    """The condition that a row is of a live session of this site."""
    deletes_free: bool
    """Whether `free_keys` deletes the rows. A DELETE of MySQL or MariaDB would lock rows before it
    looks at a subquery that leaves them out."""

    tells: bool = False
    """Whether the keys of deleted rows are told to who listens, see `ends`."""

    def live_keys(self, number: int) -> str:
        """Return the statement that selects the keys of live sessions among ``number`` keys."""
        return f"SELECT {self.key} {self._live(number)}"

    def delete_returning(self, number: int) -> str:
        """Return the statement that deletes live sessions and returns their keys.

        Only if a database `returns_deleted` rows.
        """
        return self._telling(f"DELETE {self._live(number)} RETURNING {self.key}")

    def free_keys(self, number: int) -> str:
        """Return the statement that returns the keys of live sessions whose rows are not locked.

        It deletes the rows if `deletes_free`, and locks them otherwise. Only if a database
        `skips_locked` rows.
        """
        if not self.deletes_free:
            return f"SELECT {self.key} {self._live(number, _BY_KEY)} FOR UPDATE{SKIP_LOCKED}"
        # ARRAY, because the planner may run a subquery of IN again for each row.
        free = f"{self.live_keys(number)} FOR UPDATE{SKIP_LOCKED}"
        return self._telling(
            f"DELETE FROM {self.table} WHERE {self.key} = ANY(ARRAY({free})) RETURNING {self.key}"
        )

    def delete_keys(self, number: int) -> str:
        """Return the statement that deletes the rows that `free_keys` has locked, by their keys.

        Its parameters are only the keys.
        """
        table, key = self.table, self.key
        locked = f"SELECT {key} FROM {table}{_BY_KEY} WHERE {key} IN ({marks(number)})"
        # A join, because without one DELETE ignores the hint.
        return (
            f"DELETE {table} FROM ({locked} FOR UPDATE{SKIP_LOCKED}) AS locked_rows "
            f"STRAIGHT_JOIN {table}{_BY_KEY} ON {table}.{key} = locked_rows.{key}"
        )

    def _telling(self, delete: str) -> str:
        return telling(delete, self.key) if self.tells else delete

    def _live(self, number: int, hint: str = "") -> str:
        return f"FROM {self.table}{hint} WHERE {self.key} IN ({marks(number)}) AND {self.is_live}"


def returns_deleted(connection: BaseDatabaseWrapper) -> bool:
    """Return whether DELETE of this database has RETURNING. May ask a server for its version."""
    if connection.vendor == "mysql":
        return bool(getattr(connection, "mysql_is_mariadb", False))
    if connection.vendor == "sqlite":
        return sqlite3.sqlite_version_info >= _SQLITE_RETURNING
    return connection.vendor == "postgresql"


def deletes_free(connection: BaseDatabaseWrapper) -> bool:
    """Return whether DELETE can leave out locked rows, see `EndStatements.deletes_free`."""
    return connection.vendor == "postgresql"


def marks(number: int) -> str:
    """Return placeholders for so many parameters."""
    return ", ".join(["%s"] * number)
