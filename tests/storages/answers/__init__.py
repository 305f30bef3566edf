"""What storages around other storages do with each answer of those, as trees of text.

Each file has the trees of one storage. `CASES` says how they are made, and ``python -m
tests.storages.answers`` writes them anew after a change that was meant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple
from unittest import mock

import msgspec

from django_sessionstores.core.flow import Flow, arun, run
from django_sessionstores.core.records import Record
from django_sessionstores.exceptions import (
    PayloadTooLarge,
    StorageFull,
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.migration import lazy
from django_sessionstores.migration.sources import PreviousSession
from django_sessionstores.storages import copies, revocation, tombstones
from django_sessionstores.storages.base import (
    Conflict,
    Found,
    Gone,
    Page,
    Storage,
    Taken,
    Updated,
    rotate_in_two_steps,
    was_rotated,
)
from django_sessionstores.storages.composed import Wrapper
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.storages.limited import LimitedStorage, _lock_of
from django_sessionstores.storages.registered import RegisteredStorage
from django_sessionstores.storages.registered.entries import Handle
from django_sessionstores.storages.registered.journal import Journal, Save
from tests.storages.scripted import (
    BASE,
    ENDED,
    LED,
    LISTED,
    MINUTE,
    NEWER,
    NEXT,
    NOW,
    OTHER,
    OVER,
    SECONDS,
    Script,
    Scripted,
    tree,
)

FOLDER: Final = Path(__file__).parent
HOUR: Final = 60 * MINUTE


class Case(NamedTuple):
    """A tree: the method, its arguments, and the object that has it."""

    file: str
    title: str
    make: Callable[[Script], Any]
    method: str
    args: tuple[Any, ...]
    after: Callable[[Any], str] = lambda target: ""

    def tree(self, *, awaited: bool = False) -> str:
        with mock.patch.object(lazy, "sources"):
            return tree(self.make, self.method, *self.args, awaited=awaited, after=self.after)


# Answers --------------------------------------------------------------------------------------

DOWN: Final = StorageUnavailable("down")
UNREADABLE: Final = UnreadablePayload("damaged")


def at(record: Record) -> Callable[..., Record]:
    """Answer with a record that has the id that was asked for."""
    return lambda session_id, *rest: msgspec.structs.replace(record, id=session_id)


def updated(record: Record, *rest: Any) -> Updated:
    return Updated(record)


def provisional(record: Record, *rest: Any) -> Updated:
    return Updated(record, is_provisional=True)


def action() -> None:
    """Wait for a commit."""


FORWARDED: Final[Mapping[str, tuple[Any, ...]]] = {
    "read": (BASE,),
    "find": (Found(BASE, "key"),),
    "peek": (BASE,),
    "read_latest": (NEWER,),
    "follow": (OTHER,),
    "create": (Updated(NEWER), Taken()),
    "update": (Updated(NEWER), Conflict(NEWER), Gone()),
    "rotate": (Updated(NEWER), Taken()),
    "touch": (True, False),
    "delete": (True, False),
    "end": (True, False),
    "issue": (Updated(NEWER, "key"),),
    "purge": (0, 2),
    "lookup": (BASE, None),
    "scan": (Page([BASE, OTHER], "next"),),
    "count": (3,),
    "reindex": (4, None),
    "in_transaction": (True, False),
    "after_commit": (lambda action: action,),
}
ARGUMENTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "read": ("locator",),
    "find": ("plainkey", "plainkey"),
    "peek": ("plainkey",),
    "read_latest": (BASE.id,),
    "follow": (BASE, OTHER.id),
    "create": (BASE, NOW),
    "update": (NEXT, BASE, NOW),
    "rotate": (OTHER, BASE, LED, NOW),
    "touch": (BASE, NOW + 2 * HOUR, NOW + 2, NOW),
    "delete": (BASE.id,),
    "end": (BASE.id, "plainkey"),
    "issue": (BASE, NOW),
    "purge": (NOW, 10),
    "lookup": (BASE.id,),
    "scan": ("cursor", 5, "7"),
    "count": (NOW, "7"),
    "reindex": (),
    "in_transaction": (),
    "after_commit": (action,),
}


class Flows:
    """Flows of a storage as methods: blocking, and awaited with an ``a`` before their names."""

    def __init__(self, **flows: Callable[..., Flow[Any]]) -> None:
        for name, flow in flows.items():
            setattr(self, name, lambda *args, flow=flow: run(flow(*args)))
            setattr(self, "a" + name, lambda *args, flow=flow: arun(flow(*args)))


# Storages -------------------------------------------------------------------------------------


def wrapper(script: Script) -> Storage:
    return Wrapper(Scripted("inner", script, FORWARDED))


CACHE: Final[Mapping[str, tuple[Any, ...]]] = {
    "read": (
        None,
        copies.make_copy(NEWER, NOW + MINUTE),
        copies.make_copy(NEWER, NOW),
        copies.make_copy(OVER, NOW + MINUTE),
        NEWER,
        ENDED,
        LED,
        UNREADABLE,
        DOWN,
    ),
    "fill": (None, PayloadTooLarge("large"), StorageFull("full"), DOWN),
    "leave_tombstone": (None, StorageFull("full"), DOWN),
    "delete": (True, StorageFull("full"), DOWN),
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
    "purge": (0, 2),
    "in_transaction": (False, True),
}


def layered(script: Script, **answers: tuple[Any, ...]) -> LayeredStorage:
    cache = Scripted("cache", script, CACHE)
    authority = Scripted("authority", script, {**AUTHORITY, **answers})
    return LayeredStorage(cache, authority, lease=60, retry=5)


def layered_suspect(script: Script) -> LayeredStorage:
    storage = layered(script)
    storage._distrust(BASE.id)
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
        for each, until in storage._suspects.items()
    ]
    if storage._left_alone_until:
        found.append(f"cache alone for {storage._left_alone_until - SECONDS:g} s")
    written = [each for each in (BASE.id, OTHER.id) if each in storage._uncommitted._writes]
    found += [f"{each[0]}... uncommitted" for each in written]
    return "".join(f", {each}" for each in found)


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
    "in_transaction": (False, True),
}
REGISTRY: Final[Mapping[str, tuple[Any, ...]]] = {
    **DATA,
    "read": (at(ENTRY), None, at(LED), at(OVER)),
    "lookup": (ENTRY, None, LED),
    "create": (provisional, Taken()),
    "update": (updated, Conflict(NEWER), Conflict(LED), Conflict(ENDED), Gone(), DOWN),
}


def registered(script: Script, **traits: Any) -> RegisteredStorage:
    data = Scripted("data", script, DATA)
    return RegisteredStorage(data, Scripted("registry", script, REGISTRY), window=60)


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
BEHIND: Final = _entry(Journal(_SAVES[:1], {}), version=4 << 32)
KEYS: Final[Mapping[str, tuple[Any, ...]]] = {
    **FORWARDED,
    "read": (BASE, None, UNREADABLE),
    "create": (lambda record, now: Updated(record, "key"),),
    "update": (lambda record, base, now: Updated(record, "key"), Conflict(NEWER), Gone()),
    "in_transaction": (False,),
    "delete": (False,),
}
ENTRIES: Final[Mapping[str, tuple[Any, ...]]] = {
    **REGISTRY,
    "read": (KNOWN, None, LED, AHEAD, UNKNOWN, QUIET, LOST, BEHIND),
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


_STORES: Final[Mapping[str, tuple[Any, ...]]] = {
    **FORWARDED,
    "scan": (Page([*LISTED[:2]], "next"), Page([*LISTED[2:]], "")),
    "create": (updated,),
    "update": (updated,),
    "rotate": (updated,),
    "end": (True,),
    "lookup": (at(BASE),),
}
_LOCKS: Final[Mapping[str, tuple[Any, ...]]] = {
    "create": (updated,),
    "update": (updated,),
    "lookup": (None,),
}


class Paged(Scripted):
    """A storage whose list has two pages."""

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        return self.script.answer(
            self.part,
            "scan",
            (cursor, limit, user_id),
            (Page([*LISTED[2:]], "") if cursor else Page([*LISTED[:2]], "next"),),
        )

    async def ascan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        return self.scan(cursor, limit, user_id)


def limited(
    most: int = 2,
    *,
    refuses: bool = False,
    lists: bool = True,
    lists_lost: bool = False,
    locks: Mapping[str, tuple[Any, ...]] = _LOCKS,
    **answers: tuple[Any, ...],
) -> Callable[[Script], Storage]:
    def make(script: Script) -> Storage:
        inner = Paged("inner", script, _STORES | answers, lists=lists, lists_lost=lists_lost)
        lock = Scripted("locks", script, _LOCKS | locks)
        return LimitedStorage(inner, lock, most=most, refuses=refuses)

    return make


_HELD: Final = _lock_of("7", NOW)
_OLD: Final = _lock_of("7", NOW - 10_000)


INNER: Final[Mapping[str, tuple[Any, ...]]] = {
    **FORWARDED,
    "read": (None, at(BASE), at(LED)),
    "find": (Found(None), Found(BASE, "key"), Found(LED), UNREADABLE),
    "peek": (None, BASE, LED),
    "read_latest": (BASE, None, LED),
    "lookup": (None, at(BASE), at(ENDED)),
    "create": (updated, provisional, Taken(), PayloadTooLarge("large"), DOWN),
    "update": (updated, Gone()),
    "rotate": (updated, Gone()),
    "in_transaction": (False, True),
    "delete": (True,),
}
FOREIGN: Final = ".key-of-a-cookie"
PREVIOUS: Final = PreviousSession(msgspec.structs.replace(BASE, id="c" * 40), None)
SOURCE: Final[Mapping[str, tuple[Any, ...]]] = {
    "find": (
        None,
        PREVIOUS,
        PreviousSession(OVER, None),
        PreviousSession(LED, None),
        UNREADABLE,
        DOWN,
    ),
    "remove": (None, DOWN),
    "remove_id": (False, True),
}


_ENDING: Final[Mapping[str, tuple[Any, ...]]] = {
    **INNER,
    "lookup": (None, at(ENDED), at(BASE)),
    "create": (updated,),
    "update": (updated,),
}


def migrating(
    script: Script,
    *,
    in_key: bool = False,
    answers: Mapping[str, tuple[Any, ...]] = INNER,
    **traits: Any,
) -> Storage:
    source = Scripted("previous", script, SOURCE, in_key=in_key)
    lazy.sources.return_value = (source,)  # type: ignore[attr-defined]
    return lazy.MigratingStorage(Scripted("inner", script, answers, **traits))


MIGRATIONS: Final[Mapping[str, Callable[..., Storage]]] = {
    "": migrating,
    "from keys": partial(migrating, in_key=True),
    "to keys": partial(migrating, holds_in_key=True),
    "from keys to keys": partial(migrating, in_key=True, holds_in_key=True),
}


PLACES: Final[Mapping[str, Mapping[str, tuple[Any, ...]]]] = {
    "nothing": {"lookup": (None,), "create": (updated, Taken())},
    "nothing, and taken each time": {"lookup": (None,), "create": (Taken(),)},
    "a live one": {
        "lookup": (at(BASE), None),
        "update": (updated, Conflict(NEWER), Gone()),
        "create": (updated,),
        "delete": (True, False),
    },
    "a live one that is rotated": {
        "lookup": (at(BASE), at(LED)),
        "update": (Conflict(LED), updated),
        "create": (updated,),
        "delete": (True,),
    },
    "one that has expired": {
        "lookup": (at(OVER),),
        "update": (updated, Conflict(NEWER), Conflict(LED), Gone()),
    },
    "a tombstone": {
        "lookup": (at(LED),),
        "update": (updated, Conflict(NEWER), Conflict(ENDED), Gone()),
    },
    "a damaged one": {"lookup": (UNREADABLE,), "delete": (True,), "create": (updated,)},
}


def tombstoned(place: str, **options: bool) -> Callable[[Script], Flows]:
    def make(script: Script) -> Flows:
        storage = Scripted("storage", script, PLACES[place])
        return Flows(leave=partial(tombstones.leave_tombstone, storage, **options))

    return make


CHAIN: Final[Mapping[str, tuple[Any, ...]]] = {
    "end": (False, True),
    "lookup": (None, at(LED), at(OTHER), UNREADABLE),
}


def in_two_steps(script: Script) -> Flows:
    answers = {
        "create": (updated, Taken(), DOWN),
        "update": (updated, Conflict(NEWER), Gone(), DOWN, ValueError("wrong")),
        "read_latest": (LED, None, BASE, ENDED, DOWN),
        "delete": (True, False),
    }
    storage = Scripted("storage", script, answers)
    return Flows(
        rotate=partial(rotate_in_two_steps, storage), was_rotated=partial(was_rotated, storage)
    )


def revoked(authoritative: bool = True, **options: Any) -> Callable[[Script], Flows]:
    def make(script: Script) -> Flows:
        storage = Scripted("storage", script, CHAIN, authoritative=authoritative)
        return Flows(
            end=partial(revocation.end, storage, **options),
            follow=partial(revocation.follow_ids, storage),
        )

    return make


# What is tried --------------------------------------------------------------------------------


def _cases() -> Iterator[Case]:
    for method, args in ARGUMENTS.items():
        yield Case("wrapper", method, wrapper, method, args)
        yield Case("layered", method, layered, method, args, _trust)
    for name, make in {
        "suspect": layered_suspect,
        "cache left alone": layered_alone,
        "cache to be tried again": layered_retried,
    }.items():
        yield Case("layered", f"read, {name}", make, "read", (BASE.id,), _trust)
        yield Case("layered", f"delete, {name}", make, "delete", (BASE.id,), _trust)
    for method, args in ARGUMENTS.items():
        args = tuple(
            HELD if each is BASE and method in {"update", "touch", "rotate", "follow"} else each
            for each in args
        )
        yield Case("registered", method, registered, method, args)
    yield Case("registered", "create, a tombstone", registered, "create", (LED, NOW))
    yield Case(
        "registered", "update, the client has moved", registered, "update", (MOVED, HELD, NOW)
    )
    yield Case("registered", "update, to a tombstone", registered, "update", (LED, HELD, NOW))
    yield Case("registered", "update, of a tombstone", registered, "update", (ENDED, LED, NOW))
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
    for method in ("read", "create", "update", "rotate"):
        yield Case("migrating", method, migrating, method, ARGUMENTS[method])
    yield Case("migrating", "create, a tombstone", migrating, "create", (LED, NOW))
    yield Case("migrating", "update, to a tombstone", migrating, "update", (LED, BASE, NOW))
    for name, make in MIGRATIONS.items():
        for method in ("find", "peek"):
            args = tuple(
                FOREIGN if each == "plainkey" and "from" in name else each
                for each in ARGUMENTS[method]
            )
            title = ", ".join(filter(None, [method, name]))
            yield Case("migrating", title, make, method, args)
    make = partial(migrating, answers=_ENDING)
    yield Case("migrating", "delete", make, "delete", (BASE.id,))
    yield Case("migrating", "end", make, "end", (BASE.id, "plainkey"))
    make = partial(migrating, answers=_ENDING, in_key=True)
    yield Case("migrating", "end, from keys", make, "end", (BASE.id, FOREIGN))
    yield Case("migrating", "end, from keys, a plain key", make, "end", (BASE.id, "plainkey"))
    yield from _limited_cases()
    yield from _flow_cases()


def _flow_cases() -> Iterator[Case]:
    short = msgspec.structs.replace(ENDED, expires=NOW + MINUTE)
    for place in PLACES:
        for option in ("", "replace", "outlasts"):
            make = tombstoned(place, **({option: True} if option else {}))
            title = ", ".join(filter(None, ["tombstone", place, option]))
            yield Case("flows", title, make, "leave", (short,))
    for name, method in {"rotate": "rotate", "rotated": "was_rotated"}.items():
        title, args = (
            f"in two steps: {name}",
            (OTHER, BASE, LED, NOW)[: 4 if name == "rotate" else 2],
        )
        yield Case("flows", title, in_two_steps, method, args)
    yield Case("flows", "end", revoked(), "end", (BASE.id, "key", BASE))
    yield Case("flows", "end, in keys only", revoked(False), "end", (BASE.id, "key", BASE))
    yield Case("flows", "follow", revoked(), "follow", (BASE.id,))


def _limited_cases() -> Iterator[Case]:
    anonymous = msgspec.structs.replace(BASE, user_id=None)
    left = msgspec.structs.replace(LED, user_id=None)
    creations = {
        "": limited(create=(updated, Taken(), DOWN), end=(True, False), lookup=(None,)),
        "at most one": limited(1),
        "room for one": limited(3),
        "room for one, refused": limited(3, refuses=True),
        "no room, refused": limited(2, refuses=True),
        "not listed": limited(lists=False),
        "lost ones are listed": limited(1, lists_lost=True, read_latest=(BASE, None, UNREADABLE)),
        "room, lost ones are listed": limited(3, lists_lost=True),
        "the lock is lost": limited(
            locks={"update": (updated, Gone())}, lookup=(at(BASE), None, at(ENDED), at(OVER))
        ),
        "the lock is lost, refused": limited(3, refuses=True, locks={"update": (updated, Gone())}),
        "the lock cannot be released": limited(locks={"update": (updated, DOWN)}),
        "the lock is held": limited(
            locks={"create": (updated, Taken()), "lookup": (None, _HELD, _OLD)}
        ),
        "a lock that has expired": limited(
            locks={
                "create": (Taken(),),
                "lookup": (_OLD,),
                "update": (updated, Conflict(_HELD), Gone()),
            }
        ),
    }
    for name, make in creations.items():
        yield Case("limited", f"create, {name}".removesuffix(", "), make, "create", (BASE, NOW))
    yield Case("limited", "create, of nobody", limited(), "create", (anonymous, NOW))
    yield Case("limited", "create, a tombstone", limited(), "create", (ENDED, NOW))
    make = limited(update=(updated, Gone()), rotate=(updated, Taken()))
    yield Case("limited", "update, no login", make, "update", (NEXT, BASE, NOW))
    yield Case("limited", "update, a login", make, "update", (NEXT, anonymous, NOW))
    yield Case("limited", "rotate, no login", make, "rotate", (OTHER, BASE, LED, NOW))
    yield Case("limited", "rotate, a login", make, "rotate", (OTHER, anonymous, left, NOW))


CASES: Final = tuple(_cases())
FILES: Final = tuple(dict.fromkeys(case.file for case in CASES))


def text_of(file: str) -> str:
    """Return what the file of a storage should have."""
    return "\n".join(f"# {case.title}\n\n{case.tree()}" for case in CASES if case.file == file)


def trees_of(file: str) -> dict[str, str]:
    """Return the trees that a file has, by their titles."""
    text = (FOLDER / f"{file}.txt").read_text()
    parts = [each.partition("\n\n") for each in text.removeprefix("# ").split("\n# ")]
    return {title: tree.rstrip("\n") + "\n" for title, _, tree in parts}
