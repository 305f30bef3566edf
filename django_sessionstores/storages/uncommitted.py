"""The sessions that were written by transactions which are still open."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Final

_FEWEST: Final = 16


class UncommittedWrites:
    """The ids of sessions whose writes are neither committed nor rolled back yet.

    It has those of all transactions of the process. Ids whose transactions have ended are removed
    when they are looked up, and when there are more than twice as many ids as after the last
    removal.
    """

    def __init__(self) -> None:
        # For each id, the function of each write that tells whether it has committed, see
        # `Storage.after_commit`.
        self._writes: dict[str, list[Callable[[], bool | None]]] = {}
        self._limit = _FEWEST
        self._lock = Lock()

    def add(self, session_id: str, has_committed: Callable[[], bool | None]) -> None:
        """Add a write, and the function that tells whether it has committed."""
        with self._lock:
            writes = self._writes[session_id] = self._open_writes(session_id)
            writes.append(has_committed)
            if len(self._writes) > self._limit:
                self._writes = {
                    each: is_open for each in self._writes if (is_open := self._open_writes(each))
                }
                self._limit = max(_FEWEST, 2 * len(self._writes))

    def __contains__(self, session_id: str) -> bool:
        # The common case needs no lock.
        if session_id not in self._writes:
            return False
        with self._lock:
            if is_open := self._open_writes(session_id):
                self._writes[session_id] = is_open
            else:
                self._writes.pop(session_id, None)
        return bool(is_open)

    def _open_writes(self, session_id: str) -> list[Callable[[], bool | None]]:
        writes = self._writes.get(session_id, [])
        # A rollback to a savepoint undoes the last writes. So if the last one is still open, then
        # those before it are, or are of another transaction, and are removed with the last one.
        if writes and writes[-1]() is None:
            return writes
        return [each for each in writes if each() is None]
