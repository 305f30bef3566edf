"""Sessions as text, for people and for programs. Nothing here calls a store."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec
from django.utils import timezone

from ..core.phrases import format_duration
from ..core.summary import Numbers, UserCount
from ..inventory import SHORT_ID, SessionInfo
from ..middleware.installed import records_reads
from ..migration import bulk
from ..operations import statistics
from .layout import Screen, single_line, table

T = TypeVar("T")

_MOST_COUNTERS: Final = 100_000
"""How many users are counted at once."""
_PATIENCE: Final = 1.0
"""Seconds before a progress bar appears, and between its changes."""
_BAR: Final = 30
"""Characters of a progress bar."""


# --- Words ---------------------------------------------------------------------------------


def time_since(moment: datetime, now: datetime) -> str:
    """Return how long ago a moment was."""
    return f"{format_duration((now - moment).total_seconds())} ago"


def time_until(moment: datetime, now: datetime) -> str:
    """Return the time until a moment, or ``expired`` if it has passed."""
    left = (moment - now).total_seconds()
    return f"in {format_duration(left)}" if left > 0 else "expired"


def clock(moment: datetime) -> str:
    """Return a moment in the project's time zone."""
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z")


def quantity(number: int, noun: str) -> str:
    """Return a number with its noun: ``1,234 sessions``, ``1 session``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def purge_summary(removed: int | None) -> str:
    """Return a sentence on a purge of this number of sessions; ``None`` if it is unknown."""
    if removed is None:
        return "The expired sessions were removed."
    return f"{quantity(removed, 'expired session')} removed."


def as_json(value: Any) -> str:
    """Return a JSON document in ASCII, with times in ISO 8601 and UTC."""
    return json.dumps(msgspec.to_builtins(value), indent=2)


# --- Sessions ------------------------------------------------------------------------------


def session_table(
    sessions: Sequence[SessionInfo], names: Mapping[str, str], now: datetime, screen: Screen
) -> list[str]:
    """Return a line with the headings of the columns, and one for each session."""
    rows = [
        (
            session.id[:SHORT_ID],
            _user(session, names),
            time_since(session.last_activity, now),
            time_until(session.expires, now),
            session.ip or "-",
        )
        for session in sessions
    ]
    return table(("ID", "USER", _last_activity().upper(), "EXPIRES", "IP"), rows, screen)


def session_fields(session: SessionInfo, names: Mapping[str, str], now: datetime) -> dict[str, str]:
    """Return the names and values that describe a session."""
    user, last_activity = "-", session.last_activity
    if session.user_id is not None:
        key, name = f"primary key {session.user_id}", names.get(session.user_id)
        user = single_line(f"{name} ({key})" if name else key)
    return {
        "Session": session.id,
        "User": user,
        "Created": f"{clock(session.created)} ({time_since(session.created, now)})",
        _last_activity(): f"{clock(last_activity)} ({time_since(last_activity, now)})",
        "Expires": f"{clock(session.expires)} ({time_until(session.expires, now)})",
        "IP address": session.ip or "-",
        "User agent": single_line(session.user_agent) or "-",
        "Values": "not shown; they are encrypted",
    }


def _last_activity() -> str:
    return "Last activity" if records_reads() else "Last change"


def _user(session: SessionInfo, names: Mapping[str, str]) -> str:
    if session.user_id is None:
        return "-"
    return names.get(session.user_id, session.user_id)


# --- Numbers -------------------------------------------------------------------------------


class Stats(msgspec.Struct, kw_only=True):
    """The numbers of all sessions."""

    live: int = 0
    logged_in: int = 0
    anonymous: int = 0
    expired: int = 0
    """Expired, and not yet removed from the store."""
    top_users: list[UserCount] = []
    """The users with the most sessions, in descending order."""
    top_users_exact: bool = True
    """Whether these numbers are exact; otherwise the users have at least as many sessions."""
    last_day: statistics.Sums | None = None
    """The statistics of the last 24 hours; ``None`` if ``STATISTICS`` is disabled."""


def count(sessions: Iterable[SessionInfo], top: int) -> Stats:
    """Return the numbers of sessions, and the ``top`` users with the most.

    Memory is bounded: among very many sessions, users with few are forgotten. A user with more
    than one in 100,000 of all sessions never is (the algorithm of Misra and Gries).
    """
    stats, users = Stats(), Counter[str]()
    for session in sessions:
        if session.is_expired:
            stats.expired += 1
            continue
        stats.live += 1
        if session.user_id is None:
            stats.anonymous += 1
            continue
        stats.logged_in += 1
        users[session.user_id] += 1
        if len(users) > _MOST_COUNTERS:
            users = Counter({user: number - 1 for user, number in users.items() if number > 1})
            stats.top_users_exact = False
    stats.top_users = [UserCount(*each) for each in users.most_common(top)]
    return stats


def stats_of(numbers: Numbers) -> Stats:
    """Return the numbers that a store has counted by itself."""
    return Stats(
        live=numbers.live,
        logged_in=numbers.logged_in,
        anonymous=numbers.live - numbers.logged_in,
        expired=numbers.expired,
        top_users=numbers.top_users,
    )


def stats_fields(stats: Stats, names: Mapping[str, str]) -> dict[str, str]:
    """Return the names and values of the numbers of sessions."""
    at_least = "" if stats.top_users_exact else "at least "
    most = [
        f"{at_least}{each.sessions:,}  {names.get(each.user_id, each.user_id)}"
        for each in stats.top_users
    ]
    return {
        "Live": f"{stats.live:,}",
        "  logged in": f"{stats.logged_in:,}",
        "  visitors": f"{stats.anonymous:,}",
        "Expired, not purged": f"{stats.expired:,}",
        "Most sessions": "\n".join(map(single_line, most)) or "-",
        **(_last_day_fields(stats.last_day) if stats.last_day else {}),
    }


def _last_day_fields(sums: statistics.Sums) -> dict[str, str]:
    return {
        "Created, 24 hours": f"{sums.created:,}",
        "Ended, 24 hours": f"{sum(sums.ended.values()):,}",
        **{f"  {reason}": f"{number:,}" for reason, number in sums.ended.items()},
    }


def moved_fields(report: bulk.Report) -> dict[str, str]:
    """Return the names and values of the results of a move, or of its dry run."""
    numbers = {
        "Moved": report.moved,
        "Already there": report.already_there,
        "Ended meanwhile": report.ended,
        "Expired, left": report.expired,
        "Unreadable, left": report.failures,
    }
    reasons = {f"  {reason}": number for reason, number in sorted(report.unreadable.items())}
    return {name: f"{number:,}" for name, number in (numbers | reasons).items()}


def with_progress(
    items: Iterable[T], total: Callable[[], int], draw: Callable[[str], object]
) -> Iterator[T]:
    """Yield the items, and draw a progress bar if they take long.

    ``total`` returns the number of items; it is only called for the bar.
    """
    drawn, expected = time.monotonic(), 0
    for done, item in enumerate(items, 1):
        yield item
        if time.monotonic() - drawn >= _PATIENCE:
            expected = max(done, expected or total())
            filled = "#" * (_BAR * done // expected)
            draw(f"\r[{filled:<{_BAR}}] {done:,} of {expected:,}")
            drawn = time.monotonic()
    if expected:
        draw(f"\r{'':{_BAR + 40}}\r")
