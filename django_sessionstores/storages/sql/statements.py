"""The SQL statements of the session table, by database."""

# ruff: noqa: S608 - the statements are made of names from the model; values are parameters.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ...core.records import TOMBSTONES
from ..outcomes import MOST_EXPIRES
from .end_statements import EndStatements, deletes_free, marks
from .ends import telling
from .free_rows import if_free
from .rows import FIELDS, SAVED_FIELDS

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

    from ...models import StoredSession


_OF_SITES: Final = "/* of these sites */"


class Table(NamedTuple):
    """The quoted names of a table and of its columns."""

    name: str
    column: dict[str, str]

    @property
    def columns(self) -> str:
        return ", ".join(self.column.values())


class Statements(NamedTuple):
    """The SQL of one database. ``None`` if the database has no single statement for it."""

    read: str
    read_latest: str
    create: str
    update: str
    save: str
    remove: str
    rotate: str | None
    touch: str
    delete: str
    is_unexpired: str
    """The condition that a row has not expired."""
    purge: str | None
    purge_endless: str | None
    """Removes rows whose expiry is damaged, so that they would never expire."""
    end: EndStatements
    """Statements `for_sites`."""
    table: Table

    def for_sites(self, sql: str, sites: Sequence[int]) -> str:
        """Return one of the statements for rows of some sites, whose marks are parameters."""
        return sql.replace(_OF_SITES, f"{self.table.column['site']} IN ({_placeholders(sites)})")

    def delete_returning(self, sql: str, *, is_told: bool) -> str:
        """Return `delete` so that it returns whether the row had not expired.

        ``is_told`` is whether it also tells which row it deletes, see `ends`.
        """
        id_, is_unexpired = self.table.column["id"], self.is_unexpired
        if not is_told:
            return f"{sql} RETURNING {is_unexpired}"
        return telling(
            f"{sql} RETURNING {id_}, {is_unexpired} AS is_unexpired", id_, "is_unexpired"
        )

    def lookup_many(self, number: int) -> str:
        """Return the statement that reads the rows with ``number`` ids, without their payloads.

        Those of tombstones are read, and the sizes of all follow the columns.
        """
        names, column = self.table.name, dict(self.table.column)
        payload, states = column["payload"], ", ".join(str(int(each)) for each in TOMBSTONES)
        column["payload"] = f"CASE WHEN {column['state']} IN ({states}) THEN {payload} END"
        return (
            f"SELECT {', '.join(column.values())}, LENGTH({payload}) FROM {names} "
            f"WHERE {column['id']} IN ({marks(number)})"
        )


def compile_statements(model: type[StoredSession], connection: BaseDatabaseWrapper) -> Statements:
    """Return the statements for the table of the model in a database."""
    quote = connection.ops.quote_name
    table = Table(quote(model._meta.db_table), {field: quote(field) for field in FIELDS})
    id_, state = table.column["id"], table.column["state"]
    read = f"SELECT {table.columns} FROM {table.name} WHERE {id_} = %s"
    tombstones = _placeholders(TOMBSTONES)
    return Statements(
        read=read,
        # In a transaction at REPEATABLE READ, MySQL would continue to return the version that has
        # just been found outdated.
        read_latest=read + (" FOR UPDATE" if connection.features.has_select_for_update else ""),
        create=_create(table, connection.vendor),
        update=_update(table, FIELDS[1:]),
        save=_update(table, SAVED_FIELDS),
        remove=f"DELETE FROM {table.name} WHERE {_condition(table)}",
        rotate=_rotate(table) if connection.vendor == "postgresql" else None,
        touch=_touch(table, connection),
        # Also rows of an unknown state.
        delete=(
            f"DELETE FROM {table.name} WHERE {id_} = %s AND {state} NOT IN ({tombstones}) "
            f"AND {_OF_SITES}"
        ),
        is_unexpired=f"{table.column['expires']} > %s",
        purge=_purge(table, connection.vendor),
        purge_endless=_purge_endless(table, connection.vendor),
        end=EndStatements(
            table.name,
            id_,
            is_live=f"{state} NOT IN ({tombstones}) AND {_OF_SITES}",
            deletes_free=deletes_free(connection),
        ),
        table=table,
    )


def _placeholders(values: Sequence[object]) -> str:
    return marks(len(values))


def _condition(table: Table) -> str:
    """Return the condition that a row still is the version that was read."""
    id_, version, expires = (table.column[field] for field in ("id", "version", "expires"))
    return f"{id_} = %s AND {version} = %s AND {expires} > %s"


def _create(table: Table, vendor: str) -> str:
    create = f"INSERT INTO {table.name} ({table.columns}) VALUES ({_placeholders(FIELDS)})"
    # Not INSERT IGNORE on MySQL: it would also cut values that are too long for their column. Nor
    # its ON DUPLICATE KEY: the count of rows is the same 1 whether there was a row or not.
    return f"{create} ON CONFLICT DO NOTHING" if vendor in {"postgresql", "sqlite"} else create


def _update(table: Table, fields: Sequence[str]) -> str:
    assignments = ", ".join(f"{table.column[field]} = %s" for field in fields)
    return f"UPDATE {table.name} SET {assignments} WHERE {_condition(table)}"


def _rotate(table: Table) -> str:
    id_ = table.column["id"]
    return (
        f"WITH superseded AS ({_update(table, FIELDS[1:])} "
        f"AND NOT EXISTS (SELECT 1 FROM {table.name} WHERE {id_} = %s) RETURNING {id_}) "
        f"INSERT INTO {table.name} ({table.columns}) "
        f"SELECT {_placeholders(FIELDS)} FROM superseded"
    )


def _touch(table: Table, connection: BaseDatabaseWrapper) -> str:
    expires, active = table.column["expires"], table.column["last_activity"]
    greatest = "MAX" if connection.vendor == "sqlite" else "GREATEST"
    return (
        f"UPDATE {table.name} SET {expires} = {greatest}({expires}, %s), "
        f"{active} = {greatest}({active}, %s) "
        f"{if_free(connection, table.name, table.column['id'], _condition(table))}"
    )


def _purge(table: Table, vendor: str) -> str | None:
    expires = table.column["expires"]
    # The first condition is implied by the second, but the index is used for the first.
    return _delete_some(table, vendor, f"{expires} <= %s AND ({expires} <= %s OR {_OF_SITES})")


def _purge_endless(table: Table, vendor: str) -> str | None:
    # For SQLite, each text is larger than any number.
    return _delete_some(table, vendor, f"{table.column['expires']} > {MOST_EXPIRES}")


def _delete_some(table: Table, vendor: str, due: str) -> str | None:
    """Return the statement that deletes the first rows that are ``due``, by their expiry."""
    id_, expires = table.column["id"], table.column["expires"]
    expired = f"FROM {table.name} WHERE {due} ORDER BY {expires} LIMIT %s"
    if vendor == "postgresql":
        # ARRAY, because the planner may run a subquery of IN again for each row, and each time
        # it would find and lock another batch. A row that is touched after it was found is
        # checked again when it is locked.
        return (
            f"DELETE FROM {table.name} WHERE {id_} = "
            f"ANY(ARRAY(SELECT {id_} {expired} FOR UPDATE SKIP LOCKED))"
        )
    if vendor == "sqlite":
        return f"DELETE FROM {table.name} WHERE {id_} IN (SELECT {id_} {expired})"
    return f"DELETE {expired}" if vendor == "mysql" else None
