"""Waiting for a connection of a pool that has fewer than there are threads.

The pools of redis-py and pymemcache raise an error at once if all connections are in use. A command
takes a fraction of a millisecond, so the next connection is free before a user would notice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Final

_FIRST_PAUSE: Final = 0.0005
_LONGEST_PAUSE: Final = 0.02


def pauses(seconds: float) -> Iterator[None]:
    """Yield after each of several pauses, which together take ``seconds``."""
    left, pause = seconds, _FIRST_PAUSE
    while left > 0:
        # Of different lengths, so that threads that begin to wait together do not try together.
        length = min(left, pause * random.uniform(0.5, 1))  # noqa: S311
        time.sleep(length)
        left -= length
        pause = min(2 * pause, _LONGEST_PAUSE)
        yield
