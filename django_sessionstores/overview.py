"""The sessions of a site at a glance, in as many calls of its store at a million as at ten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from django.utils.translation import gettext as _

from . import session, tally
from .charts import Columns, Row, columns, rows, spans
from .conf import settings
from .devices import describe_device
from .inventory import Inventory, SessionInfo

SAMPLE: Final = 1000
"""How many sessions are looked at."""
_MOST_DEVICES: Final = 8
_DAYS: Final = 30
_ONE: Final = timedelta(hours=1)


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of sessions. All but ``live`` are of those that were ``sampled``."""

    live: int | None
    """All of the site; ``None`` where the store would have to read them all to tell."""
    sampled: int
    is_complete: bool
    """Whether these were all that there are."""
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
    """One page of the list, and a count if that is not all; one more page, where the expired are
    last."""
    sessions, more = inventory.list(limit=SAMPLE, within=SAMPLE, expired=None)
    live = [each for each in sessions if not each.is_expired]
    total: int | None = len(live)
    if more:
        total = inventory.count() if inventory.storage.indexes_users else None
    expired, expired_more = len(sessions) - len(live), more
    if more and inventory.storage.first_expired(session.now()):
        # By when they expire, these are not among the first.
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
        idle=_idle(live, now),
    )


class Period(msgspec.Struct, frozen=True):
    """How many sessions began and ended in a time, on the same scale."""

    created: Columns
    ended: Columns


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What the tally has counted, up to the hour that is not over yet."""

    day: Period
    month: Period
    reasons: list[Row]
    """Of the ends of the month."""


def history(now: datetime) -> History | None:
    """One query. ``None`` where nothing is counted. Raises ``django.db.Error``."""
    if not settings.TALLY:
        return None
    hour, day = timedelta(hours=1), timedelta(days=1)
    end = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0) + hour
    numbers = tally.history(end - _DAYS * day)
    reasons: Counter[str] = Counter()
    for (_moment, reason), number in numbers.items():
        if reason != tally.CREATED:
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
            (created if reason == tally.CREATED else ended)[place] += number
    most, begin = max(*created, *ended), end - steps * step
    return Period(spans(created, begin, step, most=most), spans(ended, begin, step, most=most))


def reason_in_words(reason: str) -> str:
    """Why sessions have ended, see `signals.session_ended`."""
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
    """How many live sessions a user has; ``None`` where all would have to be read to tell."""
    if inventory.storage.indexes_users:
        return inventory.count(user=user)
    sessions, more = inventory.list(limit=SAMPLE, within=SAMPLE, user=user)
    return None if more else len(sessions)


def _devices(sessions: Sequence[SessionInfo]) -> list[Row]:
    counts = Counter(describe_device(each.user_agent) for each in sessions)
    most = counts.most_common(_MOST_DEVICES)
    others = counts.total() - sum(number for _device, number in most)
    return rows([*most, (_("Others"), others)] if others else most)


def _idle(sessions: Sequence[SessionInfo], now: datetime) -> list[Row]:
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
