"""Neither a touch nor an ending of other sessions waits for the transaction of another request."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connections
from django.test import Client, override_settings

from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages.sql.free_rows import if_free
from django_sessionstores.testing import HOUR, at, now, observed
from tests import cases
from tests.services import wait_until
from tests.sessions.test_activity import OURS
from tests.sessions.test_lifetimes import limits
from tests.storages.sql.rows import IDS, change, opened, other_cursor, record

SERVERS = (cases.POSTGRESQL, cases.MARIADB)
SITES = [
    cases.Case("db", database=cases.SQLITE),
    cases.Case("db", database=cases.POSTGRESQL),
    cases.Case("db", database=cases.MARIADB),
    cases.Case("cache", cases.DATABASE_CACHE),
    cases.Case("cache", cases.DATABASE_CACHE, cases.POSTGRESQL),
    cases.Case("cache", cases.DATABASE_CACHE, cases.MARIADB),
]


on_sqlite, on_servers = (
    pytest.mark.parametrize(
        "site",
        [each for each in SITES if (each.database in SERVERS) == is_server],
        ids=lambda each: each.id,
        indirect=True,
    )
    for is_server in (False, True)
)


@pytest.fixture(params=SITES, ids=lambda each: each.id)
def site(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any
) -> Iterator[cases.Engine]:
    with django_db_blocker.unblock(), opened(request.param) as engine:
        yield engine


@contextmanager
def locked(site: cases.Engine, *session_ids: str) -> Iterator[None]:
    """Run with the rows of sessions written by a transaction that is still open."""
    is_sqlite = connections[site.database].vendor == "sqlite"
    with other_cursor(site) as cursor:
        cursor.execute("BEGIN")
        if is_sqlite:  # Which has no function for the interval of the other databases.
            cursor.execute("UPDATE django_sessionstores_storedsession SET expires = expires")
        else:
            change(site, cursor, *session_ids)
        try:
            yield
        finally:
            cursor.execute("ROLLBACK")


@pytest.mark.parametrize("later", [0, HOUR], ids=["activity", "expiry"])
def test_a_touch_leaves_out_a_locked_row(site: cases.Engine, later: int) -> None:
    """Without that, the touch waits until the limit of the database, and raises its error."""
    site.storage.create(record(), moment := now())
    base = site.storage.read(IDS[0])
    times = (base.expires + later, moment + 1, moment)
    with locked(site, IDS[0]), limits(DATABASE_TIMEOUT=2):
        assert site.storage.touch(base, *times) is False
    assert site.storage.touch(base, *times) is True
    assert site.storage.read(IDS[0]).last_activity == moment + 1


@on_servers
def test_a_touch_does_not_mind_other_rows(site: cases.Engine) -> None:
    """The row is found by its key: no other is locked, or waited for."""
    for each in IDS:
        site.storage.create(record(each), moment := now())
    base = site.storage.read(IDS[3])
    with locked(site, *IDS[:3], *IDS[4:]), limits(DATABASE_TIMEOUT=2):
        assert site.storage.touch(base, base.expires, moment + 1, moment) is True


@pytest.mark.parametrize("idle", [0, 86_400], ids=["activity", "idle-timeout"])
@pytest.mark.parametrize("prefix", ["/", "/async/"], ids=["sync", "async"])
def test_a_read_is_answered_beside_a_transaction(
    site: cases.Engine, prefix: str, idle: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is logged, the browser keeps its cookie, and the next read tries again."""
    caplog.set_level(logging.INFO)
    middleware = [OURS, *django_settings.MIDDLEWARE[1:]]
    with limits(IDLE_TIMEOUT=idle, DATABASE_TIMEOUT=2), override_settings(MIDDLEWARE=middleware):
        browser, moment = Client(), now()
        with at(moment):
            browser.get(f"{prefix}write/x/1/")
        cookie = browser.cookies[django_settings.SESSION_COOKIE_NAME].value
        (session_id,) = (each.id for each in site.storage.scan("", 9, None).records)
        with at(moment + 2 * HOUR):
            with locked(site, session_id), observed(site.storage) as calls:
                answer = browser.get(f"{prefix}read/")
            assert (answer.status_code, answer.json()) == (200, {"x": "1"})
            assert calls[:2] == ["read", "touch"]
            assert site.storage.read(session_id).last_activity == moment
            assert browser.get(f"{prefix}read/").json() == {"x": "1"}
        assert site.storage.read(session_id).last_activity == moment + 2 * HOUR
        assert browser.cookies[django_settings.SESSION_COOKIE_NAME].value == cookie
    assert caplog.messages == []


