"""The indexes of the collection of sessions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.collation import Collation

from ...core.records import State
from ...exceptions import StorageUnavailable
from .client import Absent, Server, UnknownField

GRACE: Final = 60 * 60
"""Seconds after its expiry at which the server removes a record. Its clock may be ahead of those of
the processes that say when a session expires."""

BUILD_SECONDS: Final = 600
"""How long making the indexes may take. The server gives up then."""
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


_MOST_GRACE: Final = 30 * 24 * 60 * 60
"""The seconds of the longest grace of an index that somebody else has made or changed."""
_SIGNATURE: Final = ("unique", "sparse", "partialFilterExpression", "collation")
"""The options that an index on the same keys can differ in. The server refuses another one."""
SIMPLE: Final = Collation(locale="simple")
"""How user ids are compared, whatever the collection says: byte for byte."""


def existing(server: Server) -> list[Mapping[str, Any]]:
    """Return what the server says of the indexes that exist or are being built."""
    command = {"listIndexes": server.collection().name}
    try:
        try:
            answer = server.ask("command", {**command, "includeBuildUUIDs": True})
        except UnknownField:
            answer = server.ask("command", command)
    except Absent:
        return []
    found = answer["cursor"]["firstBatch"]
    # One that is being built is in a document of its own.
    return [{**each.get("spec", {}), **each} for each in found]


def make(server: Server) -> list[str]:
    """Make the indexes that are missing, and return their names. Raises `StorageUnavailable`."""
    known = existing(server)
    blocking = {name: in_the_way(name, known) for name in missing(known)}
    if wanted := [name for name, others in blocking.items() if not others]:
        # All members that store data would otherwise have to build them, also those that are down.
        quorum = {"commitQuorum": "majority"} if server.is_replicated else {}
        options: dict[str, Any] = {"seconds": BUILD_SECONDS, **quorum}
        server.ask("create_indexes", models(wanted), **options)
    if others := sorted({name for names in blocking.values() for name in names}):
        raise StorageUnavailable(
            f"{server.describe()}: Other indexes of the collection are in the way of those that "
            f"sessions need: {', '.join(others)}. Drop them with dropIndex() in mongosh, and run "
            "manage.py sessions reindex."
        )
    return wanted


def models(names: Sequence[str]) -> list[IndexModel]:
    """Return the indexes with these names, as the client makes them."""
    return [
        IndexModel(_KEYS[name], name=name, collation=SIMPLE, **_OPTIONS.get(name, {}))
        for name in names
    ]


def missing(known: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of those that are missing, by what the server says of those that exist.

    One that is still being built is missing.
    """
    return [name for name in _KEYS if not any(_is_like(name, each) for each in known)]


def in_the_way(name: str, known: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the indexes because of which the server refuses one that is missing."""
    return [
        each["name"]
        for each in known
        if "buildUUID" not in each
        and (each["name"] == name or _keys_and_signature(each) == _wanted(name))
    ]


def _is_like(name: str, existing: Mapping[str, Any]) -> bool:
    """Return whether an index does what one of the package does, whatever its name is."""
    least, most = (
        (GRACE, _MOST_GRACE) if "expireAfterSeconds" in _OPTIONS.get(name, {}) else (-1, -1)
    )
    return (
        _keys_and_signature(existing) == _wanted(name)
        and not existing.get("hidden")
        and "buildUUID" not in existing
        and least <= existing.get("expireAfterSeconds", -1) <= most
    )


def _wanted(name: str) -> tuple[list[Any], list[Any]]:
    return _keys_and_signature({"key": dict(_KEYS[name]), **_OPTIONS.get(name, {})})


def _keys_and_signature(index: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Return what tells an index from others for the server."""
    return list(index["key"].items()), [index.get(each) or None for each in _SIGNATURE]
