"""Ending, evicting and purging many sessions in one call."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import override_settings

from django_sessionstores.conf import NAME
from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Record, draw_key, session_id
from django_sessionstores.inventory import Inventory
from django_sessionstores.testing import DAY, HOUR, at
from tests.benchmark.at_scale import BATCH, Figure, store

LIMIT = 3
_USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def figures(engine: Any, number: int) -> Iterator[Figure]:
    """Yield each figure when it is known: of ending ``number`` sessions of a user, of logins over
    the limit for a user with twice as many, and of purging ten times as many of twenty times as
    many."""
    engine.empty()
    user = get_user_model()._default_manager.create(username=f"bot-{draw_key()[:6]}")
    _fill(engine, number, str(user.pk))
    ended: list[int] = []
    took = _seconds(lambda: ended.append(Inventory().end_all(user)))
    assert ended == [number]
    yield Figure(f"end {number:,} sessions of a user", took * 1000, "ms")

    _fill(engine, 2 * number, str(user.pk))
    with override_settings(**{NAME: {**_options(), "MAX_SESSIONS": LIMIT}}):
        times: list[float] = []
        while not times or Inventory().count(user=user) > LIMIT:
            times.append(_seconds(lambda: _log_in(engine, user)) * 1000)
    yield Figure(f"first login over the limit, of {2 * number:,}", times[0], "ms")
    yield Figure("longest login until the limit is kept", max(times), "ms")
    yield Figure("logins until the limit is kept", len(times), "")
    engine.empty()

    if engine.name in {"file", "db"}:
        _fill(engine, 20 * number, "0", lifetimes=(HOUR, DAY))
        with at(now() + 2 * HOUR):
            took = _seconds(lambda: ended.append(Inventory().purge()))
        assert ended[-1] == 10 * number
        yield Figure(f"purge {10 * number:,} of {20 * number:,} sessions", took * 1000, "ms")
        engine.empty()


def _options() -> dict[str, Any]:
    from django.conf import settings

    return dict(getattr(settings, NAME, {}))


def _log_in(engine: Any, user: Any) -> None:
    session = engine.SessionStore()
    session.update(
        {"_auth_user_id": str(user.pk), "_auth_user_backend": "b", "_auth_user_hash": "h"}
    )
    session.save()


def _fill(engine: Any, number: int, user_id: str, lifetimes: tuple[int, ...] = (DAY,)) -> None:
    moment = now()
    records = [
        Record(
            id=session_id(draw_key()),
            payload=bytes(range(256)),
            user_id=user_id,
            created=moment - HOUR + n,
            last_activity=moment - HOUR + n,
            expires=moment + lifetimes[n % len(lifetimes)] + n,
            ip="192.0.2.1",
            user_agent=_USER_AGENT,
        )
        for n in range(number)
    ]
    # One commit, where a database is behind the engine: filling is not what is measured.
    is_in_database = engine.case.database is not None
    with transaction.atomic(using=engine.database) if is_in_database else nullcontext():
        for start in range(0, len(records), BATCH):
            store(engine, records[start : start + BATCH])
    Inventory().reindex()  # On a site that runs, it is there.


def _seconds(do: Callable[[], object]) -> float:
    started = time.perf_counter()
    do()
    return time.perf_counter() - started
