"""Sessions as text, for people and for programs. Nothing here asks a store."""

from __future__ import annotations

import json
import time
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any, Final, TypeVar

import msgspec
from django.utils import timezone

from .. import tally
from ..inventory import SHORT_ID, SessionInfo
from ..words import span
from . import moving

T = TypeVar("T")

_GAP: Final = "  "
_NARROWEST: Final = 8
_MOST_COUNTERS: Final = 100_000
_PATIENCE: Final = 1.0
"""Seconds without a sign of life."""
_BAR: Final = 30


# --- Words ---------------------------------------------------------------------------------


def ago(moment: datetime, now: datetime) -> str:
    return f"{span((now - moment).total_seconds())} ago"


def until(moment: datetime, now: datetime) -> str:
    left = (moment - now).total_seconds()
    return f"in {span(left)}" if left > 0 else "expired"


def clock(moment: datetime) -> str:
    """A moment in the project's time zone."""
    return timezone.localtime(moment).strftime("%Y-%m-%d %H:%M:%S %Z")


def as_json(value: Any) -> str:
    """One document in ASCII; times in ISO 8601, in UTC."""
    return json.dumps(msgspec.to_builtins(value), indent=2)


# --- Layout --------------------------------------------------------------------------------


def printable(text: str) -> str:
    """Without what could move the cursor of a terminal, or break a line."""
    return "".join(filter(str.isprintable, text))


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Lines with columns of equal width. What does not fit ``width`` is cut, from the widest."""
    cells = [header, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(_columns, column)) for column in zip(*cells, strict=True)]
    while width and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        # The first column is the id, which is needed whole.
        widest = max(range(1, len(widths)), key=widths.__getitem__)
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return [_GAP.join(map(_fill, row, widths)).rstrip() for row in cells]


def fields(values: Mapping[str, str], width: int | None) -> list[str]:
    """A line for each name and value; a value that does not fit goes on in the next line."""
    indent = max(map(len, values)) + len(_GAP)
    lines: list[str] = []
    for name, value in values.items():
        texts = map(printable, value.split("\n"))
        pieces = [piece for text in texts for piece in _wrap(text, width and width - indent)]
        lines += [
            f"{'' if number else name:<{indent}}{piece}".rstrip()
            for number, piece in enumerate(pieces)
        ]
    return lines


def wrapped(text: str, width: int | None, *, behind: str = "") -> str:
    """A text in lines that fit. On the first, something stands in front of it."""
    lines = [line for each in f"{behind}{text}".split("\n") for line in _wrap(each, width)]
    return "\n".join(lines)[len(behind) :]


def _wrap(text: str, width: int | None) -> list[str]:
    """Lines, broken at spaces where there are any. ``textwrap`` takes all characters for narrow."""
    lines: list[str] = []
    while width and _columns(text) > width:
        fitting = len(_beginning(text, max(width, 2 * _NARROWEST)))
        end = text.rfind(" ", 1, fitting + 1)
        lines.append(text[: end if end > 0 else fitting])
        text = text[len(lines[-1]) :].lstrip()
    return [*lines, text]


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(map(_column, text))


def _column(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _beginning(text: str, width: int) -> str:
    """As much of the text as fits."""
    return text[: bisect_right([*accumulate(map(_column, text))], width)]


def _fill(text: str, width: int) -> str:
    """The text in exactly ``width`` columns, cut if need be."""
    if _columns(text) > width:
        text = _beginning(text, width - 1) + "…"
    return text + " " * (width - _columns(text))


# --- Sessions ------------------------------------------------------------------------------


def session_table(
    sessions: Sequence[SessionInfo], names: Mapping[str, str], now: datetime, width: int | None
) -> list[str]:
    """A line for the heads of the columns, and one for each session."""
    rows = [
        (
            session.id[:SHORT_ID],
            _user(session, names),
            ago(session.last_activity, now),
            until(session.expires, now),
            session.ip or "-",
        )
        for session in sessions
    ]
    return table(("ID", "USER", "LAST ACTIVITY", "EXPIRES", "IP"), rows, width)


def session_fields(session: SessionInfo, names: Mapping[str, str], now: datetime) -> dict[str, str]:
    """What there is to say of a session."""
    user = "-"
    if session.user_id is not None:
        key, name = f"primary key {session.user_id}", names.get(session.user_id)
        user = f"{name} ({key})" if name else key
    return {
        "Session": session.id,
        "User": user,
        "Created": f"{clock(session.created)} ({ago(session.created, now)})",
        "Last activity": f"{clock(session.last_activity)} ({ago(session.last_activity, now)})",
        "Expires": f"{clock(session.expires)} ({until(session.expires, now)})",
        "IP address": session.ip or "-",
        "User agent": session.user_agent or "-",
        "Values": "not shown; they are encrypted",
    }


def _user(session: SessionInfo, names: Mapping[str, str]) -> str:
    if session.user_id is None:
        return "-"
    return names.get(session.user_id, session.user_id)


# --- Numbers -------------------------------------------------------------------------------


class UserCount(msgspec.Struct, frozen=True):
    user_id: str
    sessions: int


class Stats(msgspec.Struct, kw_only=True):
    """What one pass over all sessions has counted."""

    live: int = 0
    logged_in: int = 0
    anonymous: int = 0
    expired: int = 0
    """Expired, and not removed from the store yet."""
    top_users: list[UserCount] = []
    """Those with most sessions, the most first."""
    top_users_exact: bool = True
    """Whether their numbers are right; otherwise they have at least as many."""
    last_day: tally.Sums | None = None
    """Of the last 24 hours; ``None`` where nothing counts them."""


def count(sessions: Iterable[SessionInfo], top: int) -> Stats:
    """Count in bounded memory: users who have few of very many sessions are forgotten.

    Whoever has more than one in 100,000 of all sessions is never among those (Misra and Gries).
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


def stats_fields(stats: Stats, names: Mapping[str, str]) -> dict[str, str]:
    at_least = "" if stats.top_users_exact else "at least "
    most = [
        f"{at_least}{each.sessions:,}  {names.get(each.user_id, each.user_id)}"
        for each in stats.top_users
    ]
    return {
        "Live": f"{stats.live:,}",
        "  logged in": f"{stats.logged_in:,}",
        "  anonymous": f"{stats.anonymous:,}",
        "Expired, not purged": f"{stats.expired:,}",
        "Most sessions": "\n".join(map(printable, most)) or "-",
        **(_last_day_fields(stats.last_day) if stats.last_day else {}),
    }


def _last_day_fields(sums: tally.Sums) -> dict[str, str]:
    return {
        "Created, 24 hours": f"{sums.created:,}",
        "Ended, 24 hours": f"{sum(sums.ended.values()):,}",
        **{f"  {reason}": f"{number:,}" for reason, number in sums.ended.items()},
    }


def moved_fields(report: moving.Report) -> dict[str, str]:
    """What a move has done, or would do."""
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
    """The items, with a bar that appears once they take long. ``total`` is asked only then."""
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
