"""When a session expires, computed from the value that ``set_expiry`` has stored."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

from django.utils import timezone

Expiry = Any
"""A value of ``session["_session_expiry"]``: seconds without activity, a moment (ISO text or
``datetime``), or 0 or ``None`` for the default lifetime."""

N = TypeVar("N", int, float, datetime, timedelta)

LATEST: Final = 253_402_214_400_000
"""The last day of the year 9999, in milliseconds since the epoch.

A later moment could not be shown in each time zone, because Python's years end with 9999.
"""
_CENTURY: Final = 100 * 365 * 86_400
"""Seconds that end long before the year 9999 if they begin now."""
_NAIVE_BOUNDS: Final = datetime(1970, 1, 1), datetime(9999, 12, 31)
_AWARE_BOUNDS: Final = _NAIVE_BOUNDS[0].replace(tzinfo=UTC), _NAIVE_BOUNDS[1].replace(tzinfo=UTC)

CLOCK_SKEW: Final = 300_000
"""How many milliseconds the clocks of servers that issue and read the same cookies may differ."""


def _moment(expiry: Expiry) -> datetime | None:
    if isinstance(expiry, str):
        return datetime.fromisoformat(expiry)
    return expiry if isinstance(expiry, datetime) else None


def expiry_date(expiry: Expiry, modification: datetime | None, default_age: float) -> datetime:
    """Return when a session that last changed at ``modification`` expires.

    ``modification`` is now if it is ``None``, and ``default_age`` is in seconds. A moment that was
    stored under another ``USE_TZ`` is converted, whereas Django raises ``TypeError``. A lifetime
    that would end after the year 9999, or before the epoch, ends there.
    """
    modification = modification or timezone.now()
    moment = _moment(expiry)
    if moment is None:
        return _later(modification, expiry or default_age)
    if timezone.is_naive(moment) and timezone.is_aware(modification):
        return timezone.make_aware(moment, timezone.get_default_timezone())
    if timezone.is_aware(moment) and timezone.is_naive(modification):
        return timezone.make_naive(_in_range(moment), timezone.get_default_timezone())
    return moment


def _later(moment: datetime, seconds: float) -> datetime:
    try:
        later = moment + timedelta(seconds=float(seconds))
    except OverflowError:
        later = (datetime.max if seconds > 0 else datetime.min).replace(tzinfo=moment.tzinfo)
    return _in_range(later)


def _in_range(moment: datetime) -> datetime:
    """Return the moment, or the nearest one that every store and a cookie can have."""
    earliest, latest = _bounds(moment)
    return _within(earliest, moment, latest)


def _bounds(moment: datetime) -> tuple[datetime, datetime]:
    return _AWARE_BOUNDS if timezone.is_aware(moment) else _NAIVE_BOUNDS


def expiry_age(expiry: Expiry, modification: datetime | None, default_age: int) -> int:
    """Return the seconds from ``modification`` until a session expires; negative if it has.

    ``modification`` is now if it is ``None``, and ``default_age`` is in seconds. A cookie can have
    the moment to which the result leads: see `expiry_date`.
    """
    # This runs for every cookie, and the result is nearly always within this century.
    if modification is None and expiry is None and 0 <= default_age <= _CENTURY:
        return int(default_age)
    modification = modification or timezone.now()
    earliest, latest = _bounds(modification)
    if expiry and isinstance(expiry, str | datetime):
        moment = expiry_date(expiry, modification, default_age)
        delta = _within(earliest - modification, moment - modification, latest - modification)
        return delta.days * 86400 + delta.seconds
    least, most = earliest - modification, latest - modification
    return int(_within(least.total_seconds(), expiry or default_age, most.total_seconds()))


def expires_at(expiry: Expiry, now: int, default_age: float) -> int:
    """Return when a session that is saved at ``now`` expires.

    Both are in milliseconds since the epoch, and ``default_age`` is in seconds. The result is never
    before the epoch or after the year 9999, because no storage could keep that. Raises
    ``ValueError`` or ``TypeError`` if ``expiry`` is neither a moment nor a number of seconds.
    """
    # This runs for every save, and the result is nearly always within this century.
    if expiry is None and 0 <= default_age <= _CENTURY:
        expires = now + int(default_age * 1000)
    elif (moment := _moment(expiry)) is None:
        expires = now + int(_within(-LATEST, expiry or default_age, LATEST) * 1000)
    else:
        if timezone.is_naive(moment):
            moment = timezone.make_aware(moment, timezone.get_default_timezone())
        expires = int(moment.timestamp() * 1000)
    return _within(0, expires, LATEST)


def _within(least: N, value: N, most: N) -> N:
    """Return the value, or the nearest one that is not less than ``least`` or more than ``most``.

    This runs for every save and every cookie, and the value is nearly always within the bounds.
    """
    return value if least <= value <= most else min(max(value, least), most)


class Timeouts(NamedTuple):
    """The timeouts that a project can set besides Django's expiry.

    Both are in milliseconds; 0 means disabled.
    """

    idle: int = 0
    """The time after the last activity."""
    absolute: int = 0
    """The time after the login, or after the start of an anonymous session."""

    def end(self, created: int, last_activity: int) -> int:
        """Return when the first of the timeouts ends a session.

        All moments are in milliseconds since the epoch. If both timeouts are disabled, the result
        is the end of the year 9999.
        """
        idle = last_activity + self.idle if self.idle else LATEST
        return min(idle, created + self.absolute) if self.absolute else idle


class Deadlines(NamedTuple):
    """When a session ends, by each of the possible causes. All moments are aware and in UTC."""

    idle: datetime
    """When it ends if it is not used until then."""
    absolute: datetime | None
    """When it ends even if it is used; ``None`` without ``ABSOLUTE_TIMEOUT``."""
    cookie: datetime | None
    """When the browser removes the cookie; ``None`` if it does so when it is closed."""


def utc_datetime(milliseconds: int) -> datetime:
    """Return milliseconds since the epoch as an aware ``datetime`` in UTC, at most `LATEST`."""
    return datetime.fromtimestamp(max(0, min(milliseconds, LATEST)) / 1000, UTC)


def touch_step(lifetime: int, interval: float) -> int:
    """Return by how many milliseconds a stored expiry may lag behind, see ``TOUCH_INTERVAL``.

    ``lifetime`` is in milliseconds, and ``interval`` in seconds. A stored expiry is never ahead,
    because a session must not outlive its lifetime.
    """
    # At least one, so that a moment that is stored is not stored again.
    return max(1, min(int(interval * 1000), lifetime // 20))
