"""Counts of the sessions of a store, as the overview of a site shows them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from .records import Record

HOUR: Final = 3_600_000
"""Milliseconds of an hour."""
ACTIVE_WITHIN: Final = (HOUR // 12, HOUR, 24 * HOUR, 7 * 24 * HOUR)
"""The periods in `Summary.active`, in milliseconds."""
MAX_CLIENTS: Final = 10_000
"""How many different user agents, and IP addresses, a summary has, the most frequent ones."""


class UserCount(msgspec.Struct, frozen=True):
    """How many live sessions a user has."""

    user_id: str
    sessions: int


class IndexReport(msgspec.Struct, frozen=True, kw_only=True):
    """What the index of a store has, and what is out of order in it."""

    sessions: int
    """The sessions in the index; some may have expired."""
    buckets: int
    """The parts that have the sessions and those of users."""
    incomplete: int
    """The parts of the index that may lack sessions."""
    evicted: int
    """Those of them of which the store has dropped something."""
    bytes_per_session: int | None
    """What a session takes in the store with its part of the index. ``None`` if that is not known.
    """


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of all sessions of a store."""

    live: int
    logged_in: int
    """The live sessions that have a user."""
    expired: int
    """The sessions that have expired and are not purged yet."""
    top_users: list[UserCount]
    """The users with the most live sessions, in descending order."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of sessions. All moments are milliseconds since the epoch."""

    is_whole: bool
    """Whether all sessions of the store were counted, or a random sample of them."""
    live: int
    logged_in: int
    """The live sessions that have a user."""
    expired: int
    """The sessions that have expired and are not purged yet."""
    created: Mapping[int, int]
    """The numbers of live sessions by the `hour` in which they began."""
    expires: Mapping[int, int]
    """The numbers of sessions, expired ones included, by the `hour` in which they expire."""
    active: tuple[int, ...]
    """How many live sessions were active within each of the periods in `ACTIVE_WITHIN`."""
    users: Mapping[int, int]
    """The numbers of users by how many live sessions they have. Of a sample, they mean nothing."""
    active_users: tuple[int, ...]
    """How many users were active within each of the periods in `ACTIVE_WITHIN`."""
    user_agents: Mapping[str, int]
    """The numbers of live sessions by user agent. The sum may be less than all."""
    ips: Mapping[str, int]
    """The numbers of live sessions by IP address. The sum may be less than all."""


def hour(moment: int, now: int) -> int:
    """Return the first millisecond of the hour of a moment. One of the hours ends with ``now``."""
    return moment - (moment - 1 - now) % HOUR


def count_active(moments: Collection[int], now: int) -> tuple[int, ...]:
    """Return how many moments are within each of the periods in `ACTIVE_WITHIN`."""
    return tuple(sum(each > now - period for each in moments) for period in ACTIVE_WITHIN)


def summarize(records: Collection[Record], now: int, *, is_whole: bool) -> Summary:
    """Return the counts of some records, which are not tombstones."""
    live = [each for each in records if each.is_live(now)]
    agents = Counter(each.user_agent for each in live)
    ips = Counter(each.ip for each in live)
    sessions, latest = Counter[str](), dict[str, int]()
    for each in live:
        if each.user_id is not None:
            sessions[each.user_id] += 1
            latest[each.user_id] = max(latest.get(each.user_id, 0), each.last_activity)
    return Summary(
        is_whole=is_whole,
        live=len(live),
        logged_in=sum(each.user_id is not None for each in live),
        expired=len(records) - len(live),
        created=Counter(hour(each.created, now) for each in live),
        expires=Counter(hour(each.expires, now) for each in records),
        active=count_active([each.last_activity for each in live], now),
        users=Counter(sessions.values()),
        active_users=count_active(latest.values(), now),
        user_agents=dict(agents.most_common(MAX_CLIENTS)),
        ips=dict(ips.most_common(MAX_CLIENTS)),
    )
