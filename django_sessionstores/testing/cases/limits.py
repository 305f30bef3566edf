"""What stops a backend that does not end, or that ends the process."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

TIME_LIMIT: Final = 30
"""The seconds after which a case that has not ended has failed."""


class TimeOver(BaseException):
    """Something takes too long. Backends that catch each ``Exception`` must not catch this."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Stop what does not end, such as a backend that draws new keys for ever.

    Only the main thread can be stopped, and not on Windows.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield
        return

    def stop(*_: object) -> None:
        raise TimeOver

    before = signal.signal(signal.SIGALRM, stop)
    # Again and again, because a backend may catch it once.
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def errors_ignored() -> Iterator[None]:
    """Ignore each error of a backend, also one that would end the process."""
    try:
        yield
    except (KeyboardInterrupt, TimeOver):
        raise
    except BaseException:  # noqa: BLE001, S110 - whatever a backend raises
        pass
