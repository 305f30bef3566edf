"""A breaker: while a server does not answer, one call waits for it, and the others fail at once.

Without it, a server that hangs costs each request a timeout. The threads of a site would all wait,
and pages that have nothing to do with sessions would not be served either.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from ..conf import NAME, settings
from ..core import clock
from ..exceptions import StorageUnavailable
from .outage_log import OutageLog

SLOW: Final = 0.1
"""Seconds from which on a failure has kept a request waiting. A server that refuses connections
fails at once, and is asked each time."""

PATIENCE: Final = 60.0
"""Seconds after which a call that tries a server may be lost: its client has no timeout, or its
thread has died. Another call tries then."""


class _Attempts:
    """The calls that try a server while its breaker is open, one at a time.

    While one of them does not end, another one follows after `PATIENCE`, a third one after twice
    that time, and so on. So a client without a timeout costs few threads, and the server is tried
    again nevertheless.
    """

    __slots__ = ("_next_at", "_process", "_under_way")

    def __init__(self) -> None:
        self.allow(0.0)

    def allow(self, now: float) -> None:
        """Let a call try at once, whatever happened before."""
        self._next_at = now
        """When the next call may try the server."""
        self._under_way: list[float] = []
        """When each of the calls began that have not ended."""
        self._process = os.getpid()

    def is_due(self, now: float) -> bool:
        """Return whether a call may try the server now."""
        if not settings.STORE_RETRY:
            return True
        if self._process != os.getpid():
            # The threads that tried it are those of the parent.
            self.allow(now)
        return now >= self._next_at

    def begin(self, now: float) -> None:
        """Note that a call tries the server."""
        seconds = max(PATIENCE, settings.STORE_RETRY) * 2 ** len(self._under_way)
        self._next_at = now + seconds
        self._under_way.append(now)

    def end(self, began: float) -> None:
        """Note that a call has ended which began then, if it has tried the server."""
        try:
            self._under_way.remove(began)
        except ValueError:
            return
        self._next_at = clock.monotonic() + settings.STORE_RETRY


class Breaker:
    """What a process knows of a server that may hang.

    Call `begin` before each call of the server, and `answered`, `failed` or `ended` after it,
    however it ends. A slow failure opens the breaker, unless the server has answered another call
    meanwhile: if it has, it waits for something else, such as a row that is locked. While the
    breaker is open, `begin` lets one call pass, to try the server. If that fails as well, the next
    one follows ``STORE_RETRY`` seconds after its end. Calls that may not pass are counted in
    ``log``.
    """

    # No lock, which a fork could leave locked: if two calls meet, both of them try the server.
    __slots__ = ("_answered_at", "_attempts", "_error", "_is_open", "log")

    def __init__(self, log: OutageLog) -> None:
        self.log = log
        self._is_open = False
        self._answered_at = 0.0
        self._attempts = (_Attempts(), _Attempts())
        """Those that wait for nothing but the server, and those that may wait for a lock."""
        self._error = ""

    @property
    def is_open(self) -> bool:
        """Whether the server has failed to answer."""
        return self._is_open

    def begin(self, *, may_wait: bool = False) -> float:
        """Return the time, for `failed`. Raises `StorageUnavailable` while the breaker is open.

        ``may_wait`` means that the call may wait for a lock, however well the server is. Meanwhile
        a call that does not can try the server as well.
        """
        now = clock.monotonic()
        if self._is_open:
            self.check(may_wait=may_wait)
            self._attempts[may_wait].begin(now)
        return now

    def check(self, *, may_wait: bool = False) -> None:
        """Raise `StorageUnavailable` if a call that began now would not try the server."""
        if not self._is_open or self._attempts[may_wait].is_due(clock.monotonic()):
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
        self.log.forget_start()

    def failed(self, began: float, error: object) -> None:
        """Note that a call has failed which began then, with an error whose text ends in a dot."""
        self.log.note_start(began)
        now = clock.monotonic()
        if now - began < SLOW or not settings.STORE_RETRY:
            self._is_open = False
        elif self._answered_at < began and not self._is_open:
            # The next call tries at once: this one may have waited for something else.
            for attempts in self._attempts:
                attempts.allow(now)
            self._error, self._is_open = str(error), True
        else:
            self.ended(began)

    def ended(self, began: float) -> None:
        """Note that a call has ended which began then, and which may say nothing of the server.

        It may have been cancelled, or may have waited for a lock or for a connection of a pool.
        """
        for attempts in self._attempts:
            attempts.end(began)


class JointBreaker(Breaker):
    """The breakers of several nodes, for one call of all of them."""

    __slots__ = ("_began", "_breakers")

    def __init__(self, breakers: Sequence[Breaker], log: OutageLog) -> None:
        super().__init__(log)
        self._breakers = breakers

    def begin(self, *, may_wait: bool = False) -> float:
        """See `Breaker.begin`. Each node that does not answer must be due."""
        for each in self._breakers:
            each.check(may_wait=may_wait)
        self._began = [each.begin(may_wait=may_wait) for each in self._breakers]
        return self._began[0]

    def answered(self) -> None:
        """Note that all nodes have answered."""
        for each in self._breakers:
            each.answered()

    def failed(self, began: float, error: object) -> None:
        """Note that the call has failed. The error does not say which of the nodes has."""
        self.ended(began)

    def ended(self, began: float) -> None:
        """See `Breaker.ended`."""
        for each, moment in zip(self._breakers, self._began, strict=True):
            each.ended(moment)
