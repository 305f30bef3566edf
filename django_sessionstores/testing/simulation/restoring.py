"""Undoing what calls of a storage have done, for looks that must not change anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import Any

from msgspec.structs import replace

from .internals import Record, Storage, draw_key, next_version, session_id


@contextmanager
def restored(*objects: object) -> Iterator[None]:
    """Restore the attributes of these objects at the end, and what is in them.

    Only dicts, lists and sets that are attributes themselves are copied, not what they contain.
    """
    kept = [(vars(each), _copied(vars(each))) for each in objects]
    try:
        yield
    finally:
        for variables, before in kept:
            variables.clear()
            variables.update(before)


def _copied(variables: dict[str, Any]) -> dict[str, Any]:
    return {
        name: copy(value) if isinstance(value, dict | list | set) else value
        for name, value in variables.items()
    }


def can_be_restored(storage: Storage, now: int) -> bool:
    """Return whether restoring the attributes of a storage undoes a ``create`` and an ``update``.

    The storage of a server or of files, for example, has its records elsewhere.
    """
    if not hasattr(storage, "__dict__"):
        return False
    id_ = session_id(draw_key())
    record = Record(
        id=id_,
        payload=b"before",
        created=now,
        last_activity=now,
        expires=now + 1000,
        site=storage.sites()[0],
    )
    with restored(storage):
        storage.create(record, now)
    if storage.read(id_) is not None:
        storage.delete(id_)
        return False
    storage.create(record, now)
    before = storage.read(id_)
    if before is None:
        return True  # A fault of the storage, which the simulation reports.
    changed = replace(before, payload=b"after", version=next_version(before.version))
    with restored(storage):
        storage.update(changed, before, now)
    after = storage.read(id_)
    return after is not None and after.payload == before.payload
