"""The rows of the session table, and the records that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

from msgspec.structs import replace

from ...core.client_bytes import pack_ip, pack_user_agent, unpack_ip, unpack_user_agent
from ...core.records import ID_SIZE, STATES, Record, is_in_range
from ...exceptions import UnreadablePayload
from ..outcomes import MOST_EXPIRES

Row: TypeAlias = Sequence[Any]
_BINARY: Final = bytes | memoryview | bytearray

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
        pack_ip(record.ip),
        pack_user_agent(record.user_agent),
        key_of(record.origin),
        record.site,
    )


def record_of(row: Row) -> Record:
    """Return the record in a row. Raises `UnreadablePayload`.

    A column of SQLite can contain a value of any type.
    """
    session_id, payload, version, number, user_id, created, last_activity, expires, *others = row
    ip, user_agent, origin, site = others
    # Some databases have NULL in place of no bytes.
    ip, user_agent, origin = ip or b"", user_agent or b"", origin or b""
    session_id, payload, ip = map(_as_bytes, (session_id, payload, ip))
    user_agent, origin = map(_as_bytes, (user_agent, origin))
    state = STATES.get(number)
    if state is None:
        raise UnreadablePayload("record is of an unknown state")
    # Each by itself, because requests wait for this.
    if not (
        type(payload) is type(ip) is type(user_agent) is bytes
        and type(version) is type(created) is type(last_activity) is type(expires) is int
        and type(session_id) is type(origin) is bytes
        and type(site) is int
        and (user_id is None or type(user_id) is str)
        and len(session_id) == ID_SIZE
        and (not origin or len(origin) == ID_SIZE)
        and expires <= MOST_EXPIRES
    ):
        raise UnreadablePayload("row is not a record")
    record = Record(
        id=session_id.hex(),
        payload=payload,
        version=version,
        state=state,
        user_id=user_id,
        created=created,
        last_activity=last_activity,
        expires=expires,
        ip=unpack_ip(ip),
        user_agent=unpack_user_agent(user_agent),
        origin=origin.hex(),
        site=site,
    )
    if not is_in_range(record):
        raise UnreadablePayload("row is not a record")
    return record


def _as_bytes(value: object) -> object:
    # Some drivers return a memoryview.
    return bytes(value) if type(value) is not bytes and isinstance(value, _BINARY) else value


def entry_of(row: Row, size: object) -> Record:
    """Return the record of a row in a list, which may be damaged.

    ``size`` is that of its payload. What is damaged has the value of an empty field, so that the
    session is listed and can be ended. Raises `UnreadablePayload` for a row that is not a
    session's: without an id, a state or an expiry.
    """
    try:
        record = record_of(row)
    except UnreadablePayload:
        checked = [
            each if is_valid(each) else default
            for each, (is_valid, default) in zip(row, _DEFAULTS, strict=True)
        ]
        record = record_of(checked)
    return replace(record, size=size if type(size) is int else None)


def _is_number(value: object) -> bool:
    return type(value) is int and is_in_range(Record(id="", version=value, created=value))


def _is_site(value: object) -> bool:
    return type(value) is int and is_in_range(Record(id="", site=value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_id(value: object) -> bool:
    return isinstance(value, _BINARY) and len(value) == ID_SIZE


def _is_bytes(value: object) -> bool:
    return isinstance(value, _BINARY)


def _is_needed(value: object) -> bool:
    return True


_DEFAULTS: Final[tuple[tuple[Callable[[object], bool], Any], ...]] = (
    (_is_needed, None),
    (_is_bytes, b""),
    (_is_number, 0),
    (_is_needed, None),
    (_is_text, None),
    (_is_number, 0),
    (_is_number, 0),
    (_is_needed, None),
    (_is_bytes, b""),
    (_is_bytes, b""),
    (_is_id, b""),
    (_is_site, 0),
)
"""How each of the `FIELDS` is checked that may be damaged, and what stands for it if it is."""


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