@on_sqlite
def test_sqlite_waits_again_after_a_touch(site: cases.Engine) -> None:
    """Other statements of the connection wait for their turn as the project has set it."""
    connection = connections[site.database]
    site.storage.create(record(), moment := now())
    base = site.storage.read(IDS[0])
    for _ in range(2):
        site.storage.touch(base, base.expires, moment + 1, moment)
        assert connection.connection.execute("PRAGMA busy_timeout").fetchone() == (30_000,)
    with locked(site, IDS[0]):
        site.storage.touch(base, base.expires, moment + 1, moment)
    assert connection.connection.execute("PRAGMA busy_timeout").fetchone() == (30_000,)


def test_a_server_that_cannot_skip_locked_rows(
    site: cases.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits, as it did before. So does a database of which nothing is known."""
    connection = connections[site.database]
    site.storage.create(record(), moment := now())
    base = site.storage.read(IDS[0])
    monkeypatch.setitem(vars(connection.features), "has_select_for_update_skip_locked", False)
    assert site.storage.touch(base, base.expires, moment + 1, moment) is True
    monkeypatch.setattr(connection, "vendor", "another")
    assert if_free(connection, "t", "id", "id = %s") == "WHERE id = %s"


@on_servers
def test_a_locked_row_does_not_hold_up_others_that_end(site: cases.Engine) -> None:
    """The others end, and the next call tells that the locked one could not be ended."""
    for each in IDS:
        site.storage.create(record(each), now())
    with locked(site, IDS[3]), limits(DATABASE_TIMEOUT=1):
        assert sorted(site.storage.end_many(IDS)) == [*IDS[:3], *IDS[4:]]
        with pytest.raises(StorageUnavailable):
            site.storage.end_many(IDS)
    site.storage.delete(IDS[3])


@on_servers
def test_an_ending_that_gives_up_leaves_other_rows_free(site: cases.Engine) -> None:
    """The server goes on waiting for a statement after its client has left."""
    for each in IDS[:9]:
        site.storage.create(record(each), moment := now())
    with locked(site, *IDS[:2]), limits(DATABASE_TIMEOUT=1):
        with pytest.raises(StorageUnavailable):
            site.storage.end_many(IDS[:2])
        with locked(site, *IDS[2:4]):
            assert sorted(site.storage.end_many(IDS[:9])) == IDS[4:9]
        for each in IDS[2:4]:
            base = site.storage.read(each)
            assert site.storage.touch(base, base.expires, moment + 1, moment) is True


@on_servers
def test_an_ending_waits_for_a_transaction_that_ends_in_time(site: cases.Engine) -> None:
    """A session that is written at the moment must end as well."""
    for each in IDS[:9]:
        site.storage.create(record(each), now())
    ended: list[str] = []
    with ThreadPoolExecutor(1) as pool, other_cursor(site) as cursor:
        cursor.execute("BEGIN")
        change(site, cursor, *IDS[3:6])

        def end() -> None:
            try:
                ended.extend(site.storage.end_many(IDS[:9]))
            finally:
                connections[site.database].close()

        ending = pool.submit(end)
        wait_until(lambda: len(site.storage.scan("", 99, None).records) == 3, "the others end")
        cursor.execute("COMMIT")
        ending.result()
    assert sorted(ended) == IDS[:9]
    assert not site.storage.scan("", 99, None).records
