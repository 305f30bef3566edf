"""The copies of records that a cache keeps in front of another storage, the authority."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from ..core.records import Record, State

# Precedes the payload: a mark with which no encrypted payload begins, and the end of the lease.
_LEASE: Final = struct.Struct(">BQ")
_MARK: Final = 0


def make_copy(record: Record, until: int) -> Record:
    """Return a copy of a record that counts until a moment, in milliseconds since the epoch.

    The lifetime of the cache's entry is not enough. It begins when the server executes the command.
    A server that stands still may do so long after the sender has given up.
    """
    return msgspec.structs.replace(record, payload=_LEASE.pack(_MARK, until) + record.payload)


def read_copy(stored: Record, now: int) -> Record | None:
    """Return the record in a copy; ``None`` if its lease has ended, or if it is not a copy."""
    payload = stored.payload
    if len(payload) < _LEASE.size or payload[0] != _MARK:
        return None
    _, until = _LEASE.unpack_from(payload)
    if until <= now:
        return None
    return msgspec.structs.replace(stored, payload=payload[_LEASE.size :])


def is_refused(copy: Record, stored: Record, now: int) -> bool:
    """Return whether a cache that has ``stored`` must not replace it by ``copy``.

    Such a copy was read before the session ended or was saved again, and comes too late. This is
    for caches that cannot run a script on the server to decide it.
    """
    if stored.state is State.LIVE:
        return stored.version > copy.version
    return stored.expires > now
