"""When a session expires: what ``set_expiry`` stored, and now, to a moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from django.utils import timezone

Expiry = Any
"""What ``session["_session_expiry"]`` may hold: seconds without activity, a moment (ISO text or
``datetime``), or 0 or ``None`` for the default lifetime."""

_LATEST: Final = 253_402_300_799_000

CLOCK_SKEW: Final = 300_000
"""Milliseconds by which the clocks of servers may differ that issue and read the same cookies."""


def _moment(expiry: Expiry) -> datetime | None:
    if isinstance(expiry, str):
        return datetime.fromisoformat(expiry)
    return expiry if isinstance(expiry, datetime) else None


def expiry_date(expiry: Expiry, modification: datetime, default_age: float) -> datetime:
    """When a session last changed at ``modification`` expires.

    A moment stored under another ``USE_TZ`` is converted, where Django raises ``TypeError``.
    """
    moment = _moment(expiry)
    if moment is None:
        return modification + timedelta(seconds=expiry or default_age)
    if timezone.is_naive(moment) and timezone.is_aware(modification):
        return timezone.make_aware(moment, timezone.get_default_timezone())
    if timezone.is_aware(moment) and timezone.is_naive(modification):
        return timezone.make_naive(moment, timezone.get_default_timezone())
    return moment


def expiry_age(expiry: Expiry, modification: datetime, default_age: int) -> int:
    """Seconds from ``modification`` until a session expires; negative if it has."""
    if not expiry:
        return default_age
    if not isinstance(expiry, str | datetime):
        return int(expiry)
    delta = expiry_date(expiry, modification, default_age) - modification
    return delta.days * 86400 + delta.seconds


def expires_at(expiry: Expiry, now: int, default_age: float) -> int:
    """When a session saved at ``now`` expires. Both in milliseconds since the epoch.

    Not before the epoch and not after the year 9999, which no storage could keep.
    """
    moment = _moment(expiry)
    if moment is None:
        expires = now + int((expiry or default_age) * 1000)
    else:
        if timezone.is_naive(moment):
            moment = timezone.make_aware(moment, timezone.get_default_timezone())
        expires = int(moment.timestamp() * 1000)
    return min(max(expires, 0), _LATEST)


class Limits(NamedTuple):
    """Ends that a project sets besides Django's; both in milliseconds, 0 for none."""

    idle: int = 0
    """After the last activity."""
    absolute: int = 0
    """After the login, or the start of an anonymous session."""

    def end(self, created: int, last_activity: int) -> int:
        """The earliest of them, in milliseconds since the epoch."""
        idle = last_activity + self.idle if self.idle else _LATEST
        return min(idle, created + self.absolute) if self.absolute else idle


class Deadlines(NamedTuple):
    """When a session ends, and what would have to happen for that. Aware, in UTC."""

    idle: datetime
    """If nothing is done until then."""
    absolute: datetime | None
    """Whatever is done; ``None`` without ``ABSOLUTE_AGE``."""
    cookie: datetime | None
    """The browser forgets the cookie; ``None`` when it is closed."""


def aware(milliseconds: int) -> datetime:
    """Milliseconds since the epoch as an aware moment in UTC."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def touch_step(lifetime: int, interval: float) -> int:
    """By how many milliseconds a stored expiry may lag behind, see ``TOUCH_INTERVAL``.

    Behind, never ahead: a session must not outlive its lifetime.
    """
    # At least one, so that a moment that was set once is never set again.
    return max(1, min(int(interval * 1000), lifetime // 20))
