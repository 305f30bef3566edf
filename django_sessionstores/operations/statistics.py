"""Count the sessions that are created and ended in each hour, which no session store records.

Each process counts the events and adds them to a table after a request, so that no request waits
for the table. A process that is killed loses what it has not added yet.
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
from django.conf import settings as django_settings
from django.core.signals import request_finished
from django.db import Error, IntegrityError, close_old_connections, router, transaction
from django.db.models import F
from django.dispatch import Signal

from .. import conf, signals
from ..conf import settings
from ..core import clock
from ..models import SessionStatistics

logger: Final = logging.getLogger("django_sessionstores")

INTERVAL: Final = 10.0
"""Seconds for which a process collects counts before it adds them to the table."""
KEPT: Final = timedelta(days=31)
"""How long the counts of an hour stay in the table."""
CREATED: Final = ""
"""Stands for a reason in counts of created sessions."""
_MAX_WAITING: Final = 1000
"""How many counts a process keeps while the database is unreachable: about a month of them."""
_HOUR: Final = 3_600_000
"""Milliseconds of an hour."""

Numbers = Counter[tuple[int, str, str, int]]
"""Counts by hour since the epoch, reason, database of the table and mark of the site.

The last two may depend on the tenant of the request.
"""


class Statistics:
    """The counts of this process."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: Numbers = Counter()
        self._next = 0.0
        self._cleared: dict[str, int] = {}
        self._is_failing = False

    def note(self, signal: Signal, sender: type[Any], facts: Mapping[str, Any]) -> None:
        """Count an event, see `signals`. This never waits for the database."""
        if signal is signals.session_created:
            reason = CREATED
        elif signal is signals.session_ended:
            reason = str(facts["reason"])[: SessionStatistics.REASON_LENGTH]
        else:
            return
        if not settings.STATISTICS:
            return
        using = router.db_for_write(SessionStatistics)
        with self._lock:
            self._waiting[clock.now() // _HOUR, reason, using, _sites(using, sender)[0]] += 1

    def flush(self, *, at_once: bool = False) -> None:
        """Add the counts to the table, but only once in `INTERVAL` unless ``at_once``."""
        with self._lock:
            if not self._waiting or not (at_once or time.monotonic() >= self._next):
                return
            self._next = time.monotonic() + INTERVAL
            taken, self._waiting = self._waiting, Counter()
        try:
            for using in sorted({using for _hour, _reason, using, _site in taken}):
                numbers = Counter({each: n for each, n in taken.items() if each[2] == using})
                try:
                    self._store(using, numbers)
                except Error as error:
                    self._take_back(numbers)
                    if not self._is_failing:
                        logger.warning("Sessions are counted, but not stored for now: %s", error)
                    self._is_failing = True
                else:
                    self._is_failing = False
        finally:
            # Django has closed its connections before this runs, at the end of the request.
            close_old_connections()

    def forget(self) -> None:
        """Discard the counts in a forked process, because the parent adds them to the table."""
        self.__init__()  # type: ignore[misc]

    def _store(self, using: str, numbers: Numbers) -> None:
        rows = SessionStatistics._base_manager.using(using)
        hour = clock.now() // _HOUR
        # In one transaction, and in a fixed order, so that two processes cannot deadlock.
        with transaction.atomic(using):
            for (of, reason, _using, site), number in sorted(numbers.items()):
                row = rows.filter(hour=of, reason=reason, site=site)
                if row.update(number=F("number") + number):
                    continue
                try:
                    with transaction.atomic(using):
                        rows.create(hour=of, reason=reason, site=site, number=number)
                except IntegrityError:  # Another process created it.
                    row.update(number=F("number") + number)
            if self._cleared.get(using, 0) < hour:
                rows.filter(hour__lt=hour - KEPT // timedelta(hours=1)).delete()
        self._cleared[using] = hour

    def _take_back(self, numbers: Numbers) -> None:
        with self._lock:
            self._waiting.update(numbers)
            while len(self._waiting) > _MAX_WAITING:
                del self._waiting[min(self._waiting)]


statistics: Final = Statistics()


def connect() -> None:
    """Start to count if ``STATISTICS`` is enabled. This is called once, when the site starts."""
    signals.observers.append(statistics.note)
    request_finished.connect(_flush, dispatch_uid="django_sessionstores.operations.statistics")
    atexit.register(statistics.flush, at_once=True)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=statistics.forget)


def _flush(**kwargs: Any) -> None:
    statistics.flush()


class Sums(msgspec.Struct, frozen=True):
    """How many sessions were created in a period, and how many ended for each reason."""

    created: int
    ended: dict[str, int]


def sums(since: datetime) -> Sums:
    """Return the sums of the hours since a moment, the most frequent reason first.

    Raises ``django.db.Error``.
    """
    numbers: Counter[str] = Counter()
    for (_hour, reason), number in history(since).items():
        numbers[reason] += number
    created = numbers.pop(CREATED, 0)
    return Sums(created, dict(numbers.most_common()))


def history(since: datetime) -> Mapping[tuple[datetime, str], int]:
    """Return the counts of the hours since a moment. Raises ``django.db.Error``."""
    first = int(since.timestamp() * 1000) // _HOUR
    # The marks are those of the database that is written, of which this one may be a replica.
    sites = _sites(router.db_for_write(SessionStatistics))
    using = router.db_for_read(SessionStatistics)
    rows = SessionStatistics._base_manager.using(using).filter(hour__gte=first)
    found = rows.filter(site__in=(0, *sites)).values_list("hour", "reason", "number")
    numbers: Counter[tuple[datetime, str]] = Counter()
    for hour, reason, number in found:
        numbers[datetime.fromtimestamp(hour * 3600, UTC), reason] += number
    return numbers


def _sites(using: str, engine: Any = None) -> tuple[int, ...]:
    """Return the marks of this site's counts in a database, as `Storage.sites` does of sessions.

    ``engine`` is the session store; ``None`` for the one in use.
    """
    engine = engine or conf.session_store(django_settings.SESSION_ENGINE)
    namespace = engine.storage().namespace() if hasattr(engine, "storage") else ""
    return conf.sites(conf.tenant(using), namespace)
