"""Sessions that begin and end are counted by the hour, and no request waits for it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from django.core.management import call_command
from django.core.signals import request_finished
from django.db import DatabaseError, connections, router
from django.test import AsyncClient, Client, override_settings
from django.test.utils import CaptureQueriesContext

from django_sessionstores.core.clock import now
from django_sessionstores.inventory import Inventory
from django_sessionstores.models import SessionStatistics
from django_sessionstores.operations import overview, statistics
from django_sessionstores.testing import DAY, HOUR, at, in_threads
from tests import ROOT, cases
from tests.admin import conftest as admin_fixtures
from tests.admin.pages import PAGES, text
from tests.sessions.test_lifetimes import limits

DATABASES = pytest.mark.engines("db:sqlite", "db:postgresql", "db:mariadb")
ONE = pytest.mark.engines("db:sqlite")

# Fixtures.
site, root, client = admin_fixtures.site, admin_fixtures.root, admin_fixtures.client


@pytest.fixture(autouse=True)
def counting(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[statistics.Statistics]:
    """Yield the statistics of a process that has just started, in the database of the case."""
    fresh = statistics.Statistics()
    monkeypatch.setattr(statistics, "statistics", fresh)
    monkeypatch.setattr(statistics.signals, "observers", [fresh.note])
    monkeypatch.setattr(statistics, "INTERVAL", 0.0)
    router = mock.Mock(db_for_write=lambda model: engine.database)
    router.db_for_read = router.db_for_write
    monkeypatch.setattr(statistics, "router", router)
    rows(engine).delete()
    with limits(STATISTICS=True):
        yield fresh
    rows(engine).delete()


EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def rows(engine: Any) -> Any:
    return SessionStatistics._base_manager.using(engine.database).all()


def numbers(engine: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for reason, number in rows(engine).values_list("reason", "number"):
        found[reason or "created"] = found.get(reason or "created", 0) + number
    return found


def begin(engine: Any) -> Any:
    session = engine.SessionStore()
    session["x"] = 1
    session.save()
    return session


# Counting -----------------------------------------------------------------------------------------


@DATABASES
def test_what_is_counted(engine: Any, counting: statistics.Statistics) -> None:
    """Beginnings, and ends by their reason, in the hour in which they were."""
    begin(engine).flush()
    Inventory().end(begin(engine).session_id)
    moment = now() + 2 * HOUR
    with at(moment):
        begin(engine)
    counting.flush()
    assert numbers(engine) == {"created": 3, "logout": 1, "revoked": 1}
    assert set(rows(engine).filter(reason="").values_list("hour", "number")) == {
        (now() // HOUR, 2),
        (moment // HOUR, 1),
    }


class Replicated:
    """Sends writes of this app and of users to a primary, and reads to its replica."""

    aliases = ("primary", "replica")

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return (
            self.aliases[0] if model._meta.app_label in {"auth", "django_sessionstores"} else None
        )

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        return self.aliases[1] if self.db_for_write(model) else None


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("primary", ["default", "primary"])
def test_what_was_counted_is_read_from_a_replica(
    engine: Any,
    counting: statistics.Statistics,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    primary: str,
) -> None:
    """The marks of the rows are those of the database that is written."""
    entry = dict(connections.settings["default"])
    if primary != "default":
        entry["NAME"] = str(tmp_path / "primary.sqlite3")
    monkeypatch.setattr(statistics, "router", router)
    monkeypatch.setattr(Replicated, "aliases", (primary, "replica"))
    for alias in {primary, "replica"} - {"default"}:
        cases._add_database(alias, entry, migrate=alias == primary)
    try:
        with override_settings(DATABASE_ROUTERS=[Replicated()]):
            begin(engine)
            counting.flush(at_once=True)
            assert statistics.sums(EPOCH).created == 1
    finally:
        for alias in {primary, "replica"} - {"default"}:
            cases._remove_database(alias)


@DATABASES
def test_an_hour_has_one_row_whoever_counts(engine: Any, counting: statistics.Statistics) -> None:
    """Processes that begin it at the same moment, each with a number of its own."""
    others = [statistics.Statistics() for _ in range(8)]

    def count(mine: statistics.Statistics) -> None:
        for _ in range(10):
            mine.note(statistics.signals.session_created, object, {})
            mine.flush(at_once=True)

    in_threads([partial(count, mine) for mine in others])
    for mine in others:  # What a busy SQLite refused is not lost.
        mine.flush(at_once=True)
    assert list(rows(engine).values_list("reason", "number")) == [("", 80)]


@ONE
def test_threads_lose_nothing(engine: Any, counting: statistics.Statistics) -> None:
    def count() -> None:
        for _ in range(500):
            counting.note(statistics.signals.session_created, object, {})

    in_threads([count] * 16)
    counting.flush()
    assert numbers(engine) == {"created": 8000}


@ONE
def test_nothing_is_counted_where_it_is_off(engine: Any, counting: statistics.Statistics) -> None:
    with limits(STATISTICS=False):
        begin(engine).flush()
        counting.flush()
    assert numbers(engine) == {}


@ONE
def test_old_hours_go(engine: Any, counting: statistics.Statistics) -> None:
    """The table must not grow for ever."""
    for days in (40, 30, 0):
        with at(now() - days * DAY):
            counting.note(statistics.signals.session_created, object, {})
            counting.flush()
    assert numbers(engine) == {"created": 2}


# Requests -----------------------------------------------------------------------------------------


@ONE
@pytest.mark.parametrize("awaited", [False, True], ids=["wsgi", "asgi"])
def test_requests_store_what_was_counted_now_and_then(
    engine: Any, counting: statistics.Statistics, monkeypatch: pytest.MonkeyPatch, awaited: bool
) -> None:
    """This happens after the response. Requests within the interval do not query the table."""
    monkeypatch.setattr(statistics, "INTERVAL", 3600.0)

    def get() -> None:
        if awaited:
            asyncio.run(_aget())
        else:
            assert Client().get("/write/x/1/").status_code == 200

    async def _aget() -> None:
        assert (await AsyncClient().get("/async/write/x/1/")).status_code == 200

    with mock.patch.object(counting, "_store", side_effect=counting._store) as store:
        get()
        assert numbers(engine) == {"created": 1}
        get()
        assert numbers(engine) == {"created": 1}
        assert store.call_count == 1
    counting.flush(at_once=True)
    assert numbers(engine) == {"created": 2}


@ONE
def test_a_request_without_events_asks_for_nothing(engine: Any) -> None:
    begin(engine)
    request_finished.send(None)
    with CaptureQueriesContext(connections[engine.database]) as queries:
        request_finished.send(None)
    assert len(queries) == 0


@ONE
def test_a_database_that_is_unreachable_fails_no_request(
    engine: Any, counting: statistics.Statistics, caplog: pytest.LogCaptureFixture
) -> None:
    """One line in the log, and the numbers are stored when it is back."""
    store = counting._store
    with mock.patch.object(counting, "_store", side_effect=DatabaseError("away")):
        for _ in range(3):
            begin(engine)
            request_finished.send(None)
    assert [each.getMessage() for each in caplog.records if each.name.startswith("django_s")] == [
        "Sessions are counted, but not stored for now: away"
    ]
    assert counting._store == store
    request_finished.send(None)
    assert numbers(engine) == {"created": 3}


@ONE
def test_what_waits_for_the_database_is_bounded(counting: statistics.Statistics) -> None:
    with mock.patch.object(counting, "_store", side_effect=DatabaseError("away")):
        for hour in range(statistics._MAX_WAITING + 50):
            with at(now() + hour * HOUR):
                counting.note(statistics.signals.session_created, object, {})
            counting.flush()
    assert len(counting._waiting) == statistics._MAX_WAITING
    assert min(counting._waiting)[0] == now() // HOUR + 50  # The oldest went.


SCRIPT = """
import os, sys
import django
from django.conf import settings
from tests import settings as tested

