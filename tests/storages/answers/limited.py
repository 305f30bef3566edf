"""The session limit, with a list of two pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from django_sessionstores.storages.base import (
    Conflict,
    Gone,
    Page,
    Storage,
    Taken,
)
from django_sessionstores.storages.limited import LimitedStorage, _lock_of
from tests.storages.answers.common import (
    DOWN,
    FORWARDED,
    UNREADABLE,
    Case,
    all_of,
    at,
    none_of,
    updated,
)
from tests.storages.scripted import (
    BASE,
    ENDED,
    LED,
    LISTED,
    NEXT,
    NOW,
    OTHER,
    OVER,
    Script,
    Scripted,
)

_STORES: Final[Mapping[str, tuple[Any, ...]]] = {
    **FORWARDED,
    "scan": (Page([*LISTED[:2]], "next"), Page([*LISTED[2:]], "")),
    "create": (updated,),
    "update": (updated,),
    "rotate": (updated,),
    "end": (True,),
    "end_many": (all_of,),
    "lookup": (at(BASE),),
}
_LOCKS: Final[Mapping[str, tuple[Any, ...]]] = {
    "create": (updated,),
    "update": (updated,),
    "lookup": (None,),
}


class Paged(Scripted):
    """A storage whose list has two pages."""

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        return self.script.answer(
            self.part,
            "scan",
            (cursor, limit, user_id, live_at),
            (Page([*LISTED[2:]], "") if cursor else Page([*LISTED[:2]], "next"),),
        )

    async def ascan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        return self.scan(cursor, limit, user_id, live_at)


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


_HELD: Final = _lock_of("7", "", NOW)
_OLD: Final = _lock_of("7", "", NOW - 10_000)


def cases() -> Iterator[Case]:
    anonymous = msgspec.structs.replace(BASE, user_id=None)
    left = msgspec.structs.replace(LED, user_id=None)
    creations = {
        "": limited(
            create=(updated, Taken(), DOWN),
            end_many=(all_of, none_of),
            end=(True, False),
            lookup=(None,),
        ),
        "at most one": limited(1),
        "room for one": limited(3),
        "room for one, refused": limited(3, refuses=True),
        "no room, refused": limited(2, refuses=True),
        "not listed": limited(lists=False),
        "lost ones are listed": limited(1, lists_lost=True, read_latest=(BASE, None, UNREADABLE)),
        "room, lost ones are listed": limited(3, lists_lost=True),
        "as many as allowed, lost ones are listed": limited(
            2, refuses=True, lists_lost=True, read_latest=(BASE, None)
        ),
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
