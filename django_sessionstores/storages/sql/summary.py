"""Counts of the sessions in a table: of all, or of a sample of a large table.

Live sessions are counted by conditions of the aggregates and not by a ``WHERE``: for that, SQLite
would use the index on the expiry and look up nearly every row, which takes ten times as long.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from django.db.models import Count, F, Q

from ...core import summary
from ...core.records import ID_SIZE, Record
from ...core.summary import ACTIVE_WITHIN, HOUR, MAX_USER_AGENTS, Summary

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from ...models import StoredSession


MOST_COUNTED: Final = 200_000
"""How many sessions are counted in groups at most, each of which takes a pass over the table."""
LEAST_SAMPLED: Final = 20_000
"""How many sessions of more are a sample at least."""
_SAMPLED: Final = ("id", "user_id", "created", "last_activity", "expires", "user_agent")


def count_live(rows: QuerySet[StoredSession], now: int) -> int:
    """Return how many sessions are live."""
    return int(rows.aggregate(live=Count("pk", filter=Q(expires__gt=now)))["live"])


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
    start, ordered = secrets.token_hex(ID_SIZE), rows.order_by("pk").values_list(*_SAMPLED)
    found = list(ordered.filter(pk__gte=start)[:limit])
    if len(found) < limit:
        found += ordered.filter(pk__lt=start)[: limit - len(found)]
    return [Record(**dict(zip(_SAMPLED, each, strict=True))) for each in found]


def _count_all(rows: QuerySet[StoredSession], now: int) -> Summary:
    """Return the counts of all sessions. Other requests may write between the queries."""
    is_live = Q(expires__gt=now)
    totals = rows.aggregate(
        all=Count("pk"),
        live=Count("pk", filter=is_live),
        logged_in=Count("pk", filter=is_live & Q(user_id__isnull=False)),
        **{
            f"active_{period}": Count("pk", filter=is_live & Q(last_activity__gt=now - period))
            for period in ACTIVE_WITHIN
        },
    )
    agents = _counts(rows, F("user_agent"), is_live).order_by("-number")
    return Summary(
        is_whole=True,
        live=totals["live"],
        logged_in=totals["logged_in"],
        expired=totals["all"] - totals["live"],
        created=dict(_counts(rows, _hour("created", now), is_live)),
        expires=dict(_counts(rows, _hour("expires", now))),
        active=tuple(totals[f"active_{period}"] for period in ACTIVE_WITHIN),
        user_agents=dict(agents[:MAX_USER_AGENTS]),
    )


def _counts(
    rows: QuerySet[StoredSession], value: Any, condition: Q | None = None
) -> QuerySet[Any, Any]:
    """Return the numbers of rows that fulfil a condition, by a value, without those that are 0."""
    grouped = rows.order_by().annotate(value=value).values("value")
    counted = grouped.annotate(number=Count("pk", filter=condition)).filter(number__gt=0)
    return counted.values_list("value", "number")


def _hour(field: str, now: int) -> Any:
    """Return the expression of `core.summary.hour`."""
    # Positive, because databases and Python disagree about the remainder of a negative number.
    return F(field) - (F(field) - 1 - now % HOUR) % HOUR
