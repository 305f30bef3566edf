"""What the store says of watched sessions: that they live, under which id, or why they do not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

from ..core import clock
from ..core.flow import Flow
from ..core.records import Record, State
from ..sessions.drafting import ends_at
from ..storages.base import Storage
from ..storages.calls import Calls
from ..storages.revocation import leads_on

UNKNOWN: Final = "unknown"
"""The reason of an end of which only its effect was seen."""

Finding: TypeAlias = Record | str
"""The record of a session that lives, perhaps under another id than before; otherwise why it has
ended."""

_ROUNDS: Final = 20
"""How many rotations since the last look are followed."""


def find_out(storage: Storage, known: Mapping[str, Record]) -> Flow[dict[str, Finding]]:
    """Return what became of sessions, by their ids.

    ``known`` are their records as they were last seen, at most `MOST_AT_ONCE`. Takes one call, and
    another one if some of them were rotated. Raises `StorageUnavailable`.
    """
    now, calls = clock.now(), Calls(storage)
    if not storage.authoritative:
        # Only the browsers have these sessions, so that nothing but time ends them.
        return {each: _found(record, record, now) for each, record in known.items()}
    current = dict((yield from calls.lookup_many(list(known)))) if known else {}
    findings: dict[str, Finding] = {}
    waiting = dict(known)
    for _ in range(_ROUNDS):
        links: dict[str, Record] = {}
        for each, record in waiting.items():
            found = current.get(each)
            if found is not None and found.successor:
                links[each] = found
            else:
                findings[each] = _found(found, record, now)
        if not links:
            break
        successors = yield from calls.lookup_many([each.successor for each in links.values()])
        waiting, current = {each: known[each] for each in links}, {}
        for each, tombstone in links.items():
            successor = successors.get(tombstone.successor)
            if successor is None:
                continue
            if leads_on(tombstone, successor):
                current[each] = successor
            else:
                # A login has begun another session in place of this one.
                findings[each] = "replaced"
                del waiting[each]
    return findings


def _found(current: Record | None, known: Record, now: int) -> Finding:
    """Return the finding for the record that is stored now and was ``known`` before."""
    if current is None:
        return "expired" if ends_at(known) <= now else UNKNOWN
    if current.state is State.LIVE:
        return current if ends_at(current) > now else "expired"
    # Such a tombstone without a successor is left of a session whose user has a new password.
    return "password" if current.state is State.SUPERSEDED else UNKNOWN
