"""The table of Django's database cache: its SQL statements, and its values and times.

A value is a packed record in Base64.
"""

# ruff: noqa: S608 - the statements are made of names from the model; values are parameters.

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from django.conf import settings
from django.db.models.constants import OnConflict

from ...core.records import (
    OWNER_OFFSET,
    SITE_OFFSET,
    START_SIZE,
    TOMBSTONES,
    Record,
    pack,
    pack_owner,
    unpack,
    unpack_start,
)
from ...exceptions import UnreadablePayload
from ..base import NAMESPACE
from ..sql.end_statements import EndStatements, deletes_free
from ..sql.free_rows import if_free

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

LIVE_VALUES: Final = f"{base64.b64encode(pack(Record(id=''))[:3]).decode()}%"
"""The pattern of the values of live records: format and state are in the first of four letters."""
TOMBSTONE_VALUES: Final = [
    base64.b64encode(pack(Record(id="", state=state))[:2] + bytes([bits << 6]))[:3].decode()
    for state in TOMBSTONES
    for bits in range(4)
]
"""The beginnings of the values of tombstones: format, state and two bits of the version."""

NAMESPACE_END: Final = NAMESPACE[:-2] + chr(ord(NAMESPACE[-2]) + 1)
"""A string that sorts after all that begin with `NAMESPACE`, in the order of any database: its last
letter is the next one. Languages differ in how they sort punctuation and what follows it."""
_START_LETTERS: Final = -(-START_SIZE // 3) * 4
_OWNER_LETTER: Final = -(-OWNER_OFFSET * 8 // 6)
"""The first letter of a value that depends only on the user, see `owner_letters`."""
_SITE_LETTER: Final = -(-SITE_OFFSET * 8 // 6)
_SITE_LETTERS: Final = OWNER_OFFSET * 8 // 6 - _SITE_LETTER
"""How many letters of a value of a value depend only on the site, see `site_letters`."""
_SITES: Final = "/* these sites */"
"""Stands for the parameters of a statement that are the `site_letters` of this site."""

_LATEST: Final = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())


class Statements(NamedTuple):
    """The SQL of one database."""

    read: str
    read_latest: str
    insert: str
    take_over: str
    replace: str
    touch: str
    overwrite: str
    delete: str
    delete_unexpired: str
    find_expired: str
    list_page: str
    count_live: str
    is_live: str
    """The condition of `end`."""
    end: EndStatements

    def for_sites(self, statement: str, letters: Sequence[str]) -> str:
        """Return a statement with a placeholder for each site."""
        sql: str = getattr(self, statement)
        return sql.replace(_SITES, ", ".join(["%s"] * len(letters)))


def compile_statements(table: str, connection: BaseDatabaseWrapper) -> Statements:
    """Return the statements for a cache table in a database."""
    quote = connection.ops.quote_name
    table, key, value, expires = map(quote, (table, "cache_key", "value", "expires"))
    read = f"SELECT {value} FROM {table} WHERE {key} = %s AND {expires} > %s"
    insert = f"INSERT INTO {table} ({key}, {value}, {expires}) VALUES (%s, %s, %s)"
    if connection.vendor in {"postgresql", "sqlite"}:
        # On other databases it fails if the key exists, but does not abort a transaction.
        insert += " ON CONFLICT DO NOTHING"
    overwrite = f"UPDATE {table} SET {value} = %s, {expires} = %s"
    same = f"{key} = %s AND {value} = %s"
    tombstones = ", ".join(["%s"] * len(TOMBSTONE_VALUES))
    locks = connection.features.has_select_for_update
    between = f"{key} > %s AND {key} < %s"
    # MySQL does not distinguish upper and lower case, and so not the prefixes of two caches.
    starts = f"SUBSTR({key}, 1, %s)"
    if connection.vendor == "mysql":
        starts = f"CONVERT({starts} USING utf8mb4) COLLATE utf8mb4_bin"
    of_sites = f"SUBSTR({value}, {_SITE_LETTER + 1}, {_SITE_LETTERS}) IN ({_SITES})"
    is_live = f"SUBSTR({value}, 1, 3) NOT IN ({tombstones}) AND ({value} NOT LIKE %s OR {of_sites})"
    return Statements(
        read=read,
        # In a transaction at REPEATABLE READ, MySQL would continue to return the value that has
        # just been found outdated.
        read_latest=read + (" FOR UPDATE" if locks else ""),
        insert=insert,
        take_over=f"{overwrite} WHERE {key} = %s AND {expires} <= %s",
        # The whole value is compared, because there is no column for the version. MySQL does not
        # distinguish upper and lower case; no two payloads differ only in that.
        replace=f"{overwrite} WHERE {same}",
        touch=f"{overwrite} {if_free(connection, table, key, same)}",
        overwrite=f"{overwrite} WHERE {key} = %s",
        # Also values that are not records.
        delete=f"DELETE FROM {table} WHERE {key} = %s AND {is_live}",
        delete_unexpired=f"DELETE FROM {table} WHERE {key} = %s AND {is_live} AND {expires} > %s",
        # The first condition is implied by the second, but the index is used for the first.
        find_expired=(
            f"SELECT {key} FROM {table} WHERE {expires} <= %s AND ({expires} <= %s "
            f"OR {between} AND {starts} = %s AND {of_sites}) ORDER BY {expires} LIMIT %s"
        ),
        # The keys of a range of rows, but only the values of the rows that are wanted, so that the
        # work of a statement is bounded for any user. The length of a value without its padding
        # gives the size of the payload.
        list_page=(
            f"SELECT {key}, CASE WHEN {value} LIKE %s AND SUBSTR({value}, {_OWNER_LETTER + 1}, %s)"
            f" = %s THEN SUBSTR({value}, 1, {_START_LETTERS}) END, "
            f"CASE WHEN {value} LIKE %s THEN LENGTH(REPLACE({value}, '=', '')) END "
            f"FROM {table} WHERE {between} AND {expires} > %s ORDER BY {key} LIMIT %s"
        ),
        count_live=(
            f"SELECT COUNT(*) FROM {table} WHERE {between} AND {starts} = %s "
            f"AND {of_sites} AND {expires} > %s AND {value} LIKE %s"
        ),
        is_live=is_live,
        end=EndStatements(table, key, is_live, deletes_free(connection)),
    )


def put_statement(table: str, connection: BaseDatabaseWrapper, number: int) -> str:
    """Return the statement that writes so many rows in place of whatever there is.

    Only if the database ``supports_update_conflicts``. May ask a server for its version.
    """
    columns = ["cache_key", "value", "expires"]
    names = ", ".join(map(connection.ops.quote_name, columns))
    rows = ", ".join(["(%s, %s, %s)"] * number)
    suffix = connection.ops.on_conflict_suffix_sql(
        columns, OnConflict.UPDATE, columns[1:], columns[:1]
    )
    return f"INSERT INTO {connection.ops.quote_name(table)} ({names}) VALUES {rows} {suffix}"


def expiry_of(milliseconds: int, connection: BaseDatabaseWrapper) -> Any:
    """Return a moment for the column of the expiry: in whole seconds, and never too early."""
    return _adapt(-(-milliseconds // 1000), connection)


def second_of(milliseconds: int, connection: BaseDatabaseWrapper) -> Any:
    """Return the second in which a moment is.

    Rows that expire in that second may not have expired yet. Only their records tell.
    """
    return _adapt(milliseconds // 1000, connection)


def _adapt(seconds: int, connection: BaseDatabaseWrapper) -> Any:
    moment = datetime.fromtimestamp(min(seconds, _LATEST), tz=UTC if settings.USE_TZ else None)
    return connection.ops.adapt_datetimefield_value(moment)


def owner_letters(user_id: str | None) -> str:
    """Return the letters at `_OWNER_LETTER` in the values of a user's records.

    Few other users have the same letters, because they end a few bits before the user id does. The
    result is empty if ``user_id`` is ``None``, which stands for any user.
    """
    if user_id is None:
        return ""
    owner = pack_owner(user_id)
    text = base64.b64encode(bytes(OWNER_OFFSET) + owner).decode()
    # The letters after these depend on what follows the user.
    return text[_OWNER_LETTER : (OWNER_OFFSET + len(owner)) * 8 // 6]


def site_letters(site: int) -> str:
    """Return the letters at `_SITE_LETTER` in the values of a site's records.

    They have 28 of the 32 bits of the mark.
    """
    text = base64.b64encode(pack(Record(id="", site=site))).decode()
    return text[_SITE_LETTER : _SITE_LETTER + _SITE_LETTERS]


def value_of(record: Record) -> str:
    """Return the value of a record."""
    return base64.b64encode(pack(record)).decode("ascii")


def record_of(session_id: str, value: str) -> Record:
    """Return the record in a value, which becomes its handle. Raises `UnreadablePayload`."""
    try:
        data = base64.b64decode(value)
    except ValueError:
        raise UnreadablePayload("record is not in Base64") from None
    return unpack(session_id, data, value)


def record_of_start(session_id: str, start: str, length: int) -> Record | None:
    """Return the record without payload, from the start of its value and the value's length.

    ``length`` is in letters, without padding. Return ``None`` if the start is too short. Raises
    ``ValueError`` and `UnreadablePayload` if it is not the start of a record.
    """
    return unpack_start(session_id, base64.b64decode(start), length * 6 // 8)
