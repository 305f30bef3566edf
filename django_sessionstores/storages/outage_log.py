"""The log of outages: a line when a store begins to fail, one a minute, and one when it is over.

While a store fails, so does each request that needs it. A line for each of them would hide all
others, and fill a disk.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from threading import Lock
from typing import Any, Final

from ..core import clock
from ..exceptions import StorageUnavailable

logger: Final = logging.getLogger("django_sessionstores")

INTERVAL: Final = 60.0
"""Seconds between two lines of an outage that goes on."""
MOST_CHANGES: Final = 3
"""How many more lines `INTERVAL` may have because another reason has come up."""
QUIET: Final = 10.0
"""Seconds without a failure after which an outage is over. During a failover, some calls succeed
before others fail for another reason."""

_Line = tuple[int, str, tuple[Any, ...]]
"""The level, the text and its arguments."""


_lock = Lock()
"""The lock of all logs of this process. It is held to count, and never to write a line."""


def _renew_lock() -> None:
    global _lock
    _lock = Lock()


# A forked process gets a lock of its own, because a thread that it does not have may hold the one
# of its parent. So the lock also tells whether an outage began in this process.
if hasattr(os, "register_at_fork"):  # Not on Windows, where nothing forks.
    os.register_at_fork(after_in_child=_renew_lock)


@dataclass(slots=True)
class _Outage:
    """An outage that is not over. Moments are of the monotonic clock."""

    lock: Lock
    began_at: float
    """When the first call that failed began: visitors have waited since."""
    first_line_at: float
    failed_at: float
    """When the last call failed."""
    written_at: float
    calls: int
    calls_at_line: int
    """How many of ``calls`` had failed when the last line was written."""
    reasons: set[str]
    """The reasons that lines have named."""
    operations: set[object]
    """Those that have failed. ``None`` stands for all."""


class OutageLog:
    """What one process logs about the outages of a store, or of one of its nodes.

    Call `failed` with each exception that the store has caused, and, while the log `is_open`,
    `succeeded` after each call that has succeeded. ``name`` returns the name of the store for the
    lines. No thread or timer writes them: a store that nobody asks is not mentioned.

    The first line is an error, because users notice. The others are warnings, and so is the last
    one: a project that has not configured logging sees no lines below that level, and would not
    learn that the outage is over.
    """

    __slots__ = ("_changes", "_name", "_outage", "_started_at", "is_open")

    def __init__(self, name: Callable[[], str]) -> None:
        self._name = name
        self._outage: _Outage | None = None
        self._started_at = inf
        # When lines were written because of another reason.
        self._changes = deque[float](maxlen=MOST_CHANGES)
        self.is_open = False
        """Whether an outage is not over."""

    def failed(self, error: StorageUnavailable, operation: object = None, reason: str = "") -> None:
        """Count a call that has failed. An error that was counted before is ignored.

        ``operation`` is what the store has refused, if it answers other calls, such as the
        statement that a full disk does not allow. Only an operation that was refused shows then
        that the outage is over.

        ``reason`` is the part of the message that is the same for all such errors, if the whole
        message is not.
        """
        if error.was_logged:
            return
        error.was_logged = True
        with _lock:
            line = self._count(error, operation, reason or str(error))
        self._write(line)

    def note_start(self, moment: float) -> None:
        """Note when a call began that is about to be counted by `failed`.

        Until a call is answered, the first one counts: the outage has lasted since.
        """
        self._started_at = min(self._started_at, moment)

    def forget_start(self) -> None:
        """Note that a call was answered."""
        self._started_at = inf

    def succeeded(self, operation: object = None) -> None:
        """End the outage, if the success of ``operation`` shows that it is over."""
        with _lock:
            line = self._end(operation)
        self._write(line)

    def _count(self, error: StorageUnavailable, operation: object, reason: str) -> _Line | None:
        now, outage = clock.monotonic(), self._current()
        if outage is None:
            began = min(now, self._started_at)
            self._outage = _Outage(_lock, began, now, now, now, 1, 1, {reason}, {operation})
            self.is_open = True
            return logging.ERROR, "Session store outage begins: %s", (error,)
        outage.calls += 1
        outage.failed_at = now
        outage.began_at = min(outage.began_at, self._started_at)
        outage.operations.add(operation)
        # A breaker adds to the reason for which it is open.
        is_new = not reason.startswith(tuple(outage.reasons))
        if now - outage.written_at < INTERVAL:
            if not is_new or _is_often(self._changes, now):
                return None
            self._changes.append(now)
        outage.reasons.add(reason)
        new, seconds = outage.calls - outage.calls_at_line, now - outage.written_at
        text = "Session store outage continues: %s. Calls failed: %d in the %.1f s since it began"
        arguments: tuple[Any, ...] = str(error).rstrip("."), outage.calls, now - outage.began_at
        # After the first line, both counts are about the same seconds.
        if outage.written_at > outage.first_line_at and seconds >= 1:
            text, arguments = f"{text}, %d in the last %.1f s", (*arguments, new, seconds)
        outage.written_at, outage.calls_at_line = now, outage.calls
        return logging.WARNING, text, arguments

    def _end(self, operation: object) -> _Line | None:
        now, outage = clock.monotonic(), self._current()
        if outage is None:
            return None
        is_proof = not outage.operations.isdisjoint({None, operation})
        if now - outage.failed_at < (QUIET if is_proof else INTERVAL):
            return None
        self._outage, self.is_open = None, False
        self.forget_start()
        text = (
            "Session store outage is over: %s. It began %.1f s ago, the last call failed %.1f s "
            "ago. Calls failed: %d"
        )
        since = now - outage.began_at, now - outage.failed_at
        return logging.WARNING, text, (self._name(), *since, outage.calls)

    def _current(self) -> _Outage | None:
        """Return the outage, unless it is of the process that this one was forked from."""
        if self._outage is not None and self._outage.lock is not _lock:
            self._outage, self.is_open = None, False
            self.forget_start()
            self._changes.clear()
        return self._outage

    @staticmethod
    def _write(line: _Line | None) -> None:
        if line is not None:
            level, text, arguments = line
            logger.log(level, text, *arguments)


def _is_often(moments: deque[float], now: float) -> bool:
    """Return whether as many moments as are kept are in the last `INTERVAL`."""
    return len(moments) == moments.maxlen and now - moments[0] < INTERVAL
