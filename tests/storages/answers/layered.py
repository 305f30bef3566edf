"""A cache in front of an authority."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from django_sessionstores.exceptions import (
    PayloadTooLarge,
    StorageFull,
)
from django_sessionstores.storages import copies
from django_sessionstores.storages.base import (
    Conflict,
    Gone,
    Taken,
)
from django_sessionstores.storages.layered import LayeredStorage
from tests.storages.answers.common import (
    ARGUMENTS,
    DOWN,
    FORWARDED,
    UNREADABLE,
    Case,
    all_of,
    at,
    first_of,
    updated,
)
from tests.storages.scripted import (
    BASE,
    ENDED,
    LED,
    MINUTE,
    NEWER,
    NOW,
    OTHER,
    OVER,
    SECONDS,
    Script,
    Scripted,
)

MARK: Final = copies.make_mark(msgspec.structs.replace(BASE, handle=NOW))
CACHE: Final[Mapping[str, tuple[Any, ...]]] = {
    "read": (
        None,
        copies.make_copy(NEWER, NOW),
        copies.make_copy(NEWER, NOW - MINUTE),
        copies.make_copy(OVER, NOW),
        MARK,
        NEWER,
        ENDED,
        LED,
        UNREADABLE,
        DOWN,
    ),
    "fill": (None, PayloadTooLarge("large"), StorageFull("full"), DOWN),
    "leave_tombstone": (None, StorageFull("full"), DOWN),
    "delete": (True, StorageFull("full"), DOWN),
    "end_many": (all_of, StorageFull("full"), DOWN),
    "leave_tombstones": (None, StorageFull("full"), DOWN),
    "purge": (0, 2, DOWN),
}
AUTHORITY: Final[Mapping[str, tuple[Any, ...]]] = {
    **FORWARDED,
    "read": (at(BASE), None, at(LED), at(OVER), UNREADABLE, DOWN),
    "create": (updated, Taken(), DOWN),
    "update": (updated, Conflict(NEWER), Conflict(LED), Gone(), DOWN),
    "rotate": (updated, Conflict(NEWER), Gone(), Taken(), DOWN),
    "touch": (True, False, DOWN),
    "delete": (True, False, DOWN),
    "end_many": (all_of, first_of, DOWN),
    "purge": (0, 2),
    "in_transaction": (False, True),
}


def layered(script: Script, **answers: tuple[Any, ...]) -> LayeredStorage:
    cache = Scripted("cache", script, CACHE)
    authority = Scripted("authority", script, {**AUTHORITY, **answers})
    return LayeredStorage(cache, authority, lease=60, retry=5)


def layered_suspect(script: Script) -> LayeredStorage:
    storage = layered(script)
    storage._trust._suspects[BASE.id] = SECONDS + 10
    return storage


def layered_alone(script: Script) -> LayeredStorage:
    storage = layered(script)
    storage._left_alone_until = SECONDS + 1
    return storage


def layered_retried(script: Script) -> LayeredStorage:
    storage = layered(script)
    storage._left_alone_until = SECONDS - 1
    return storage


def _trust(storage: LayeredStorage) -> str:
    """Return what a storage has learned about its cache."""
    found = [
        f"{each[0]}... suspect for {until - SECONDS:g} s"
        for each, until in storage._trust._suspects.items()
    ]
    if storage._left_alone_until:
        found.append(f"cache alone for {storage._left_alone_until - SECONDS:g} s")
    written = [each for each in (BASE.id, OTHER.id) if each in storage._uncommitted._writes]
    found += [f"{each[0]}... uncommitted" for each in written]
    return "".join(f", {each}" for each in found)


def cases() -> Iterator[Case]:
    for method, args in ARGUMENTS.items():
        yield Case("layered", method, layered, method, args, _trust)
    for name, make in {
        "suspect": layered_suspect,
        "cache left alone": layered_alone,
        "cache to be tried again": layered_retried,
    }.items():
        yield Case("layered", f"read, {name}", make, "read", (BASE.id,), _trust)
        yield Case("layered", f"delete, {name}", make, "delete", (BASE.id,), _trust)
    # A tombstone that would expire before the copies of its session do.
    short = msgspec.structs.replace(LED, expires=NOW + 1)
    yield Case("layered", "update, to a tombstone", layered, "update", (short, BASE, NOW), _trust)
