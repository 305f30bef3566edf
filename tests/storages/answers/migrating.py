"""A storage that looks for sessions in a previous backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import msgspec

from django_sessionstores.exceptions import (
    PayloadTooLarge,
)
from django_sessionstores.migration import lazy
from django_sessionstores.migration.sources import ForeignSession, PreviousSession
from django_sessionstores.storages.base import (
    Found,
    Gone,
    Storage,
    Taken,
)
from tests.storages.answers.common import (
    ARGUMENTS,
    DOWN,
    FORWARDED,
    UNREADABLE,
    Case,
    at,
    provisional,
    updated,
)
from tests.storages.scripted import (
    BASE,
    ENDED,
    LED,
    NOW,
    OVER,
    Script,
    Scripted,
)

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
    "lookup": (None, BASE, OVER, UNREADABLE, ForeignSession("of another site"), DOWN),
    "remove_id": (None,),
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


def cases() -> Iterator[Case]:
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
