"""A list of live sessions does not read those that have expired and that no purge has removed."""

import json
from typing import Any
from unittest import mock

import pytest
from django.db import connections
from django.test.utils import CaptureQueriesContext
from redis import Redis as Client

from django_sessionstores.core.clock import now
from django_sessionstores.core.records import draw_key, session_id
from django_sessionstores.inventory import Inventory
from django_sessionstores.storages import limited
from django_sessionstores.storages.files import storage as files
from django_sessionstores.storages.redis import index
from django_sessionstores.testing import HOUR, observed
from tests.services import Redis, shared_service
from tests.sessions.test_lifetimes import limits
from tests.sessions.test_limits import log_in
from tests.storages.records import make_record

LIVE, EXPIRED = 3, 40


def store(engine: Any, number: int, expires: int, first: str = "") -> set[str]:
    """Store sessions of a user, whose ids begin with ``first``; return the ids."""
    drawn = [session_id(draw_key()) for _ in range(number)]
    storage, ids = engine.storage, {first + each[len(first) :] for each in drawn}
    for each in ids:
        record = make_record(
            each, user_id="1", created=expires - HOUR, expires=expires, site=storage.sites()[0]
        )
        storage.create(record, expires - HOUR)
    return ids


def after_two_hours_of_the_day() -> int:
    """Return the time, or two o'clock if it is earlier: what expired two hours before has expired
    now, and on the same day, which is all that the index of users in Redis has."""
    return max(now(), now() // (24 * HOUR) * (24 * HOUR) + 2 * HOUR)


def store_both(engine: Any) -> tuple[int, set[str]]:
    """Store sessions that have expired and live ones; return the moment and the live ones' ids."""
    moment = after_two_hours_of_the_day()
    store(engine, EXPIRED, moment - 2 * HOUR)
    return moment, store(engine, LIVE, moment + HOUR)


everywhere = pytest.mark.engines(
    *("db:sqlite", "db:postgresql", "db:mariadb", "cookie:sqlite", "cache:django-redis", "file"),
    "cache:database-cache",
)


@everywhere
@pytest.mark.parametrize("user_id", ["1", None])
def test_a_list_leaves_out_what_has_expired(engine: Any, user_id: str | None) -> None:
    moment, live = store_both(engine)
    page = engine.storage.scan("", LIVE, user_id, moment)
    assert ({each.id for each in page.records}, page.next) == (live, "")
    assert engine.storage.count(moment, user_id) == LIVE
    found, cursor = [], ""
    for _ in range(LIVE):
        page = engine.storage.scan(cursor, 1, user_id, moment)
        found += [each.id for each in page.records]
        cursor = page.next
    assert (sorted(found), cursor) == (sorted(live), "")


@everywhere
def test_lists_and_logins_ask_once(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "_PAGE", LIVE)
    _, live = store_both(engine)
    with observed(engine.storage) as calls:
        assert {each.id for each in Inventory().list(user="1", limit=LIVE).sessions} == live
    assert calls == ["scan"]
    with limits(MAX_SESSIONS=LIVE), observed(engine.storage) as calls:
        log_in(engine, 0)
    assert calls.count("scan") == 1
    assert Inventory().count(user="1") == LIVE


@pytest.mark.engines("db:sqlite", "db:postgresql", "db:mariadb")
def test_a_database_reads_only_the_rows_of_live_sessions(engine: Any) -> None:
    moment, _ = store_both(engine)
    store(engine, 200, moment - 2 * HOUR)
    connection = connections[engine.database]
    with CaptureQueriesContext(connection) as queries:
        engine.storage.scan("", 100, "1", moment)
    (asked,) = [each["sql"] for each in queries]
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {asked}")
            assert "(user_id=? AND expires>?)" in str(cursor.fetchall())
        elif connection.vendor == "postgresql":
            cursor.execute("SET enable_seqscan = off")
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {asked}")
            plan = json.dumps(cursor.fetchall())
            cursor.execute("RESET enable_seqscan")
            # The table is so small that the index of expiries may do as well as that of users.
            assert '"Index Name"' in plan
            assert '"Rows Removed by Filter": 0' in plan
        else:
            cursor.execute("ANALYZE TABLE django_sessionstores_storedsession")
            cursor.execute("FLUSH STATUS")
            engine.storage.scan("", 100, "1", moment)
            cursor.execute("SHOW SESSION STATUS LIKE 'Handler_read_%'")
            read = {name: int(value) for name, value in cursor.fetchall()}
            assert sum(read.values()) < 4 * LIVE


@pytest.mark.engines("cache:django-redis")
def test_redis_reads_only_the_records_of_live_sessions(engine: Any) -> None:
    """The index of users has the day of the expiry only. So each session that has expired long ago
    is looked at once."""
    moment, _ = store_both(engine)
    engine.storage.reindex()
    server = Client(port=shared_service(Redis).port)
    for user_id, looks in (("1", LIVE + EXPIRED), ("1", LIVE), (None, LIVE)):
        server.config_resetstat()
        engine.storage.scan("", 100, user_id, moment)
        assert server.info("commandstats")["cmdstat_getrange"]["calls"] == looks


@pytest.mark.engines("cache:django-redis")
def test_redis_looks_at_so_many_members_in_one_call(engine: Any) -> None:
    """A script keeps other clients waiting, so the rest is left to the next call."""
    moment = after_two_hours_of_the_day()
    store(engine, EXPIRED, moment - 2 * HOUR, "0")
    live = store(engine, LIVE, moment + HOUR, "f")
    with mock.patch.object(index, "_MOST_LOOKS", 5):
        page = engine.storage.scan("", LIVE, "1", moment)
        assert page.records == []
        assert page.next
        assert {each.id for each in Inventory().list(user="1").sessions} == live


@pytest.mark.engines("file")
def test_files_of_expired_sessions_are_not_opened(engine: Any) -> None:
    store_both(engine)
    engine.storage.reindex()
    opened = mock.Mock(wraps=files.read_list_entry)
    with mock.patch.object(files, "read_list_entry", opened):
        assert Inventory().count(user="1") == LIVE
        assert len(Inventory().list(user="1").sessions) == LIVE
    assert opened.call_count == 2 * LIVE
