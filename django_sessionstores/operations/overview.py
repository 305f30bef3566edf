"""Numbers of a site's sessions, for the admin's overview.

An overview takes the same few calls of the store for a million sessions as for ten. A database
counts all sessions unless there are hundreds of thousands. Other stores would have to read each of
them. So a random sample stands for them if there are many.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

import msgspec
from django.utils.translation import gettext as _

from ..conf import settings
from ..core.lifetime import utc_datetime
from ..core.summary import HOUR, Summary
from ..devices.names import country_name, describe_device, device_name, knows_countries
from ..inventory import Inventory
from . import statistics
from .charts import Columns, Row, columns, rows, spans

SAMPLE: Final = 1000
"""How many sessions are read at most, from a store that cannot count them in groups. A database,
which reads them in one statement, may read more."""
_MAX_ROWS: Final = 8
"""How many kinds of devices, and countries, are listed; the rest are summed up."""
_DAYS: Final = 30
"""Days of the long period of a history."""
_ONE: Final = timedelta(hours=1)


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of sessions: of all, or of a random sample. ``live`` never is of a sample."""

    live: int | None
    """All live sessions; ``None`` if the store would have to read all sessions to count them."""
    is_complete: bool
    """Whether all sessions were counted."""
    sampled: int
    """How many sessions were counted."""
    sampled_live: int
    logged_in: int
    anonymous: int
    expired: int
    created: Columns
    ends: Columns
    devices: list[Row]
    countries: list[Row]
    """Empty if no database tells the country of an IP address."""
    idle: list[Row]
    users: int | None
    """The users with live sessions; ``None`` if not all sessions were counted."""
    active_users: list[Row]
    per_user: list[Row]
    """The users by how many sessions they have."""


def overview(inventory: Inventory, now: datetime) -> Overview:
    """Return the numbers of all sessions, relative to ``now``.

    If the store cannot count them in groups and there are more than `SAMPLE`, they are those of a
    random sample. Raises `CannotList`.
    """
    found = inventory.summarize(SAMPLE)
    live: int | None = found.live
    if not found.is_whole:
        live = inventory.count() if inventory.storage.indexes_counts else None
    return Overview(
        live=live,
        is_complete=found.is_whole,
        sampled=found.live + found.expired,
        sampled_live=found.live,
        logged_in=found.logged_in,
        anonymous=found.live - found.logged_in,
        expired=found.expired,
        created=columns(_by_moment(found.created), now),
        ends=columns(_by_moment(found.expires), now),
        devices=_devices(found),
        countries=_countries(found) if knows_countries() else [],
        idle=_idle_times(found),
        users=sum(found.users.values()) if found.is_whole else None,
        active_users=_active_users(found),
        per_user=_per_user(found),
    )


def _by_moment(numbers: Mapping[int, int]) -> dict[datetime, int]:
    """Return numbers by hours (see `core.summary.hour`) as numbers by the middles of the hours."""
    return {utc_datetime(each + HOUR // 2): number for each, number in numbers.items()}


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
        "no proof": _("used without the proof of its device"),
    }.get(reason, reason)


def count_of_user(inventory: Inventory, user: Any) -> int | None:
    """Return how many live sessions a user has.

    ``None`` if the store would have to read all sessions to count them.
    """
    if inventory.storage.indexes_users:
        return inventory.count(user=user)
    sessions, more = inventory.list(limit=SAMPLE, within=SAMPLE, user=user)
    return None if more else len(sessions)


def _devices(found: Summary) -> list[Row]:
    counts, values = Counter[str](), dict[str, str]()
    for user_agent, number in found.user_agents.items():
        label = describe_device(user_agent)
        counts[label] += number
        values[label] = device_name(user_agent)
    return _most_common(counts, found.live, values)


def _countries(found: Summary) -> list[Row]:
    counts = Counter[str]()
    for ip, number in found.ips.items():
        counts[country_name(ip)] += number
    unknown = counts.pop("", 0)
    values = {name: name for name in counts}
    counts[_("unknown")] += unknown
    return _most_common(counts, found.live, values)


def _most_common(counts: Counter[str], live: int, values: Mapping[str, str]) -> list[Row]:
    """Return a bar for each of the most frequent labels, and one for the other live sessions."""
    most = [(label, number) for label, number in counts.most_common(_MAX_ROWS) if number]
    others = live - sum(number for _label, number in most)
    return rows([*most, (_("Others"), others)] if others > 0 else most, values)


def _idle_times(found: Summary) -> list[Row]:
    labels = [
        _("under 5 minutes"),
        _("under an hour"),
        _("under a day"),
        _("under a week"),
        _("a week or longer"),
    ]
    counts = pairwise([0, *found.active, found.live])
    return rows(
        [(label, after - before) for label, (before, after) in zip(labels, counts, strict=True)],
        {labels[-1]: "168"},
    )


def _active_users(found: Summary) -> list[Row]:
    labels = [
        _("in the last 5 minutes"),
        _("in the last hour"),
        _("in the last 24 hours"),
        _("in the last 7 days"),
    ]
    return rows(list(zip(labels, found.active_users, strict=True)))


def _per_user(found: Summary) -> list[Row]:
    groups = {
        _("1 session"): range(1, 2),
        _("2 sessions"): range(2, 3),
        _("3 to 5 sessions"): range(3, 6),
        _("6 to 10 sessions"): range(6, 11),
        _("11 or more sessions"): range(11, sys.maxsize),
    }
    return rows(
        [
            (label, sum(users for number, users in found.users.items() if number in group))
            for label, group in groups.items()
        ]
    )
