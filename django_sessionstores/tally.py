"""How many sessions begin and end in each hour, which no store of sessions keeps.

Events are counted in the process and added to a table after a request, so that no request waits for
it. What a process has counted since is lost if it is killed.
"""

from __future__ import annotations

import atexit
import logging
import os
import time
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, Final

import msgspec
from django.core.signals import request_finished
from django.db import Error, IntegrityError, close_old_connections, router, transaction
from django.db.models import F
from django.dispatch import Signal

from . import session, signals
from .conf import settings
from .models import SessionTally

logger: Final = logging.getLogger("django_sessionstores")

INTERVAL: Final = 10.0
"""Seconds for which a process collects counts before it adds them to the table."""
KEPT: Final = timedelta(days=31)
"""How long an hour stays in the table."""
CREATED: Final = ""
"""In place of a reason: what was counted are sessions that began."""
_MOST_WAITING: Final = 1000
"""Numbers that wait for a database that is away: those of a month, with few reasons."""
_HOUR: Final = 3_600_000

Numbers = Counter[tuple[int, str]]
"""By hour since the epoch, and by reason."""


class Tally:
    """The counts of this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: Numbers = Counter()
        self._next = 0.0
        self._cleared = 0
        self._is_failing = False

    def note(self, signal: Signal, _sender: type[Any], facts: Mapping[str, Any]) -> None:
        """Count an event, see `signals`. Waits for nothing."""
        if signal is signals.session_created:
            reason = CREATED
        elif signal is signals.session_ended:
            reason = str(facts["reason"])[: SessionTally.REASON_LENGTH]
        else:
            return
        if not settings.TALLY:
            return
        with self._lock:
            self._waiting[session.now() // _HOUR, reason] += 1

    def flush(self, *, at_once: bool = False) -> None:
        """Add the counts to the table, unless that was just done."""
        with self._lock:
            if not self._waiting or not (at_once or time.monotonic() >= self._next):
                return
            self._next = time.monotonic() + INTERVAL
            taken, self._waiting = self._waiting, Counter()
        try:
            self._store(taken)
        except Error as error:
            self._take_back(taken)
            if not self._is_failing:
                logger.warning("Sessions are counted, but not stored for now: %s", error)
            self._is_failing = True
        else:
            self._is_failing = False
        finally:
            # Django has done so at the end of the request, before this.
            close_old_connections()

    def forget(self) -> None:
        """Begin anew, in a process that was forked: what the parent has counted is the parent's."""
        self.__init__()  # type: ignore[misc]

    def _store(self, numbers: Numbers) -> None:
        using = router.db_for_write(SessionTally)
        rows = SessionTally._base_manager.using(using)
        hour = session.now() // _HOUR
        # All or nothing, and in one order, so that two processes do not wait for each other.
        with transaction.atomic(using):
            for (of, reason), number in sorted(numbers.items()):
                row = rows.filter(hour=of, reason=reason)
                if row.update(number=F("number") + number):
                    continue
                try:
                    with transaction.atomic(using):
                        rows.create(hour=of, reason=reason, number=number)
                except IntegrityError:  # Another process was first.
                    row.update(number=F("number") + number)
            if self._cleared < hour:
                rows.filter(hour__lt=hour - KEPT // timedelta(hours=1)).delete()
        self._cleared = hour

    def _take_back(self, numbers: Numbers) -> None:
        with self._lock:
            self._waiting.update(numbers)
            while len(self._waiting) > _MOST_WAITING:
                del self._waiting[min(self._waiting)]


tally: Final = Tally()


def connect() -> None:
    """Count from now on, where ``TALLY`` says so. Called once, when the site starts."""
    signals.observers.append(tally.note)
    request_finished.connect(_flush, dispatch_uid="django_sessionstores.tally")
    atexit.register(tally.flush, at_once=True)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=tally.forget)


def _flush(**kwargs: Any) -> None:
    tally.flush()


class Sums(msgspec.Struct, frozen=True):
    """How many sessions began in a time, and how many ended for which reason."""

    created: int
    ended: dict[str, int]


def sums(since: datetime) -> Sums:
    """Of the hours from then on, the most frequent reason first. Raises ``django.db.Error``."""
    numbers: Counter[str] = Counter()
    for (_hour, reason), number in history(since).items():
        numbers[reason] += number
    created = numbers.pop(CREATED, 0)
    return Sums(created, dict(numbers.most_common()))


def history(since: datetime) -> Mapping[tuple[datetime, str], int]:
    """What is in the table of the hours from then on. Raises ``django.db.Error``."""
    first = int(since.timestamp() * 1000) // _HOUR
    rows = SessionTally._base_manager.using(router.db_for_read(SessionTally))
    found = rows.filter(hour__gte=first).values_list("hour", "reason", "number")
    return {
        (datetime.fromtimestamp(hour * 3600, UTC), reason): number for hour, reason, number in found
    }
