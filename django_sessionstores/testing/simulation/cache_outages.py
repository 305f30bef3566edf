"""The outages of the cache of ``cached_db``, and which processes may not know of them.

A process that has met an outage, or has begun after it, uses no copy that may have missed a write
of another process. A process that was idle during the outage, or could reach the cache meanwhile,
may read for a lease what was there before, and save it again (1, 7).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from .history import FOREVER

RETRY: Final = 5
"""For how many seconds a process leaves the cache alone after an error."""
LEASE: Final = 60
"""For how many seconds a copy counts."""
_WINDOW_AT: Final = (RETRY + LEASE) * 1000


class CacheOutages:
    """The outages so far, of the whole cache or of the way of some processes to it."""

    def __init__(self) -> None:
        self.were_any = False
        """Whether the cache has failed to answer at any time."""
        self.have_misled = False
        """Whether a request may have read what was there before, in a process that did not know."""
        self._met_by: set[int] = set()
        self._unaware_until: dict[int, int] = {}

    def failed(self, process: int, until: int | None, unaware: Collection[int]) -> None:
        """Note that the cache has not answered a process.

        ``until`` is when the others may have read what was there before, at the latest; ``None``
        if the cache answers none of them, so that they meet the outage as well. ``unaware`` are
        the other processes.
        """
        self.were_any = True
        self._met_by.add(process)
        if until is not None:
            self._mislead(unaware, until)

    def ended(self, now: int, processes: Collection[int]) -> None:
        """Note that all processes can reach the cache again."""
        if self._met_by:
            self._unaware_until.clear()
            unaware = [each for each in processes if each not in self._met_by]
            self._mislead(unaware, now + _WINDOW_AT)
        self._met_by.clear()

    def use(self, process: int, now: int) -> None:
        """Note that a request runs in a process."""
        self.have_misled |= now < self._unaware_until.get(process, 0)

    def _mislead(self, processes: Collection[int], until: int) -> None:
        for each in processes:
            self._unaware_until[each] = max(until, self._unaware_until.get(each, 0))


def end_of_fault(now: int, *, lasts: bool) -> int:
    """Return until when other processes may be misled by a fault of one process at this time."""
    return FOREVER if lasts else now + _WINDOW_AT
