"""Counts of the sessions in a table: of all, or of a sample of a large table.

Live sessions are counted by conditions of the aggregates and not by a ``WHERE``: for that, SQLite
would use the index on the expiry and look up nearly every row, which takes ten times as long.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from django.db.models import Case, Count, F, Q, Value, When
from django.db.models.functions import Coalesce

from ...core import summary
from ...core.client_bytes import unpack_ip, unpack_user_agent
from ...core.records import ID_SIZE, Record
from ...core.summary import ACTIVE_WITHIN, HOUR, MAX_CLIENTS, Summary
from ..outcomes import MOST_EXPIRES

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from ...models import StoredSession


MOST_COUNTED: Final = 200_000
"""How many sessions are counted in groups at most, each of which takes a pass over the table."""
LEAST_SAMPLED: Final = 20_000
"""How many sessions of more are a sample at least."""
_SAMPLED: Final = ("id", "user_id", "created", "last_activity", "expires", "ip", "user_agent")
_BINARY: Final = bytes | memoryview
_SAMPLED_TYPES: Final[tuple[Any, ...]] = (_BINARY, str | None, *[int] * 3, *[_BINARY] * 2)


def count_live(rows: QuerySet[StoredSession], now: int) -> int:
    """Return how many sessions are live."""
    return int(rows.aggregate(live=Count("pk", filter=is_live(now)))["live"])


def is_live(now: int) -> Q:
    """Return the condition that a session has not expired, and that it will."""
    return Q(expires__gt=now, expires__lte=MOST_EXPIRES)


def summarize(rows: QuerySet[StoredSession], now: int, limit: int) -> Summary:
    """Return the counts of sessions, see `Inspection.summarize`."""
    # No more rows are counted than it takes to know that there are too many.
    if rows.order_by()[: MOST_COUNTED + 1].count() > MOST_COUNTED:
        sample = _sample(rows, max(limit, LEAST_SAMPLED))
        return summary.summarize(sample, now, is_whole=False)
    return _count_all(rows, now)


def _sample(rows: QuerySet[StoredSession], limit: int) -> list[Record]:
    """Return ``limit`` sessions, without what a summary does not need.

    Ids are digests, so the sessions after a random id are a random sample.
    """
    start, ordered = secrets.token_bytes(ID_SIZE), rows.order_by("pk").values_list(*_SAMPLED)
    found = list(ordered.filter(pk__gte=start)[:limit])
    if len(found) < limit:
        found += ordered.filter(pk__lt=start)[: limit - len(found)]
    return [
        Record(
            id=bytes(each[0]).hex(),
            ip=unpack_ip(bytes(each[-2])),
            user_agent=unpack_user_agent(bytes(each[-1])),
            **dict(zip(_SAMPLED[1:-2], each[1:-2], strict=True)),
        )
        for each in found
        # A column of SQLite can contain a value of any type.
        if all(map(isinstance, each, _SAMPLED_TYPES))
    ]


def _count_all(rows: QuerySet[StoredSession], now: int) -> Summary:
    """Return the counts of all sessions. Other requests may write between the queries."""
    is_running = is_live(now)
    are_active = {
        f"active_{period}": Count("pk", filter=is_running & Q(last_activity__gt=now - period))
        for period in ACTIVE_WITHIN
    }
    totals = rows.aggregate(
        all=Count("pk"),
        live=Count("pk", filter=is_running),
        logged_in=Count("pk", filter=is_running & Q(user_id__isnull=False)),
        **are_active,
    )
    # Not by the column itself, for which SQLite would use an index, too.
    users = (
        rows.order_by()
        .annotate(user=Coalesce("user_id", Value("")))
        .values("user")
        .annotate(live=Count("pk", filter=is_running), **are_active)
        .filter(live__gt=0)
        .values_list("user", "live", *are_active)
    )
    numbers = [each[1:] for each in users if each[0]]
    return Summary(
        is_whole=True,
        live=totals["live"],
        logged_in=totals["logged_in"],
        expired=totals["all"] - totals["live"],
        created=_hours(rows, "created", now, is_running),
        expires=_hours(rows, "expires", now),
        active=tuple(totals[f"active_{period}"] for period in ACTIVE_WITHIN),
        users=Counter(each[0] for each in numbers),
        active_users=tuple(
            sum(each[place] > 0 for each in numbers) for place in range(1, len(ACTIVE_WITHIN) + 1)
        ),
        user_agents=_clients(rows, "user_agent", unpack_user_agent, is_running),
        ips=_clients(rows, "ip", unpack_ip, is_running),
    )


def _clients(
    rows: QuerySet[StoredSession], field: str, unpack: Callable[[bytes], str], condition: Q
) -> dict[str, int]:
    """Return the numbers of rows by the most frequent values of a field of packed texts."""
    counts = _counts(rows, F(field), condition).order_by("-number")[:MAX_CLIENTS]
    # A column of SQLite can contain a value of any type.
    return {unpack(bytes(each)): n for each, n in counts if isinstance(each, _BINARY)}


def _counts(
    rows: QuerySet[StoredSession], value: Any, condition: Q | None = None
) -> QuerySet[Any, Any]:
    """Return the numbers of rows that fulfil a condition, by a value, without those that are 0."""
    grouped = rows.order_by().annotate(value=value).values("value")
    counted = grouped.annotate(number=Count("pk", filter=condition)).filter(number__gt=0)
    return counted.values_list("value", "number")


def _hours(
    rows: QuerySet[StoredSession], field: str, now: int, condition: Q | None = None
) -> dict[int, int]:
    """Return the `_counts` of rows by the hour of a field, without those that are damaged."""
    is_sound = Q(**{f"{field}__gte": 0, f"{field}__lte": MOST_EXPIRES})
    # The hour of a number that is far below zero would be out of the range of the column.
    counts = dict(_counts(rows, Case(When(is_sound, then=_hour(field, now))), condition))
    counts.pop(None, None)
    return counts


def _hour(field: str, now: int) -> Any:
    """Return the expression of `core.summary.hour`."""
    # Positive, because databases and Python disagree about the remainder of a negative number.
    return F(field) - (F(field) - 1 - now % HOUR) % HOUR
