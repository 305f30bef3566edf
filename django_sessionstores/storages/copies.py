"""Copies of records, as a cache in front of an authority keeps them."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from ..records import Record, State

# In front of the payload: a mark that no sealed payload begins with, and when the lease ends.
_LEASE: Final = struct.Struct(">BQ")
_MARK: Final = 0


def leased(record: Record, until: int) -> Record:
    """The copy of a record that counts before this moment only.

    The cache, too, drops it. But how long it keeps a copy counts from when it hears of it, which
    may be long after the sender has given up: what is sent to a server that stands still is done
    when that goes on.
    """
    return msgspec.structs.replace(record, payload=_LEASE.pack(_MARK, until) + record.payload)


def read_copy(stored: Record, now: int) -> Record | None:
    """The record that a copy was made of; ``None`` if its lease is over, or if it is no copy."""
    payload = stored.payload
    if len(payload) < _LEASE.size or payload[0] != _MARK:
        return None
    _, until = _LEASE.unpack_from(payload)
    if until <= now:
        return None
    return msgspec.structs.replace(stored, payload=payload[_LEASE.size :])


def is_refused(copy: Record, stored: Record, now: int) -> bool:
    """Whether a cache that has ``stored`` must not take ``copy`` in its place.

    It was read before the session ended, or before it was saved again, and comes too late.
    For caches without a script of their own, which decide it here.
    """
    if stored.state is State.LIVE:
        return stored.version > copy.version
    return stored.expires > now
