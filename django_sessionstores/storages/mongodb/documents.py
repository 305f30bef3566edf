"""The documents of the collection of sessions, and the records that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from bson.datetime_ms import DatetimeMS
from msgspec.structs import replace

from ...core.records import Record, State, is_session_id
from ...exceptions import UnreadablePayload

Document: TypeAlias = Mapping[str, Any]

LIST_FIELDS: Final[dict[str, Any]] = {
    "payload": {"$cond": [{"$eq": ["$state", State.LIVE.value]}, "$$REMOVE", "$payload"]},
    # An error of the server for any other type would fail the whole list.
    "size": {
        "$cond": [{"$eq": [{"$type": "$payload"}, "binData"]}, {"$binarySize": "$payload"}, None]
    },
    **dict.fromkeys(
        (
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
        ),
        1,
    ),
}
"""The projection for lists, which has the size of a session's payload in its place."""


def key_of(session_id: str) -> bytes:
    """Return the ``_id`` of the record with this id."""
    return bytes.fromhex(session_id) if is_session_id(session_id) else session_id.encode()


def moment(milliseconds: int) -> DatetimeMS:
    """Return a moment as the server compares it, of milliseconds since the epoch."""
    return DatetimeMS(milliseconds)


def document_of(record: Record) -> dict[str, Any]:
    """Return the document of a record. Fields that are empty are left out."""
    optional = {
        "user_id": record.user_id,
        "ip": record.ip or None,
        "user_agent": record.user_agent or None,
        "origin": bytes.fromhex(record.origin) or None,
    }
    return {
        "_id": key_of(record.id),
        "payload": record.payload,
        "version": record.version,
        "state": record.state.value,
        "created": moment(record.created),
        "last_activity": moment(record.last_activity),
        "expires": moment(record.expires),
        "site": record.site,
        **{name: value for name, value in optional.items() if value is not None},
    }


def record_of(document: Document) -> Record:
    """Return the record of a document. Raises `UnreadablePayload`."""
    try:
        return Record(
            id=document["_id"].hex(),
            # Without the classes that tell the types of numbers apart.
            version=int(document["version"]),
            state=State(document["state"]),
            payload=_checked(document["payload"], bytes),
            user_id=_checked(document.get("user_id"), str | None),
            created=int(document["created"]),
            last_activity=int(document["last_activity"]),
            expires=int(document["expires"]),
            ip=str(document.get("ip", "")),
            user_agent=str(document.get("user_agent", "")),
            origin=document.get("origin", b"").hex(),
            site=int(document["site"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UnreadablePayload("document is not a record") from None


def _checked(value: Any, kind: Any) -> Any:
    """Return a value that is of this kind."""
    if not isinstance(value, kind):
        raise TypeError
    return value


def entry_of(document: Document) -> Record:
    """Return the record of a document with `LIST_FIELDS`. Raises `UnreadablePayload`."""
    size = document.get("size") or None
    record = record_of({"payload": b"", **document})
    return replace(record, size=None if size is None else int(size))
