"""The numbers of all sessions, which the server counts in one pass over the collection."""

from __future__ import annotations

from typing import Any, Final

from ...core.summary import Numbers, UserCount
from .documents import Document, moment

_HAS_USER: Final[dict[str, Any]] = {"$eq": [{"$type": "$_id"}, "string"]}
"""Whether a group is that of a user. All visitors without one are a group."""


def numbers_of_users(now: int, most: int) -> list[dict[str, Any]]:
    """Return the stages of a pipeline that count sessions, for `numbers_of`.

    They return the ``most`` users with the most sessions.
    """
    is_live = {"$gt": ["$expires", moment(now)]}
    of_user = {
        "live": {"$sum": {"$cond": [is_live, 1, 0]}},
        "expired": {"$sum": {"$cond": [is_live, 0, 1]}},
    }
    of_all = {
        "live": {"$sum": "$live"},
        "logged_in": {"$sum": {"$cond": [_HAS_USER, "$live", 0]}},
        "expired": {"$sum": "$expired"},
    }
    top = [
        {"$match": {"_id": {"$type": "string"}, "live": {"$gt": 0}}},
        {"$sort": {"live": -1, "_id": 1}},
        {"$limit": most},
    ]
    return [
        {"$group": {"_id": "$user_id", **of_user}},
        {"$facet": {"all": [{"$group": {"_id": None, **of_all}}], "top": top}},
    ]


def numbers_of(found: Document) -> Numbers:
    """Return the numbers in the document that `numbers_of_users` makes."""
    totals = found["all"][0] if found["all"] else {}
    return Numbers(
        live=int(totals.get("live", 0)),
        logged_in=int(totals.get("logged_in", 0)),
        expired=int(totals.get("expired", 0)),
        top_users=[UserCount(each["_id"], int(each["live"])) for each in found["top"]],
    )
