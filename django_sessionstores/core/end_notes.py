"""Why a session has ended: a note in the tombstone under its id, for the browser that had it."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from .records import ID_SIZE, Record, State, make_tombstone

CAUSES: Final = frozenset(
    {"user", "staff", "revoked", "password", "deactivated", "deleted", "evicted", "expired"}
)
"""What a note can say. The first two tell who has ended the session through the inventory."""
assert all(len(cause) < ID_SIZE for cause in CAUSES)  # noqa: S101 - the place of a tombstone.


class EndNote(NamedTuple):
    """Why and when a session has ended."""

    cause: str
    """One of `CAUSES`."""
    moment: int
    """In milliseconds since the epoch."""


def make_note(of: Record, cause: str, *, now: int, seconds: float) -> Record:
    """Return a tombstone that says for ``seconds`` why a session has ended.

    It has neither the user nor anything else of the session.
    """
    tombstone = make_tombstone(of.id, State.ENDED, now=now, seconds=seconds, of=of)
    return msgspec.structs.replace(tombstone, payload=_packed(cause), user_id=None, created=now)


def note_in(tombstone: Record) -> EndNote | None:
    """Return the note in the tombstone of an ended session; ``None`` if it has none."""
    cause = tombstone.payload.rstrip(b"\0").decode("ascii", "replace")
    return EndNote(cause, tombstone.last_activity) if cause in CAUSES else None


def _packed(cause: str) -> bytes:
    """Return a cause as long as the id of a successor, whose place it takes."""
    return cause.encode().ljust(ID_SIZE, b"\0")
