"""A breaker: while a server does not answer, one call waits for it, and the others fail at once.

Without it, a server that hangs costs each request a timeout. The threads of a site would all wait,
and pages that have nothing to do with sessions would not be served either.
"""

from __future__ import annotations

from typing import Final

from ..conf import NAME, settings
from ..core import clock
from ..exceptions import StorageUnavailable
from .outage_log import OutageLog

SLOW: Final = 0.1
"""Seconds from which on a failure has kept a request waiting. A server that refuses connections
fails at once, and is asked each time."""


class Breaker:
    """What a process knows of a server that may hang.

    Call `begin` before each call of the server, and `answered` or `failed` after it. A slow failure
    opens the breaker, unless the server has answered another call meanwhile: if it has, it waits
    for something else, such as a row that is locked. While the breaker is open, `begin` lets one
    call pass, to try the server. If that fails as well, the next one follows ``STORE_RETRY``
    seconds later. Calls that may not pass are counted in ``log``.
    """

    # No lock, which a fork could leave locked: if two calls meet, both of them try the server.
    __slots__ = ("_answered_at", "_error", "_is_open", "_next_at", "_opened_at", "log")

    def __init__(self, log: OutageLog) -> None:
        self.log = log
        self._is_open = False
        self._answered_at = 0.0
        self._opened_at = 0.0
        self._next_at = 0.0
        """When the next call may try the server."""
        self._error = ""

    @property
    def is_open(self) -> bool:
        """Whether the server has failed to answer."""
        return self._is_open

    def begin(self, *, may_wait: bool = False) -> float:
        """Return the time, for `failed`. Raises `StorageUnavailable` while the breaker is open.

        ``may_wait`` means that the call may wait for a lock, however well the server is. Then
        others can try the server as well.
        """
        now = clock.monotonic()
        if self._is_open:
            self._try(now, may_wait)
        return now

    def _try(self, now: float, may_wait: bool) -> None:
        if now >= self._next_at:
            if not may_wait:
                # If this one never returns, because its task was cancelled, another one follows.
                self._next_at = now + settings.STORE_RETRY
            return
        refusal = StorageUnavailable(
            f"{self._error} An earlier request has waited in vain, so this one did not wait. The "
            f"server is tried again within {settings.STORE_RETRY:g} s, see {NAME}['STORE_RETRY']."
        )
        self.log.failed(refusal)
        raise refusal

    def answered(self) -> None:
        """Note that the server has answered, if only with an error."""
        self._answered_at = clock.monotonic()
        self._is_open = False

    def failed(self, began: float, error: object) -> None:
        """Note that a call has failed which began then, with an error whose text ends in a dot."""
        now = clock.monotonic()
        if now - began < SLOW or not settings.STORE_RETRY:
            self._is_open = False
        elif self._answered_at < began and not self._is_open:
            # The next call tries at once: this one may have waited for something else.
            self._next_at = self._opened_at = now
            self._error, self._is_open = str(error), True
        elif self._is_open and began >= self._opened_at:
            self._next_at = now + settings.STORE_RETRY
