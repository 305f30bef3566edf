"""A statement that loses a race is tried again in autocommit, and a conflict in a transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connections, transaction
from django.db.transaction import TransactionManagementError
from django.test import override_settings

from django_sessionstores.core.records import Record, State, make_tombstone, session_id
from django_sessionstores.exceptions import SessionConflict, StorageUnavailable
from django_sessionstores.sessions import SessionStore
from django_sessionstores.storages.base import Conflict
from django_sessionstores.testing import now, successor
from tests import cases
from tests.services import wait_until
from tests.storages.records import HOUR
from tests.storages.sql.rows import IDS, change, opened, other_cursor, record, table

POSTGRESQL = [
    cases.Case("db", database=cases.POSTGRESQL),
    cases.Case("cache", cases.DATABASE_CACHE, cases.POSTGRESQL),
]
MARIADB = [
    cases.Case("db", database=cases.MARIADB),
    cases.Case("cache", cases.DATABASE_CACHE, cases.MARIADB),
]
on_postgresql = pytest.mark.parametrize("site", POSTGRESQL, ids=lambda each: each.id, indirect=True)
on_mariadb = pytest.mark.parametrize("site", MARIADB, ids=lambda each: each.id, indirect=True)
on_both = pytest.mark.parametrize(
    "site", POSTGRESQL + MARIADB, ids=lambda each: each.id, indirect=True
)
strictly = pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])


@pytest.fixture
def site(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any
) -> Iterator[cases.Engine]:
    with django_db_blocker.unblock(), opened(request.param) as engine:
        yield engine


def execute(site: cases.Engine, sql: str) -> None:
    with connections[site.database].cursor() as cursor:
        cursor.execute(sql)


Operation = Callable[[Any, Record], object]

OPERATIONS: dict[str, Operation] = {
    "update": lambda storage, base: storage.update(successor(base), base, now()),
    "touch": lambda storage, base: storage.touch(base, base.expires + HOUR, now(), now()),
    "delete": lambda storage, base: storage.delete(base.id),
    "rotate": lambda storage, base: storage.rotate(
        record(session_id("a new key")),
        base,
        make_tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60),
        now(),
    ),
}
on_operations = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
WAITING = {name: each for name, each in OPERATIONS.items() if name != "touch"}
on_operations_that_wait = pytest.mark.parametrize("operation", WAITING.values(), ids=WAITING)


@on_postgresql
@strictly
@on_operations
def test_a_lost_race_in_the_callers_transaction_is_a_conflict(
    site: cases.Engine, level: str, operation: Operation
) -> None:
    """If it were an outage, the response would be a 503 and operators would search the database for
    a fault."""
    site.storage.create(record(), now())
    with transaction.atomic(using=site.database), other_cursor(site) as cursor:
        execute(site, f"SET TRANSACTION ISOLATION LEVEL {level}")
        base = site.storage.read(IDS[0])
        change(site, cursor, IDS[0])
        with pytest.raises(SessionConflict, match=r"transaction\.atomic") as caught:
            operation(site.storage, base)
        transaction.set_rollback(True, using=site.database)
    assert isinstance(caught.value.__cause__, DatabaseError)
    assert site.storage.read(IDS[0]).is_live(now())


@on_postgresql
def test_a_lost_race_without_autocommit_is_a_conflict(site: cases.Engine) -> None:
    """There is no atomic(), and still the transaction is the caller's."""
    site.storage.create(record(), now())
    transaction.set_autocommit(False, using=site.database)
    try:
        with other_cursor(site) as cursor:
            execute(site, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            base = site.storage.read(IDS[0])
            change(site, cursor, IDS[0])
            with pytest.raises(SessionConflict):
                OPERATIONS["update"](site.storage, base)
    finally:
        transaction.rollback(using=site.database)
        transaction.set_autocommit(True, using=site.database)


def _waiting(site: cases.Engine) -> bool:
    """Return whether a statement waits for a lock."""
    sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    if connections[site.database].vendor == "mysql":
        sql = "SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    with other_cursor(site) as cursor:
        cursor.execute(sql)
        return bool(cursor.fetchone()[0])


@contextmanager
def about_to_deadlock(site: cases.Engine) -> Iterator[Record]:
    """Run a transaction that deadlocks if it writes the record that is yielded.

    Another transaction has written all rows except the last, which it now waits for, because the
    caller's transaction has written that one. The caller's is the one that loses: it has done
    less, and on PostgreSQL it is the first to look.
    """
    for each in IDS:
        site.storage.create(record(each), now())
    with (
        transaction.atomic(using=site.database),
        ThreadPoolExecutor(1) as pool,
        other_cursor(site) as cursor,
    ):
        base = site.storage.read(IDS[0])
        mine = site.storage.read(IDS[-1])
        site.storage.update(successor(mine), mine, now())
        if connections[site.database].vendor == "postgresql":
            execute(site, "SET LOCAL deadlock_timeout = '50ms'")
            cursor.execute("SET deadlock_timeout = '1h'")
        cursor.execute("BEGIN")
        change(site, cursor, *IDS[:-1])
        waits = pool.submit(change, site, cursor, IDS[-1])
        wait_until(lambda: _waiting(site), "the other transaction waits", 20)
        try:
            yield base
        finally:
            transaction.set_rollback(True, using=site.database)
            execute_raw(site, "ROLLBACK")  # Or the other transaction waits on.
            waits.result(20)
            cursor.execute("ROLLBACK")


def execute_raw(site: cases.Engine, sql: str) -> None:
    """Past Django, which refuses statements in a transaction that is to be rolled back."""
    driver = connections[site.database].connection.cursor()
    driver.execute(sql)
    driver.close()


@on_both
@on_operations_that_wait
def test_a_deadlock_in_the_callers_transaction_is_a_conflict(
    site: cases.Engine, operation: Operation
) -> None:
    """The database ends one of the two transactions, at any isolation level."""
    with about_to_deadlock(site) as base, pytest.raises(SessionConflict):
        operation(site.storage, base)
    assert site.storage.read(IDS[0]).is_live(now())


@on_both
def test_whoever_catches_the_conflict_cannot_go_on(site: cases.Engine) -> None:
    """MySQL has undone what was written before. What comes after it would be stored alone."""
    with about_to_deadlock(site) as base:
        with pytest.raises(SessionConflict):
            OPERATIONS["update"](site.storage, base)
        with pytest.raises(TransactionManagementError):
            site.storage.create(record(session_id("another")), now())
    assert site.storage.read(IDS[-1]).version == 1


@on_postgresql
@strictly
@on_operations_that_wait
def test_a_lost_race_in_autocommit_is_tried_again(
    site: cases.Engine, level: str, operation: Operation
) -> None:
    """Two requests at the same time are merged, and none of them is answered with 503."""
    site.storage.create(record(), now())
    base = site.storage.read(IDS[0])

    def operate() -> object:
        with closing(connections[site.database]):
            execute(site, f"SET default_transaction_isolation = '{level.lower()}'")
            return operation(site.storage, base)

    with ThreadPoolExecutor(1) as pool, other_cursor(site) as cursor:
        cursor.execute("BEGIN")
        change(site, cursor, IDS[0])
        done = pool.submit(operate)
        wait_until(lambda: _waiting(site), "the statement waits for the row", 20)
        cursor.execute("COMMIT")
        assert not isinstance(done.result(20), Conflict)


@on_postgresql
@strictly
def test_a_session_that_is_saved_in_a_transaction(site: cases.Engine, level: str) -> None:
    """A view that saves the session itself gets ``SessionConflict``, and can try again."""
    session: SessionStore = site.SessionStore()
    session["x"] = 1
    session.save()
    mine = site.SessionStore(session.session_key)
    with transaction.atomic(using=site.database):
        execute(site, f"SET TRANSACTION ISOLATION LEVEL {level}")
        assert mine["x"] == 1
        with ThreadPoolExecutor(1) as pool:
            pool.submit(_save_elsewhere, site, str(session.session_key)).result(20)
        mine["y"] = 2
        with pytest.raises(SessionConflict):
            mine.save()
        transaction.set_rollback(True, using=site.database)
    # Tried again, it merges as the first try would have.
    mine.save()
    assert dict(site.SessionStore(session.session_key).items()) == {"x": 1, "y": 2, "z": 3}


def _save_elsewhere(site: cases.Engine, key: str) -> None:
    with closing(connections[site.database]):
        theirs = site.SessionStore(key)
        theirs["z"] = 3
        theirs.save()


@pytest.mark.parametrize(
    "site",
    [cases.Case("db", database=cases.SQLITE), cases.Case("cache", cases.DATABASE_CACHE)],
    ids=lambda each: each.id,
    indirect=True,
)
def test_a_snapshot_of_sqlite_that_is_outdated(site: cases.Engine, tmp_path: Path) -> None:
    """A transaction that has read cannot write when another one has written since."""
    alias = "wal"
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db.sqlite3"}
    cases._add_database(alias, entry, migrate=True)
    try:
        call_command("createcachetable", database=alias, verbosity=0)
        with override_settings(DATABASE_ROUTERS=[cases.OneDatabase(alias)]):
            at_wal = cases.Engine(site.case, site.SessionStore, alias)
            execute(at_wal, "PRAGMA journal_mode=WAL")
            site.storage.create(record(), now())
            with transaction.atomic(using=alias), other_cursor(at_wal) as cursor:
                base = site.storage.read(IDS[0])
                cursor.execute(f"UPDATE {table(site)[0]} SET expires = expires")
                with pytest.raises(SessionConflict):
                    OPERATIONS["update"](site.storage, base)
                transaction.set_rollback(True, using=alias)
    finally:
        cases._remove_database(alias)


@on_both
def test_an_outage_stays_an_outage(site: cases.Engine) -> None:
    """This holds in a transaction, too."""
    site.storage.create(record(), now())
    outcome: list[Exception] = []

    def operate() -> None:
        with transaction.atomic(using=site.database):
            base = site.storage.read(IDS[0])
            end_connection(site)
            try:
                OPERATIONS["update"](site.storage, base)
            except Exception as error:
                outcome.append(error)
                raise

    with pytest.raises(Exception):  # noqa: B017, PT011 - as the rollback fails, too
        operate()
    assert [type(each) for each in outcome] == [StorageUnavailable]


def end_connection(site: cases.Engine) -> None:
    """Have the server end the connection."""
    connection = connections[site.database]
    is_mysql = connection.vendor == "mysql"
    with connection.cursor() as cursor:
        cursor.execute("SELECT CONNECTION_ID()" if is_mysql else "SELECT pg_backend_pid()")
        (number,) = cursor.fetchone()
    with other_cursor(site) as cursor:
        cursor.execute(f"KILL {number}" if is_mysql else f"SELECT pg_terminate_backend({number})")
