"""Counts of all sessions in a table, by a few queries, each of which reads the whole table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import Count, F, Q

from ...core.summary import ACTIVE_WITHIN, HOUR, MAX_USER_AGENTS, Summary

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from ...models import StoredSession


def summarize(rows: QuerySet[StoredSession], now: int) -> Summary:
    """Return the counts of sessions. Other requests may write between the queries."""
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
    agents = _counts(rows.filter(is_live), F("user_agent")).order_by("-number")
    return Summary(
        is_whole=True,
        live=totals["live"],
        logged_in=totals["logged_in"],
        expired=totals["all"] - totals["live"],
        created=dict(_counts(rows, _hour("created", now))),
        expires=dict(_counts(rows, _hour("expires", now))),
        active=tuple(totals[f"active_{period}"] for period in ACTIVE_WITHIN),
        user_agents=dict(agents[:MAX_USER_AGENTS]),
    )


def _counts(rows: QuerySet[StoredSession], value: Any) -> QuerySet[Any, Any]:
    """Return the numbers of rows by a value."""
    grouped = rows.order_by().annotate(value=value).values("value")
    return grouped.annotate(number=Count("pk")).values_list("value", "number")


def _hour(field: str, now: int) -> Any:
    """Return the expression of `core.summary.hour`."""
    # Positive, because databases and Python disagree about the remainder of a negative number.
    return F(field) - (F(field) - 1 - now % HOUR) % HOUR
