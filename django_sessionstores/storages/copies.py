"""What caches without a script of their own decide here: whether they take a copy."""

from __future__ import annotations

from ..records import Record, State


def is_refused(copy: Record, stored: Record, now: int) -> bool:
    """Whether a cache that has ``stored`` must not take ``copy`` in its place.

    It was read before the session ended, or before it was saved again, and comes too late.
    """
    if stored.state is State.LIVE:
        return stored.version > copy.version
    return stored.expires > now
