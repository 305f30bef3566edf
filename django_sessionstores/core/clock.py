"""The clock of sessions, which tests and the simulation may replace.

It decides when sessions begin and expire. Code that only waits, as for a lock, uses `time` itself.

Call `now` and `monotonic` through the module, and never import them by name: a replaced clock must
reach every caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_now: Callable[[], int] | None = None
_monotonic: Callable[[], float] = time.monotonic


def now() -> int:
    """Return the milliseconds since the epoch. This clock decides which sessions have expired."""
    return time.time_ns() // 1_000_000 if _now is None else _now()


def monotonic() -> float:
    """Return the seconds of a clock that cannot be set, for leases, retries and deadlines."""
    return _monotonic()


@contextmanager
def use(
    now: Callable[[], int] | None = None, monotonic: Callable[[], float] | None = None
) -> Iterator[None]:
    """Replace the clocks of the whole process for as long as the context lasts.

    ``now`` returns milliseconds since the epoch, ``monotonic`` returns seconds.
    """
    global _now, _monotonic
    before = _now, _monotonic
    _now, _monotonic = now or _now, monotonic or _monotonic
    try:
        yield
    finally:
        _now, _monotonic = before


@contextmanager
def freeze(moment: int) -> Iterator[None]:
    """Make `now` return ``moment`` for as long as the context lasts."""
    with use(now=lambda: moment):
        yield
