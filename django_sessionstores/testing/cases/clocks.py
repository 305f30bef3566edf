"""The end of a lifetime: the clock is moved there, or the command waits for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from unittest import mock

from django.conf import settings
from django.test import override_settings
from django.utils import timezone

if TYPE_CHECKING:
    from .backend import Backend

_MARGIN: Final = 60
_SHORT_LIFETIME: Final = 2
_WAIT: Final = 3.5
"""The seconds for which the command waits: some stores only know whole seconds."""


@contextmanager
def moved_clock(seconds: float) -> Iterator[None]:
    """Let this process believe that it is so many seconds later."""
    now, seconds_now, nanoseconds_now = timezone.now, time.time, time.time_ns

    def moved_now() -> datetime:
        return now() + timedelta(seconds=seconds)

    def moved_seconds() -> float:
        return seconds_now() + seconds

    def moved_nanoseconds() -> int:
        return nanoseconds_now() + int(seconds * 1e9)

    with (
        mock.patch.object(timezone, "now", moved_now),
        mock.patch.object(time, "time", moved_seconds),
        mock.patch.object(time, "time_ns", moved_nanoseconds),
    ):
        yield


@dataclass(frozen=True)
class Lifetime:
    """A lifetime whose end can be reached."""

    seconds: int
    is_waited_for: bool

    @contextmanager
    def nearly_over(self) -> Iterator[None]:
        """Go to a moment before the end. If the command has to wait, that is now."""
        with moved_clock(0 if self.is_waited_for else self.seconds - _MARGIN):
            yield

    @contextmanager
    def over(self) -> Iterator[None]:
        """Go to a moment after the end."""
        if self.is_waited_for:
            time.sleep(_WAIT)
        with moved_clock(0 if self.is_waited_for else self.seconds + _MARGIN):
            yield


@contextmanager
def default_lifetime(backend: Backend) -> Iterator[Lifetime]:
    """Yield the lifetime of sessions that have none of their own, ``SESSION_COOKIE_AGE``."""
    if backend.has_movable_clock:
        yield Lifetime(settings.SESSION_COOKIE_AGE, is_waited_for=False)
    else:
        with override_settings(SESSION_COOKIE_AGE=_SHORT_LIFETIME):
            yield Lifetime(_SHORT_LIFETIME, is_waited_for=True)


def own_lifetime(backend: Backend) -> Lifetime:
    """Return a lifetime for ``set_expiry()``, which is not the default one."""
    if backend.has_movable_clock:
        return Lifetime(3600, is_waited_for=False)
    return Lifetime(_SHORT_LIFETIME, is_waited_for=True)
