"""The indexes of the collection of sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING, IndexModel

from ...core.records import State

GRACE: Final = 60 * 60
"""Seconds after its expiry at which the server removes a record. Its clock may be ahead of those of
the processes that say when a session expires."""

_KEYS: Final[dict[str, list[tuple[str, int]]]] = {
    "sessionstores_expires": [("expires", ASCENDING)],
    # Their order is that of lists, and ids tell sessions apart that expire at the same moment.
    "sessionstores_user": [("user_id", ASCENDING), ("expires", DESCENDING), ("_id", DESCENDING)],
    "sessionstores_live": [
        ("state", ASCENDING),
        ("site", ASCENDING),
        ("expires", DESCENDING),
        ("_id", DESCENDING),
    ],
}
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "sessionstores_expires": {"expireAfterSeconds": GRACE},
    # Tombstones are not listed, and anonymous sessions have no user.
    "sessionstores_user": {
        "partialFilterExpression": {"state": State.LIVE.value, "user_id": {"$exists": True}}
    },
}


def models() -> list[IndexModel]:
    """Return the indexes as the client makes them. One that exists is left alone."""
    return [IndexModel(keys, name=name, **_OPTIONS.get(name, {})) for name, keys in _KEYS.items()]


def missing(existing: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of those that are missing, by what the server says of those that exist."""
    return [name for name in _KEYS if not any(_is_like(name, each) for each in existing)]


def _is_like(name: str, existing: Mapping[str, Any]) -> bool:
    """Return whether an index does what one of the package does, whatever its name is."""
    keys = [(field, int(order)) for field, order in existing["key"].items()]
    removes = "expireAfterSeconds" in existing
    return keys == _KEYS[name] and removes is ("expireAfterSeconds" in _OPTIONS.get(name, {}))
