"""What the trees of all storages have in common: answers, arguments, and flows as methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from unittest import mock

import msgspec

from django_sessionstores.core.flow import Flow, arun, run
from django_sessionstores.core.records import Record
from django_sessionstores.exceptions import (
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.migration import lazy
from django_sessionstores.storages.base import (
    Conflict,
    Found,
    Gone,
    Page,
    Taken,
    Updated,
)
from tests.storages.scripted import (
    BASE,
    LED,
    MINUTE,
    NEWER,
    NEXT,
    NOW,
    OTHER,
    Script,
    tree,
)

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
        with (
            mock.patch.object(lazy, "sources"),
            mock.patch.object(lazy, "draw_key", return_value="k" * 32),
        ):
            return tree(self.make, self.method, *self.args, awaited=awaited, after=self.after)


DOWN: Final = StorageUnavailable("down")
UNREADABLE: Final = UnreadablePayload("damaged")


def at(record: Record) -> Callable[..., Record]:
    """Answer with a record that has the id that was asked for."""
    return lambda session_id, *rest: msgspec.structs.replace(record, id=session_id)


def updated(record: Record, *rest: Any) -> Updated:
    return Updated(record)


def provisional(record: Record, *rest: Any) -> Updated:
    return Updated(record, is_provisional=True)


def all_of(session_ids: Sequence[str]) -> tuple[str, ...]:
    return tuple(session_ids)


def first_of(session_ids: Sequence[str]) -> tuple[str, ...]:
    return tuple(session_ids[:1])


def none_of(session_ids: Sequence[str]) -> tuple[str, ...]:
    return ()


def action() -> None:
    """Wait for a commit."""


_EXAMPLES: Final[Mapping[str, tuple[tuple[Any, ...], tuple[Any, ...]]]] = {
    "read": (("locator",), (BASE,)),
    "find": (("plainkey", "plainkey"), (Found(BASE, "key"),)),
    "peek": (("plainkey",), (BASE,)),
    "read_latest": ((BASE.id,), (NEWER,)),
    "follow": ((BASE, OTHER.id), (OTHER,)),
    "create": ((BASE, NOW), (Updated(NEWER), Taken())),
    "update": ((NEXT, BASE, NOW), (Updated(NEWER), Conflict(NEWER), Gone())),
    "rotate": ((OTHER, BASE, LED, NOW), (Updated(NEWER), Taken())),
    "touch": ((BASE, NOW + 2 * HOUR, NOW + 2, NOW), (True, False)),
    "delete": ((BASE.id,), (True, False)),
    "end": ((BASE.id, "plainkey"), (True, False)),
    "end_many": (((BASE.id, OTHER.id),), (all_of, none_of)),
    "issue": ((BASE, NOW), (Updated(NEWER, "key"),)),
    "purge": ((NOW, 10), (0, 2)),
    "lookup": ((BASE.id,), (BASE, None)),
    "lookup_many": (((BASE.id, OTHER.id),), ({BASE.id: BASE, OTHER.id: OTHER}, {})),
    "scan": (("cursor", 5, "7", NOW), (Page([BASE, OTHER], "next"),)),
    "count": ((NOW, "7"), (3,)),
    "reindex": ((), (4, None)),
    "in_transaction": ((), (True, False)),
    "after_commit": ((action,), (lambda action: action,)),
}
"""The arguments of each method that has an async twin, and the answers that it may get."""
ARGUMENTS: Final = {name: arguments for name, (arguments, _) in _EXAMPLES.items()}
FORWARDED: Final = {name: answers for name, (_, answers) in _EXAMPLES.items()}


class Flows:
    """Flows of a storage as methods: blocking, and awaited with an ``a`` before their names."""

    def __init__(self, **flows: Callable[..., Flow[Any]]) -> None:
        for name, flow in flows.items():
            setattr(self, name, lambda *args, flow=flow: run(flow(*args)))
            setattr(self, "a" + name, lambda *args, flow=flow: arun(flow(*args)))
