"""The documents of the collection of sessions, and the records that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

from bson.datetime_ms import DatetimeMS
from msgspec.structs import replace

from ...core.records import ID_SIZE, Record, State, is_in_range, is_session_id
from ...exceptions import UnreadablePayload
from ..outcomes import MOST_EXPIRES

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


FIRST_KEY: Final = bytes(ID_SIZE)
LAST_KEY: Final = b"\xff" * ID_SIZE
"""The first and the last ``_id`` that a record can have, in the order of the server, in which bytes
of another length or type are before the one or after the other."""


def is_record_key(key: Any) -> bool:
    """Return whether an ``_id`` is that of a record."""
    return type(key) is bytes and len(key) == ID_SIZE


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
        record = Record(
            id=_checked(document["_id"], bytes).hex(),
            version=_comparable(document["version"]),
            state=State(_comparable(document["state"])),
            payload=_checked(document["payload"], bytes),
            user_id=_checked(document.get("user_id"), str | None),
            created=_whole(document["created"]),
            last_activity=_whole(document["last_activity"]),
            # If it were any other number, no write would find the document.
            expires=int(_checked(document["expires"], DatetimeMS)),
            ip=_checked(document.get("ip", ""), str),
            user_agent=_checked(document.get("user_agent", ""), str),
            origin=_checked(document.get("origin", b""), bytes).hex(),
            site=_comparable(document["site"]),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError):
        raise UnreadablePayload("document is not a record") from None
    if not is_in_range(record) or record.expires > MOST_EXPIRES:
        raise UnreadablePayload("document is not a record")
    return record


def _checked(value: Any, kind: Any) -> Any:
    """Return a value that is of this kind."""
    if not isinstance(value, kind):
        raise TypeError
    return value


def _whole(value: Any) -> int:
    """Return a number, which must be whole, without the class that tells its type apart."""
    number = int(_checked(value, int | float | DatetimeMS))
    if isinstance(value, float) and number != value:
        raise ValueError
    return number


def _comparable(value: Any) -> int:
    """Return a whole number that the server finds equal to an integer.

    It does not find a boolean or a date equal, so no write, list or end would find the document.
    """
    if isinstance(value, bool | DatetimeMS):
        raise TypeError
    return _whole(value)


def entry_of(document: Document) -> Record:
    """Return the record of a document with `LIST_FIELDS`, which may be damaged.

    What is damaged has the value of an empty field, so that the session is listed and can be ended.
    Raises `UnreadablePayload` for a document that is not a session's: without an id, a state or an
    expiry.
    """
    found = dict(document)
    if is_record_key(found.get("_id")):
        for name, (kind, default) in _DEFAULTS.items():
            with suppress(TypeError, ValueError, ArithmeticError):
                kind(found.get(name))
                continue
            found[name] = default
        if isinstance(users := document.get("user_id"), list):
            # The index has the session under each of them.
            found["user_id"] = next((each for each in users if isinstance(each, str)), None)
    size = found["size"]
    return replace(record_of(found), size=int(size) if size else None)


def _text(value: Any) -> str:
    text: str = _checked(value, str)
    return text


def _bytes(value: Any) -> bytes:
    data: bytes = _checked(value, bytes)
    return data


def _number(value: Any) -> int:
    """Return a whole number that is not out of the range of a record."""
    number = _whole(value)
    if not is_in_range(Record(id="", version=number, created=number)):
        raise ValueError
    return number


def _version(value: Any) -> int:
    return _number(_comparable(value))


def _site(value: Any) -> int:
    site = _comparable(value)
    if not is_in_range(Record(id="", site=site)):
        raise ValueError
    return site


_DEFAULTS: Final[dict[str, tuple[Callable[[Any], object], Any]]] = {
    **dict.fromkeys(("created", "last_activity", "size"), (_number, 0)),
    "version": (_version, 0),
    "site": (_site, 0),
    **dict.fromkeys(("ip", "user_agent"), (_text, "")),
    **dict.fromkeys(("payload", "origin"), (_bytes, b"")),
    "user_id": (_text, None),
}
"""How each field of an entry is read that may be damaged, and what stands for it if it is."""
