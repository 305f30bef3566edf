"""The rows of the session table, and the records that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from ...core.records import STATES, Record
from ...exceptions import UnreadablePayload

Row: TypeAlias = Sequence[Any]

# Columns are named like the fields. In the order of `row_of` and `record_of`, not of the table.
FIELDS: Final = (
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
    "origin",
    "site",
)

LIST_FIELDS: Final = tuple(field for field in FIELDS if field != "payload")
"""The fields of a row in a list; the size of the payload follows them."""

# The fields that most saves change. Fewer columns are less to send and to log: a sixth of the time.
SAVED_FIELDS: Final = ("payload", "version", "last_activity")


def key_of(session_id: str) -> bytes:
    """Return the primary key of the row of a session."""
    return bytes.fromhex(session_id)


def row_of(record: Record) -> Row:
    """Return the row of a record."""
    return (
        key_of(record.id),
        record.payload,
        record.version,
        int(record.state),
        record.user_id,
        record.created,
        record.last_activity,
        record.expires,
        record.ip,
        record.user_agent,
        key_of(record.origin),
        record.site,
    )


def record_of(row: Row) -> Record:
    """Return the record in a row. Raises `UnreadablePayload`."""
    state = STATES.get(row[3])
    if state is None:
        raise UnreadablePayload("record is of an unknown state")
    payload = row[1]
    return Record(
        # Some drivers return a memoryview.
        id=row[0].hex(),
        payload=payload if type(payload) is bytes else bytes(payload),
        version=row[2],
        state=state,
        user_id=row[4],
        created=row[5],
        last_activity=row[6],
        expires=row[7],
        ip=row[8],
        user_agent=row[9],
        origin=row[10].hex(),
        site=row[11],
    )


def differs_only_as_saved(record: Record, base: Record) -> bool:
    """Return whether two records are equal except for the fields in `SAVED_FIELDS`."""
    return (
        record.expires == base.expires
        and record.user_id == base.user_id
        and record.state is base.state
        and record.created == base.created
        and record.ip == base.ip
        and record.user_agent == base.user_agent
        and record.origin == base.origin
        and record.site == base.site
    )
