"""The interface of a previous backend, as `MigratingStorage` and the command use it."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async

from ...core.records import Record, draw_key
from ...exceptions import UnreadablePayload
from ...payloads.codec import Snapshot


class PreviousSession(NamedTuple):
    """A session as a previous backend stores it."""

    record: Record
    """The times, user and client of the session."""
    snapshot: Snapshot | None
    """The data; ``None`` if it is the record's payload, encrypted for the record's id."""
    seen: Any = None
    """The value by which the source knows whether the session has changed since."""

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<Found {self.record!r}>"


class Entry(NamedTuple):
    """A session in the list of all sessions of a previous backend."""

    locator: str
    """The string by which `Source.find_at` finds the session."""
    id: str
    """The session id that the session has in a backend of this package."""
    found: PreviousSession | UnreadablePayload | None


class ForeignSession(UnreadablePayload):
    """A session of a previous backend may belong to another site that shares the store.

    It has the mark of that site, or is signed with another ``SECRET_KEY`` or was altered.
    """


class Claim(Enum):
    """What became of a session that was to be removed if it had not changed."""

    REMOVED = "removed"
    CHANGED = "changed"
    """The session is still there, but another request has saved it meanwhile."""
    GONE = "gone"


class Source:
    """A previous backend. Every method raises `StorageUnavailable` if the store does not answer."""

    in_key: bool = False
    """Whether its sessions are in their keys, so that they cannot be removed."""
    lists: bool = True
    """Whether `scan` works."""

    def describe(self) -> str:
        """Return the name of the store, for people."""
        raise NotImplementedError

    def find(self, key: str) -> PreviousSession | None:
        """Return the session with this key, a tombstone, or ``None``. It may have expired.

        Raises `UnreadablePayload`, and `ForeignSession` if the session may be of another site.
        """
        raise NotImplementedError

    def remove(self, key: str) -> None:
        """Remove the session with this key. Does nothing if the source is `in_key`."""
        raise NotImplementedError

    def nodes(self) -> dict[str, str]:
        """Return a key that no session has for each node; for one server, its name is empty."""
        return {"": draw_key()}

    def try_to_remove(self, unused: str) -> None:
        """Raise `StorageUnavailable` if a session on the node of an unused key cannot be removed.

        Changes nothing.
        """
        self.remove(unused)

    def lookup(self, record_id: str) -> Record | None:
        """Return the record with this id, perhaps without its data, if the backend knows ids.

        Raises what `find` raises.
        """
        return None

    def remove_id(self, record_id: str) -> None:
        """Remove a session by its id. Does nothing if the backend does not know ids."""

    def find_at(self, locator: str) -> PreviousSession | None:
        """Return the session of an `Entry`, read again."""
        return self.find(locator)

    def remove_at(self, locator: str) -> None:
        """Remove the session of an `Entry`."""
        self.remove(locator)

    def scan(self, cursor: str, limit: int) -> tuple[list[Entry], str]:
        """Return up to ``limit`` sessions after a cursor, and the next cursor, empty at the end."""
        raise NotImplementedError

    def count(self) -> int:
        """Return the approximate number of sessions, including expired ones, for a progress bar."""
        raise NotImplementedError

    def claim(self, locator: str, found: PreviousSession) -> Claim:
        """Remove the session of an `Entry` if it has not changed since it was found."""
        raise NotImplementedError

    async def afind(self, key: str) -> PreviousSession | None:
        """See `find`."""
        return await sync_to_async(self.find)(key)

    async def aremove(self, key: str) -> None:
        """See `remove`."""
        await sync_to_async(self.remove)(key)

    async def alookup(self, record_id: str) -> Record | None:
        """See `lookup`."""
        return None

    async def aremove_id(self, record_id: str) -> None:
        """See `remove_id`."""

    def close(self) -> None:
        """Close the source's own connections."""
