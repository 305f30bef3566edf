"""Flows over one storage: ending, tombstones, and rotation in two steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from django_sessionstores.storages import revocation, tombstones
from django_sessionstores.storages.base import (
    Conflict,
    Gone,
    Taken,
    rotate_in_two_steps,
    was_rotated,
)
from tests.storages.answers.common import DOWN, UNREADABLE, Case, Flows, at, updated
from tests.storages.scripted import (
    BASE,
    ENDED,
    LED,
    MINUTE,
    NEWER,
    NOW,
    OTHER,
    OVER,
    Script,
    Scripted,
)

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
    "lookup_many": ({}, {BASE.id: LED}),
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


def cases() -> Iterator[Case]:
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
