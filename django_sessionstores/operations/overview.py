"""Numbers of a site's sessions, for the admin's overview.

An overview takes the same few calls of the store for a million sessions as for ten.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from django.utils.translation import gettext as _

from ..conf import settings
from ..core import clock
from ..devices.names import describe_device
from ..inventory import Inventory, SessionInfo
from . import statistics
from .charts import Columns, Row, columns, rows, spans

SAMPLE: Final = 1000
"""How many sessions are read at most."""
_MAX_DEVICES: Final = 8
"""How many kinds of devices are listed; the rest are summed up."""
_DAYS: Final = 30
"""Days of the long period of a history."""
_ONE: Final = timedelta(hours=1)


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of sessions. All except ``live`` only count the sessions that were read."""

    live: int | None
    """All live sessions; ``None`` if the store would have to read all sessions to count them."""
    sampled: int
    """How many sessions were read."""
    is_complete: bool
    """Whether all sessions were read."""
    sampled_live: int
    logged_in: int
    anonymous: int
    expired: int
    expired_is_complete: bool
    created: Columns
    ends: Columns
    devices: list[Row]
    idle: list[Row]


def overview(inventory: Inventory, now: datetime) -> Overview:
    """Return the numbers of the first `SAMPLE` sessions, relative to ``now``.

    This reads one page of the list. If there are more sessions, it also counts them, and reads
    another page if the storage lists expired sessions last.
    """
    sessions, more = inventory.list(limit=SAMPLE, within=SAMPLE, expired=None)
    live = [each for each in sessions if not each.is_expired]
    total: int | None = len(live)
    if more:
        total = inventory.count() if inventory.storage.indexes_counts else None
    expired, expired_more = len(sessions) - len(live), more
    if more and inventory.storage.first_expired(clock.now()):
        # The order is by expiry, so that the first page has few of them.
        found, expired_more = inventory.list(limit=SAMPLE, within=SAMPLE, expired=True)
        expired = len(found)
    logged_in = sum(each.user_id is not None for each in live)
    return Overview(
        live=total,
        sampled=len(sessions),
        is_complete=not more,
        sampled_live=len(live),
        logged_in=logged_in,
        anonymous=len(live) - logged_in,
        expired=expired,
        expired_is_complete=not expired_more,
        created=columns([each.created for each in sessions], now),
        ends=columns([each.expires for each in sessions], now),
        devices=_devices(live),
        idle=_idle_times(live, now),
    )


class Period(msgspec.Struct, frozen=True):
    """Charts of the sessions that were created and ended in a period, on the same scale."""

    created: Columns
    ended: Columns


class History(msgspec.Struct, frozen=True, kw_only=True):
    """The statistics, up to and including the current hour."""

    day: Period
    month: Period
    reasons: list[Row]
    """How many sessions ended in the month for each reason."""


def history(now: datetime) -> History | None:
    """Return the statistics of the last day and month; ``None`` if ``STATISTICS`` is disabled.

    This takes one query. Raises ``django.db.Error``.
    """
    if not settings.STATISTICS:
        return None
    hour, day = timedelta(hours=1), timedelta(days=1)
    end = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + hour
    numbers = statistics.history(end - _DAYS * day)
    reasons: Counter[str] = Counter()
    for (_moment, reason), number in numbers.items():
        if reason != statistics.CREATED:
            reasons[reason_in_words(reason)] += number
    return History(
        day=_period(numbers, end, hour, day // hour),
        month=_period(numbers, end, day, _DAYS),
        reasons=rows(reasons.most_common()),
    )


def _period(
    numbers: Mapping[tuple[datetime, str], int], end: datetime, step: timedelta, steps: int
) -> Period:
    created, ended = [0] * steps, [0] * steps
    for (moment, reason), number in numbers.items():
        place = steps - 1 - (end - moment - _ONE) // step
        if place >= 0:
            (created if reason == statistics.CREATED else ended)[place] += number
    most, begin = max(*created, *ended), end - steps * step
    return Period(spans(created, begin, step, most=most), spans(ended, begin, step, most=most))


def reason_in_words(reason: str) -> str:
    """Return the translated text of a reason of `signals.session_ended`."""
    return {
        "logout": _("logged out"),
        "expired": _("expired"),
        "revoked": _("ended by the staff or the user"),
        "evicted": _("too many of a user"),
        "replaced": _("another user signed in"),
        "password": _("new password"),
        "deactivated": _("account deactivated"),
        "deleted": _("account deleted"),
    }.get(reason, reason)


def count_of_user(inventory: Inventory, user: Any) -> int | None:
    """Return how many live sessions a user has.

    ``None`` if the store would have to read all sessions to count them.
    """
    if inventory.storage.indexes_users:
        return inventory.count(user=user)
    sessions, more = inventory.list(limit=SAMPLE, within=SAMPLE, user=user)
    return None if more else len(sessions)


def _devices(sessions: Sequence[SessionInfo]) -> list[Row]:
    counts = Counter(describe_device(each.user_agent) for each in sessions)
    most = counts.most_common(_MAX_DEVICES)
    others = counts.total() - sum(number for _device, number in most)
    return rows([*most, (_("Others"), others)] if others else most)


def _idle_times(sessions: Sequence[SessionInfo], now: datetime) -> list[Row]:
    limits = [
        (timedelta(minutes=5), _("under 5 minutes")),
        (timedelta(hours=1), _("under an hour")),
        (timedelta(days=1), _("under a day")),
        (timedelta(days=7), _("under a week")),
        (timedelta.max, _("a week or longer")),
    ]
    counts = Counter(
        next(label for limit, label in limits if now - each.last_activity < limit)
        for each in sessions
    )
    return rows([(label, counts[label]) for _limit, label in limits])