settings.configure(
    **{
        **{name: getattr(tested, name) for name in dir(tested) if name.isupper()},
        "DATABASES": {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
        "SESSION_ENGINE": "django_sessionstores.backends.memory",
        "SESSIONSTORES": {"STATISTICS": True},
    }
)
django.setup()
from django.core.management import call_command
from django_sessionstores.backends.memory import SessionStore

call_command("migrate", verbosity=0)
for _ in range(3):
    session = SessionStore()
    session["x"] = 1
    session.save()
if os.fork() == 0:
    session = SessionStore()
    session["x"] = 1
    session.save()
    sys.exit()
os.wait()
"""


@ONE
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_ends_stores_its_counts_and_no_others(tmp_path: Path) -> None:
    """A server that is restarted, whose workers were forked after the first counts."""
    database = tmp_path / "database"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(database)],
        check=True,
        timeout=120,
        cwd=ROOT,
    )
    connection = connections.create_connection("default")
    connection.settings_dict = {**connection.settings_dict, "NAME": str(database)}
    with connection.cursor() as cursor:
        cursor.execute("SELECT number FROM django_sessionstores_sessionstatistics")
        assert cursor.fetchall() == [(4,)]
    connection.close()


# Showing ------------------------------------------------------------------------------------------

NOON = datetime(2026, 6, 15, 12, 30, tzinfo=UTC)


def add(engine: Any, moment: datetime, reason: str, number: int) -> None:
    hour = int(moment.timestamp()) // 3600
    rows(engine).create(hour=hour, reason=reason, number=number)


@ONE
def test_history(engine: Any) -> None:
    """Each hour in its column, the one that is not over in the last; on one scale."""
    for ago, reason, number in (
        (timedelta(0), statistics.CREATED, 5),
        (timedelta(hours=1), statistics.CREATED, 10),
        (timedelta(hours=23), "logout", 3),
        (timedelta(hours=24), "revoked", 2),
        (timedelta(days=29), "revoked", 4),
        (timedelta(days=40), "expired", 99),
    ):
        add(engine, NOON - ago, reason, number)
    history = overview.history(NOON)
    assert history is not None
    day, month = history.day, history.month
    assert [column.number for column in day.created.columns] == [0] * 22 + [10, 5]
    assert [column.number for column in day.ended.columns] == [3] + [0] * 23
    assert day.created.columns[-1].end == NOON.replace(hour=13, minute=0)
    assert day.created.most == day.ended.most == 10
    assert [column.number for column in month.created.columns] == [0] * 29 + [15]
    assert [column.number for column in month.ended.columns] == [4] + [0] * 27 + [2, 3]
    assert [(row.label, row.number) for row in history.reasons] == [
        ("ended by the staff or the user", 6),
        ("logged out", 3),
    ]


@ONE
def test_each_reason_has_words(engine: Any) -> None:
    for reason in statistics.signals.END_REASONS:
        assert overview.reason_in_words(reason) != reason or reason == "expired"
        assert len(reason) <= SessionStatistics.REASON_LENGTH


@ONE
def test_the_page(engine: Any, site: Any, client: Client) -> None:
    """One query more, however much was counted; a line that says how, where it is off."""
    url = f"{PAGES}overview/"
    client.get(url)
    with limits(STATISTICS=False), CaptureQueriesContext(connections[engine.database]) as before:
        assert "STATISTICS" in text(client.get(url))
    moment = datetime.fromtimestamp(now() // 1000, UTC)
    for hours in range(0, 700, 7):
        add(engine, moment - timedelta(hours=hours), "logout", 1)
    with CaptureQueriesContext(connections[engine.database]) as queries:
        page = text(client.get(url))
    assert len(queries) == len(before) + 1
    assert "Ended in the last 24 hours" in page
    assert "logged out" in page
    assert "STATISTICS" not in page


@ONE
def test_the_page_without_its_table(engine: Any, site: Any, client: Client) -> None:
    """The rest of the page is of use."""
    with mock.patch.object(statistics, "history", side_effect=DatabaseError("no such table")):
        page = text(client.get(f"{PAGES}overview/"))
    assert "no such table" in page
    assert "Store and policy" in page


@ONE
def test_stats(engine: Any, counting: statistics.Statistics) -> None:
    begin(engine).flush()
    begin(engine)
    counting.flush()
    add(engine, datetime.fromtimestamp(now() // 1000, UTC) - timedelta(hours=24), "expired", 7)
    output = StringIO()
    call_command("sessions", "stats", stdout=output)
    assert output.getvalue().splitlines()[-3:] == [
        "Created, 24 hours    2",
        "Ended, 24 hours      1",
        "  logout             1",
    ]
    output = StringIO()
    call_command("sessions", "stats", "--json", stdout=output)
    found = json.loads(output.getvalue())
    assert found["last_day"] == {"created": 2, "ended": {"logout": 1}}
