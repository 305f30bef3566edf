"""A registry beside the storage of the data, which compares versions or is the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from django_sessionstores.core.records import Record
from django_sessionstores.storages.base import (
    Conflict,
    Gone,
    Taken,
    Updated,
)
from django_sessionstores.storages.registered import RegisteredStorage
from django_sessionstores.storages.registered.entries import Handle
from django_sessionstores.storages.registered.journal import Journal, Save
from tests.storages.answers.common import (
    ARGUMENTS,
    DOWN,
    FORWARDED,
    HOUR,
    UNREADABLE,
    Case,
    all_of,
    at,
    first_of,
    none_of,
    provisional,
    updated,
)
from tests.storages.scripted import (
    BASE,
    ENDED,
    LED,
    MINUTE,
    NEWER,
    NEXT,
    NOW,
    OTHER,
    OVER,
    Script,
    Scripted,
)

ENTRY: Final = msgspec.structs.replace(BASE, payload=b"", version=1 << 32)
HELD: Final = msgspec.structs.replace(BASE, handle=Handle("inner", ENTRY))
MOVED: Final = msgspec.structs.replace(NEXT, ip="::1")
DATA: Final[Mapping[str, tuple[Any, ...]]] = {
    **FORWARDED,
    "read": (at(BASE), None, at(LED), UNREADABLE),
    "read_latest": (at(BASE), None, at(LED)),
    "create": (updated, Taken(), DOWN),
    "update": (updated, Conflict(NEWER), Conflict(LED), Gone()),
    "rotate": (updated, Conflict(NEWER), Gone(), Taken(), DOWN),
    "touch": (True, False),
    "delete": (True, False),
    "end_many": (all_of, first_of, DOWN),
    "in_transaction": (False, True),
}
REGISTRY: Final[Mapping[str, tuple[Any, ...]]] = {
    **DATA,
    "read": (at(ENTRY), None, at(LED), at(OVER)),
    "lookup": (ENTRY, None, LED),
    "create": (provisional, Taken()),
    "update": (updated, Conflict(NEWER), Conflict(LED), Conflict(ENDED), Gone(), DOWN),
    "rotate": (updated, Gone()),
}


def registered(script: Script, **traits: Any) -> RegisteredStorage:
    data = Scripted("data", script, DATA)
    return RegisteredStorage(data, Scripted("registry", script, REGISTRY), window=60)


def deciding(script: Script) -> RegisteredStorage:
    """Return a storage whose data is rotated, so that the registry decides on the rotation."""
    answers = {"rotate": (updated,), "update": (updated, Gone()), "in_transaction": (False,)}
    data = Scripted("data", script, {**DATA, **answers, "delete": (True,)})
    answers = {
        "read": (at(ENTRY), None),
        "read_latest": (at(ENTRY), at(LED)),
        "update": (updated, Gone()),
        "rotate": (updated, Conflict(NEWER), Conflict(LED), Gone(), Taken(), DOWN),
        "in_transaction": (False,),
        "delete": (True,),
    }
    registry = Scripted("registry", script, {**REGISTRY, **answers})
    return RegisteredStorage(data, registry, window=60)


# The save that made BASE, one before it, and one after it by another request.
_SAVES: Final = [Save(4 << 32, NOW - MINUTE, b"mark"), Save(5 << 32, NOW - 1, b"mark")]
_LATER: Final = Save(7 << 32, NOW, b"mark")
JOURNAL: Final = Journal(_SAVES, {b"k": (5 << 32, b"change")})


def _entry(journal: Journal | None, record: Record = BASE, **fields: Any) -> Record:
    return msgspec.structs.replace(record, payload=journal.pack() if journal else b"", **fields)


KNOWN: Final = _entry(JOURNAL)
AHEAD: Final = _entry(
    Journal([*_SAVES, _LATER], {b"l": (7 << 32, b"later"), b"k": (5 << 32, b"change")}), NEWER
)
UNKNOWN: Final = _entry(Journal([_LATER], {}), NEWER)
QUIET: Final = _entry(Journal([Save(7 << 32, NOW - HOUR, b"mark")], {}), NEWER)
LOST: Final = _entry(None, NEWER)
CREATED: Final = _entry(Journal([Save(3 << 32, NOW - MINUTE, b""), *_SAVES], {}))
BEHIND: Final = _entry(Journal(_SAVES[:1], {}), version=4 << 32)
KEYS: Final[Mapping[str, tuple[Any, ...]]] = {
    **FORWARDED,
    "read": (BASE, None, UNREADABLE),
    "create": (lambda record, now: Updated(record, "key"),),
    "update": (lambda record, base, now: Updated(record, "key"), Conflict(NEWER), Gone()),
    "in_transaction": (False,),
    "delete": (False,),
    "end_many": (none_of,),
}
ENTRIES: Final[Mapping[str, tuple[Any, ...]]] = {
    **REGISTRY,
    "read": (KNOWN, None, LED, AHEAD, UNKNOWN, QUIET, LOST, BEHIND),
    "read_latest": (KNOWN, CREATED, None, LED),
    "lookup": (KNOWN, None, LED),
    "update": (provisional, Conflict(AHEAD), Conflict(UNKNOWN), Conflict(LED), Gone()),
    "rotate": (provisional, Conflict(AHEAD), Conflict(UNKNOWN), Conflict(LED), Gone(), Taken()),
}
TOKEN: Final = msgspec.structs.replace(BASE, handle=Handle("inner", KNOWN, (5 << 32, b"mark")))
_CHANGED: Final = ((b"n", b"new"),)


def in_keys(script: Script) -> RegisteredStorage:
    data = Scripted("data", script, KEYS, holds_in_key=True)
    return RegisteredStorage(data, Scripted("registry", script, ENTRIES), window=60)


def _token(entry: Record) -> Record:
    """Return the record of a key that the registry does not know."""
    return msgspec.structs.replace(BASE, handle=Handle("inner", entry))


def cases() -> Iterator[Case]:
    for method, args in ARGUMENTS.items():
        args = tuple(
            HELD if each is BASE and method in {"update", "touch", "rotate", "follow"} else each
            for each in args
        )
        yield Case("registered", method, registered, method, args)
    args = (OTHER, HELD, LED, NOW)
    yield Case("registered", "rotate, the registry", deciding, "rotate", args)
    yield Case("registered", "create, a tombstone", registered, "create", (LED, NOW))
    yield Case(
        "registered", "update, the client has moved", registered, "update", (MOVED, HELD, NOW)
    )
    yield Case("registered", "update, to a tombstone", registered, "update", (LED, HELD, NOW))
    yield Case("registered", "update, of a tombstone", registered, "update", (ENDED, LED, NOW))


def cases_in_keys() -> Iterator[Case]:
    in_key = {**ARGUMENTS, "follow": (TOKEN, OTHER.id), "touch": (TOKEN, *ARGUMENTS["touch"][1:])}
    changed = msgspec.structs.replace(NEXT, changes=_CHANGED)
    in_key |= {"update": (changed, TOKEN, NOW), "rotate": (OTHER, TOKEN, LED, NOW)}
    for method, args in in_key.items():
        yield Case("registered_in_keys", method, in_keys, method, args)
    for name, entry in {"unknown": UNKNOWN, "quiet": QUIET, "lost": LOST}.items():
        args = (changed, _token(entry), NOW)
        yield Case("registered_in_keys", f"update, {name}", in_keys, "update", args)
        args = (OTHER, _token(entry), LED, NOW)
        yield Case("registered_in_keys", f"rotate, {name}", in_keys, "rotate", args)
    behind = msgspec.structs.replace(BASE, handle=Handle("inner", LOST, (5 << 32, b"mark")))
    for method, args in {
        "update": (changed, behind, NOW),
        "rotate": (OTHER, behind, LED, NOW),
    }.items():
        yield Case("registered_in_keys", f"{method}, the entry lags", in_keys, method, args)
    yield Case("registered_in_keys", "create, a tombstone", in_keys, "create", (LED, NOW))
    yield Case("registered_in_keys", "update, to a tombstone", in_keys, "update", (LED, TOKEN, NOW))
    yield Case("registered_in_keys", "update, of a tombstone", in_keys, "update", (ENDED, LED, NOW))
