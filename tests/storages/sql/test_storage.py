"""What the ``db`` engine owes to SQL: its statements, their number, and what errors mean.

How every storage behaves is in the contract; here is what only a database can get wrong.
"""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import (
    DataError,
    IntegrityError,
    InternalError,
    OperationalError,
    close_old_connections,
    connections,
    transaction,
)
from django.db.transaction import TransactionManagementError
from django.test import modify_settings, override_settings
from django.test.utils import CaptureQueriesContext

from django_sessionstores.core.records import Record, State, draw_key, make_tombstone, session_id
from django_sessionstores.exceptions import (
    PayloadTooLarge,
    SessionConflict,
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.models import StoredSession
from django_sessionstores.storages.base import Conflict, Gone, Taken, Updated
from django_sessionstores.storages.sql import storage as database
from django_sessionstores.storages.sql import table_storage
from django_sessionstores.storages.sql.deadline import LimitedCursor
from django_sessionstores.storages.sql.rows import FIELDS, key_of
from tests.cases import Engine
from tests.services import MariaDB, PostgreSQL, wait_until

NOW = 1_800_000_000_000
LATER = NOW + 60_000
TABLE = "django_sessionstores_storedsession"

on_each = pytest.mark.engines("db")
on_sqlite = pytest.mark.engines("db:sqlite")
on_postgresql = pytest.mark.engines("db:postgresql")
on_mariadb = pytest.mark.engines("db:mariadb")
on_servers = pytest.mark.engines("db:postgresql", "db:mariadb")


def a_record(**fields: Any) -> Record:
    return Record(
        **{"id": session_id(draw_key()), "payload": b"encrypted", "expires": LATER} | fields
    )


def next_version(record: Record, **fields: Any) -> Record:
    return msgspec.structs.replace(record, version=record.version + 1, **fields)


def stored(engine: Engine, **fields: Any) -> Record:
    """Return a record that is in the database."""
    record = a_record(**fields)
    assert engine.storage.create(record, NOW) == Updated(record)
    return record


def tombstone_of(record: Record) -> Record:
    return make_tombstone(record.id, State.SUPERSEDED, now=NOW, seconds=60)


def execute(engine: Engine, sql: str, *parameters: Any) -> Any:
    """Return the first row that a statement of the test's own gives, if any."""
    with connections[engine.database].cursor() as cursor:
        cursor.execute(sql, parameters or None)
        return cursor.fetchone() if cursor.description else None


@contextmanager
def other_connection(engine: Engine) -> Iterator[Any]:
    """Yield a second connection to the same database, in the same thread."""
    other = connections[engine.database].copy()
    try:
        yield other
    finally:
        other.close()


@pytest.fixture
def own_connection(engine: Engine) -> Iterator[None]:
    """Close the connection after the test, so that its settings end with it."""
    yield
    connections[engine.database].close()


# Statements -----------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    "changed",
    [
        {"payload": b"other"},
        {"user_id": "7"},
        {"expires": LATER + 1},
        {"created": 5},
        {"last_activity": 6},
        {"ip": "::1"},
        {"user_agent": "browser"},
        {"state": State.SUPERSEDED},
        {"origin": "a0" * 20},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_an_update_stores_whatever_differs(engine: Engine, changed: dict[str, Any]) -> None:
    """Most saves have a shorter statement. A column that it leaves out must not be lost by it."""
    base = stored(engine)
    record = next_version(base, **changed)
    assert engine.storage.update(record, base, NOW) == Updated(record)
    assert engine.storage.read(base.id) == record


@on_sqlite
def test_a_save_does_not_take_back_a_touch(engine: Engine) -> None:
    """The expiry that a save leaves as it was may have been moved since it was read."""
    base = stored(engine)
    assert engine.storage.touch(base, LATER + 5_000, NOW, NOW)
    engine.storage.update(next_version(base, payload=b"other"), base, NOW)
    assert engine.storage.read(base.id).expires == LATER + 5_000


def test_the_columns_are_those_of_the_model() -> None:
    """The statements name columns without asking the model. One that was added to it and not to
    them would stay empty; a renamed one would break every request."""
    assert {field.column for field in StoredSession._meta.concrete_fields} == {*FIELDS}


def first_words(engine: Engine, action: Callable[[], object]) -> list[str]:
    """Return the statements of the action, BEGIN and COMMIT included, each by its first word."""
    with CaptureQueriesContext(connections[engine.database]) as captured:
        action()
    return [query["sql"].split()[0] for query in captured]


OPERATIONS: dict[str, tuple[Callable[[Any, Record], object], list[str]]] = {
    "read": (lambda storage, record: storage.read(record.id), ["SELECT"]),
    "create": (lambda storage, record: storage.create(a_record(), NOW), ["INSERT"]),
    "update": (
        lambda storage, record: storage.update(next_version(record), record, NOW),
        ["UPDATE"],
    ),
    "touch": (lambda storage, record: storage.touch(record, LATER + 1, NOW, NOW), ["UPDATE"]),
    "end_many": (lambda storage, record: storage.end_many([record.id]), ["DELETE"]),
    "delete": (lambda storage, record: storage.delete(record.id), ["DELETE"]),
    "purge": (lambda storage, record: storage.purge(LATER, 10), ["DELETE"]),
}


@on_each
@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each != "end_many"])
def test_an_operation_is_one_statement(engine: Engine, operation: str) -> None:
    """A transaction around a single statement costs two more round trips, a probe before it one.
    Both come back with one careless call of the ORM."""
    action, expected = OPERATIONS[operation]
    record = stored(engine)

    assert first_words(engine, lambda: action(engine.storage, record)) == expected


@on_each
def test_many_end_in_a_fixed_number_of_statements(engine: Engine) -> None:
    """One where DELETE leaves out locked rows. MariaDB locks the rows that are free before it
    deletes them. Only if sessions are left, it is asked which of them still live."""
    vendor = connections[engine.database].vendor
    expected = ["BEGIN", "SELECT", "DELETE", "COMMIT"] if vendor == "mysql" else ["DELETE"]

    def words_of_ending(ids: list[str]) -> list[str]:
        found = first_words(engine, lambda: ended.extend(engine.storage.end_many(ids)))
        return [each for each in found if each != "SET"]  # How autocommit is switched.

    ids, ended = [stored(engine).id for _ in range(500)], list[str]()
    assert (words_of_ending(ids), sorted(ended)) == (expected, sorted(ids))
    left = [] if vendor == "sqlite" else ["SELECT"]
    ids = [stored(engine).id, *(a_record().id for _ in range(499))]
    assert words_of_ending(ids) == [*expected, *left]
    # In the caller's transaction, rows stay locked until the caller commits in any case.
    ids = [stored(engine).id for _ in range(3)]
    with transaction.atomic(engine.database):
        assert first_words(engine, lambda: ended.extend(engine.storage.end_many(ids))) == ["DELETE"]
    assert set(ids) <= set(ended)


@pytest.fixture
def neither_returns_nor_skips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a database that cannot return deleted rows and cannot skip locked ones."""
    for name in ("returns_deleted", "skips_locked"):
        monkeypatch.setattr(table_storage, name, lambda connection: False)


@on_each
@pytest.mark.usefixtures("neither_returns_nor_skips")
def test_a_database_that_does_not_return_what_it_deletes_commits_once(engine: Engine) -> None:
    """On MySQL and Oracle, it is the commit that costs: many sessions end in one transaction."""
    ids = [stored(engine).id for _ in range(3)]
    ended: list[Any] = []
    words = first_words(engine, lambda: ended.extend(engine.storage.end_many(ids)))
    assert [word for word in words if word != "SET"] == ["BEGIN", *["DELETE"] * 3, "COMMIT"]
    assert sorted(ended) == sorted(ids)
    # In the caller's transaction there is no other.
    ids = [stored(engine).id for _ in range(3)]
    with transaction.atomic(engine.database):
        words = first_words(engine, lambda: engine.storage.end_many(ids))
    assert [word for word in words if word != "SET"] == ["DELETE"] * 3


@on_each
@pytest.mark.usefixtures("neither_returns_nor_skips")
def test_an_outage_among_many_that_end_tells_which_have_ended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What their transaction had done is rolled back. Those before the outage end by themselves."""
    ids = sorted(stored(engine).id for _ in range(3))
    delete = engine.storage.delete

    def failing(session_id: str) -> bool:
        if session_id == ids[1]:
            raise StorageUnavailable("away")
        return bool(delete(session_id))

    monkeypatch.setattr(engine.storage, "delete", failing)
    assert engine.storage.end_many(ids) == ids[:1]
    assert [bool(engine.storage.read(each)) for each in ids] == [False, True, True]


@on_each
@pytest.mark.usefixtures("neither_returns_nor_skips")
@pytest.mark.parametrize("error", [SessionConflict, StorageUnavailable])
def test_many_end_although_another_transaction_is_in_their_way(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """A deadlock or a locked database undoes the one transaction in which they would all end."""
    ids = sorted(stored(engine).id for _ in range(3))
    delete = engine.storage.delete

    def failing(session_id: str) -> bool:
        if session_id == ids[1] and engine.storage.in_transaction():
            raise error("another transaction")
        return bool(delete(session_id))

    monkeypatch.setattr(engine.storage, "delete", failing)
    assert engine.storage.end_many(ids) == ids
    assert not any(engine.storage.read(each) for each in ids)


@pytest.mark.engines("db:postgresql")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_a_request_waits_for_has_a_limit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """A single statement past the limit hangs the site with its server. A purge, which nobody
    waits for, takes its time: cut short, it would never get to the end of a large batch."""
    limited, enter = [], LimitedCursor.__enter__

    def noted(cursor: LimitedCursor) -> Any:
        limited.append(cursor)
        return enter(cursor)

    record = stored(engine)
    monkeypatch.setattr(LimitedCursor, "__enter__", noted)
    action, statements = OPERATIONS[operation]
    action(engine.storage, record)
    assert len(limited) == (0 if operation == "purge" else len(statements))


@on_each
def test_rotate_takes_no_more_than_two_statements(engine: Engine) -> None:
    """A login is the write that people wait for. One round trip on PostgreSQL, two on MariaDB; on
    SQLite, where the commit is the cost, one commit."""
    record = stored(engine)
    expected = {
        "postgresql": ["WITH"],
        "mysql": ["INSERT", "UPDATE"],
        "sqlite": ["BEGIN", "INSERT", "UPDATE", "COMMIT"],
    }

    words = first_words(
        engine, lambda: engine.storage.rotate(a_record(), record, tombstone_of(record), NOW)
    )

    assert words == expected[connections[engine.database].vendor]


@on_postgresql
@pytest.mark.private_servers({PostgreSQL: partial(PostgreSQL, log_statement="all")})
def test_the_server_gets_one_statement_per_operation(engine: Engine) -> None:
    """Drivers open transactions of their own that Django does not see; the server does."""
    server = engine.server()
    record = stored(engine)
    before = server.log().count("LOG:  statement:")

    for action, _ in OPERATIONS.values():
        action(engine.storage, record)

    assert server.log().count("LOG:  statement:") - before == len(OPERATIONS)


@on_postgresql
def test_saves_are_hot_updates(engine: Engine) -> None:
    """An update that is not HOT writes to every index and leaves work to vacuum. With sessions
    of this size and a full page, 40 % are not: that is what the fill factor is for."""
    execute(engine, f"TRUNCATE {TABLE}")  # Or there would be room left by other tests.
    records = [stored(engine, payload=bytes(1350)) for _ in range(300)]
    statistics = (
        "SELECT n_tup_upd, n_tup_hot_upd, pg_stat_force_next_flush() "
        f"FROM pg_stat_user_tables WHERE relname = '{TABLE}'"
    )
    execute(engine, statistics)  # The server keeps them back for a second otherwise.
    all_before, hot_before, _ = execute(engine, statistics)

    for _ in range(2):
        for number, record in enumerate(records):
            records[number] = next_version(record, last_activity=record.last_activity + 1)
            engine.storage.update(records[number], record, NOW)

    execute(engine, statistics)
    updates, hot, _ = execute(engine, statistics)
    assert updates - all_before == 600
    assert hot - hot_before > 0.9 * 600


@on_each
def test_the_old_id_is_never_unknown_while_a_key_changes(engine: Engine) -> None:
    """A parallel request that finds nothing under the old key has its cookie deleted, which logs
    out the browser that has just logged in. So between any two statements the old id is there."""
    record = stored(engine)
    seen = []

    with other_connection(engine) as other:
        read = engine.storage._compiled[engine.database].read

        def look(execute: Any, sql: Any, params: Any, many: Any, context: Any) -> Any:
            result = execute(sql, params, many, context)
            with other.cursor() as cursor:
                cursor.execute(read, [key_of(record.id)])
                seen.append(cursor.fetchone() is not None)
            return result

        with connections[engine.database].execute_wrapper(look):
            engine.storage.rotate(a_record(), record, tombstone_of(record), NOW)

    assert seen
    assert all(seen)


@on_each
def test_a_rotation_that_fails_leaves_no_second_session(engine: Engine) -> None:
    """The new record may be written first; if the old one turns out to have changed it must go,
    or one session would be listed as two."""
    record = stored(engine)
    engine.storage.update(next_version(record), record, NOW)

    outcome = engine.storage.rotate(a_record(), record, tombstone_of(record), NOW)

    assert isinstance(outcome, Conflict)
    assert execute(engine, f"SELECT COUNT(*) FROM {TABLE}") == (1,)


@on_each
def test_touch_never_shortens_a_lifetime(engine: Engine) -> None:
    """Two requests touch a session in an order that the network decides; the later expiry was
    promised to the browser already."""
    record = stored(engine, last_activity=NOW)

    engine.storage.touch(record, LATER - 1, NOW - 1, NOW)

    assert engine.storage.read(record.id) == record


@on_each
def test_touch_says_whether_it_did(engine: Engine) -> None:
    """Where nothing needed to change, too: MySQL can count the rows changed instead of those
    found, and a cached copy would be dropped for it."""
    record = stored(engine)

    assert engine.storage.touch(record, LATER, NOW, NOW) is True
    assert engine.storage.touch(record, LATER, NOW, NOW) is True
    assert engine.storage.touch(next_version(record), LATER, NOW, NOW) is False


@on_mariadb
def test_what_is_too_long_is_refused_and_not_cut(engine: Engine) -> None:
    """INSERT IGNORE, the short way to "only if absent", would store half a user id: the session
    of one user under the id of another."""
    with pytest.raises(DataError):
        engine.storage.create(a_record(user_id="1" * 256), NOW)


@on_each
def test_an_integrity_error_that_is_no_collision_passes(engine: Engine) -> None:
    """To call every integrity error a taken id would hide a broken table behind new keys."""
    with pytest.raises(IntegrityError):
        engine.storage.create(a_record(created=None), NOW)


@on_each
def test_an_unknown_state_is_unreadable(engine: Engine) -> None:
    """A newer release may know more states. Read as live, one of them would bring back a session
    that it ended; an error of another class would answer 500."""
    record = stored(engine)
    execute(engine, f"UPDATE {TABLE} SET state = 99")

    with pytest.raises(UnreadablePayload):
        engine.storage.read(record.id)


# Transactions of the caller -------------------------------------------------------------------


@on_each
def test_in_transaction_asks_the_right_database(engine: Engine) -> None:
    """A cache in front must not be filled with what the caller may roll back."""
    assert engine.storage.in_transaction() is False
    with transaction.atomic(using=engine.database):
        assert engine.storage.in_transaction() is True


@on_each
def test_after_commit_waits_for_the_commit(engine: Engine) -> None:
    """An action at once would act on what is rolled back a moment later."""
    done: list[str] = []

    with transaction.atomic(using=engine.database):
        engine.storage.after_commit(lambda: done.append("late"))
        assert done == []

    assert done == ["late"]


@on_each
def test_the_async_twins_see_the_connection_of_their_thread(engine: Engine) -> None:
    """The base class says no to every question; in a thread other than that of the connection
    the answer would be about another connection."""

    in_transaction = async_to_sync(engine.storage.ain_transaction)

    with transaction.atomic(using=engine.database):
        assert in_transaction() is True
    assert in_transaction() is False


@on_each
def test_an_update_is_rolled_back_with_the_callers_transaction(engine: Engine) -> None:
    """Whoever saves a session inside ``atomic`` asks for just that."""
    record = stored(engine)

    with transaction.atomic(using=engine.database):
        engine.storage.update(next_version(record), record, NOW)
        transaction.set_rollback(True, using=engine.database)

    assert engine.storage.read(record.id) == record


@on_each
def test_a_taken_id_leaves_the_callers_transaction_usable(engine: Engine) -> None:
    """On PostgreSQL an error ends the transaction, so a collision must not be one."""
    record, other = stored(engine), stored(engine)

    with transaction.atomic(using=engine.database):
        assert engine.storage.create(record, NOW) == Taken()
        rotated = engine.storage.rotate(other, record, tombstone_of(record), NOW)
        assert rotated == Taken()
        assert engine.storage.read(record.id) == record


@on_mariadb
@pytest.mark.usefixtures("own_connection")
def test_a_conflict_in_a_transaction_shows_the_current_version(engine: Engine) -> None:
    """At REPEATABLE READ a plain SELECT goes on showing the snapshot. The save would be merged
    with it, tried again, and find the same conflict until it gives up."""
    record = stored(engine)
    theirs = next_version(record, payload=b"theirs")
    execute(engine, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")

    with transaction.atomic(using=engine.database), other_connection(engine) as other:
        assert engine.storage.read(record.id) == record
        with other.cursor() as cursor:
            cursor.execute(f"UPDATE {TABLE} SET version = 2, payload = 'theirs'")
        outcome = engine.storage.update(next_version(record), record, NOW)

    assert outcome == Conflict(theirs)


@on_postgresql
def test_losing_a_race_at_a_strict_isolation_level_is_a_conflict(engine: Engine) -> None:
    """There PostgreSQL answers with an error instead of "no row". As an outage it would be a 503
    for two requests at the same time, which should have been merged."""
    record = stored(engine)
    theirs = next_version(record, payload=b"theirs")

    def save() -> Any:
        with closing(connections[engine.database]):
            execute(engine, "SET default_transaction_isolation = 'repeatable read'")
            return engine.storage.update(next_version(record), record, NOW)

    def someone_waits() -> bool:
        waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        return bool(execute(engine, waiting)[0])

    with ThreadPoolExecutor() as pool, other_connection(engine) as other:
        with other.cursor() as cursor:
            cursor.execute("BEGIN")
            cursor.execute(f"UPDATE {TABLE} SET version = 2, payload = 'theirs'")
            saved = pool.submit(save)
            wait_until(someone_waits, "the save waits for the row", 20)
            cursor.execute("COMMIT")
        assert saved.result() == Conflict(theirs)


@on_postgresql
def test_a_lost_race_in_the_callers_transaction_is_not_tried_again(engine: Engine) -> None:
    """The transaction is lost with it. Another try would only say so, and hide the reason."""
    record = stored(engine)

    with transaction.atomic(using=engine.database), other_connection(engine) as other:
        execute(engine, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        engine.storage.read(record.id)
        with other.cursor() as cursor:
            cursor.execute(f"UPDATE {TABLE} SET version = 2")
        with pytest.raises(SessionConflict) as caught:
            engine.storage.update(next_version(record), record, NOW)
        transaction.set_rollback(True, using=engine.database)

    assert isinstance(caught.value.__cause__, OperationalError)


@on_each
def test_an_expired_record_is_gone_in_a_transaction_too(engine: Engine) -> None:
    """The read that follows an update without effect is another one there."""
    record = stored(engine)

    with transaction.atomic(using=engine.database):
        assert engine.storage.update(next_version(record), record, LATER) == Gone()


@on_each
def test_a_broken_transaction_is_the_callers_error(engine: Engine) -> None:
    """Reported as an outage, a bug in a view would be answered with 503 and looked for in the
    database."""
    with transaction.atomic(using=engine.database):
        transaction.set_rollback(True, using=engine.database)
        with pytest.raises(TransactionManagementError):
            engine.storage.read("0" * 40)


@on_postgresql
def test_an_aborted_transaction_is_the_callers_error(engine: Engine) -> None:
    """The same, where the caller has caught the error inside its block and Django cannot know."""
    with transaction.atomic(using=engine.database):
        with pytest.raises(DataError):
            execute(engine, "SELECT 1 / 0")
        with pytest.raises(InternalError):
            engine.storage.read("0" * 40)
        transaction.set_rollback(True, using=engine.database)


# Purging --------------------------------------------------------------------------------------


@on_postgresql
@pytest.mark.usefixtures("own_connection")
def test_purge_passes_over_rows_that_others_hold(engine: Engine) -> None:
    """A request in a long transaction would hold up the clean-up, and every request that wants
    one of the rows the clean-up has locked by then. What is being touched must stay anyway."""
    held, *_ = [stored(engine, expires=NOW - age) for age in (30, 20, 10)]
    execute(engine, "SET lock_timeout = '5s'")

    with other_connection(engine) as other, other.cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute(f"UPDATE {TABLE} SET expires = {LATER} WHERE id = %s", [key_of(held.id)])
        assert [engine.storage.purge(NOW, 1) for _ in range(3)] == [1, 1, 0]
        cursor.execute("COMMIT")

    assert engine.storage.purge(NOW, 10) == 0
    assert engine.storage.read(held.id) is not None


@on_each
def test_purge_begins_with_the_oldest(engine: Engine) -> None:
    """In the order of the index; any other would sort the whole table for each batch."""
    old, older = stored(engine, expires=NOW - 1), stored(engine, expires=NOW - 2)

    engine.storage.purge(NOW, 1)

    assert engine.storage.read(older.id) is None
    assert engine.storage.read(old.id) == old


@on_each
def test_purge_where_no_statement_has_a_limit(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Oracle and others the ORM does it, in batches all the same."""
    storage = engine.storage
    for age in range(3):
        stored(engine, expires=NOW - age)
    alive = stored(engine)
    compiled = storage._compiled[engine.database]
    monkeypatch.setitem(storage._compiled, engine.database, compiled._replace(purge=None))

    assert [storage.purge(NOW, 2) for _ in range(3)] == [2, 1, 0]
    assert storage.read(alive.id) == alive


# Outages --------------------------------------------------------------------------------------


@contextmanager
def readonly(engine: Engine) -> Iterator[None]:
    execute(engine, "PRAGMA query_only = ON")
    yield


@contextmanager
def locked(engine: Engine) -> Iterator[None]:
    execute(engine, "PRAGMA busy_timeout = 0")
    with closing(sqlite3.connect(connections[engine.database].settings_dict["NAME"])) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def full(engine: Engine) -> Iterator[None]:
    execute(engine, "VACUUM")
    (pages,) = execute(engine, "PRAGMA page_count")
    execute(engine, f"PRAGMA max_page_count = {pages}")
    yield


@on_sqlite
@pytest.mark.parametrize(
    ("outage", "reason"),
    [
        (readonly, "attempt to write a readonly database"),
        (locked, "database is locked"),
        (full, "database or disk is full"),
    ],
)
@pytest.mark.usefixtures("own_connection")
def test_sqlite_that_takes_no_writes_is_an_outage(engine: Engine, outage: Any, reason: str) -> None:
    """A write that failed must neither look like a session that is gone nor like one that was
    saved; and afterwards the stored session is what it was."""
    record = stored(engine)
    large = next_version(record, payload=bytes(1_000_000))

    with outage(engine), pytest.raises(StorageUnavailable, match=f"'default'.*: {reason}"):
        engine.storage.update(large, record, NOW)

    connections[engine.database].close()
    assert engine.storage.read(record.id) == record
    assert engine.storage.update(large, record, NOW) == Updated(large)


@on_sqlite
@pytest.mark.usefixtures("own_connection")
def test_a_commit_that_fails_is_an_outage(engine: Engine) -> None:
    """A reader does not hold up the two statements of a login, but their commit."""
    record, successor = stored(engine), a_record()
    execute(engine, "PRAGMA busy_timeout = 0")

    with closing(sqlite3.connect(connections[engine.database].settings_dict["NAME"])) as other:
        other.execute("BEGIN")
        other.execute(f"SELECT id FROM {TABLE}").fetchone()
        with pytest.raises(StorageUnavailable):
            engine.storage.rotate(successor, record, tombstone_of(record), NOW)

    assert engine.storage.read(record.id) == record
    assert engine.storage.read(successor.id) is None


@on_servers
@pytest.mark.private_servers
@pytest.mark.parametrize("operation", ["read", "update"])
def test_a_server_that_went_away_is_an_outage(engine: Engine, operation: str) -> None:
    """On the connection that was open, again on the same, which is closed by then, and on the
    attempt to open another one. Once it is back, the next request, for which Django drops the
    dead connection, finds the session."""
    record = stored(engine)
    action, _ = OPERATIONS[operation]
    server = engine.server()

    server.kill()
    for before in (lambda: None, lambda: None, close_old_connections):
        before()
        with pytest.raises(StorageUnavailable, match=f"'{engine.database}'"):
            action(engine.storage, record)
    server.restart()
    close_old_connections()

    action(engine.storage, record)
    assert engine.storage.read(record.id) is not None


@on_each
def test_an_error_shows_neither_id_nor_payload(engine: Engine) -> None:
    """Its text goes to logs, and drivers quote what they were given."""

    def quote(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        raise OperationalError(f"Row {params} was not accepted")

    record = a_record(payload=b"payload", user_id="user 1")
    with (
        connections[engine.database].execute_wrapper(quote),
        pytest.raises(StorageUnavailable) as caught,
    ):
        engine.storage.create(record, NOW)

    assert not any(word in str(caught.value) for word in (record.id, "payload", "user 1"))


@contextmanager
def missing_table(engine: Engine) -> Iterator[None]:
    with connections[engine.database].schema_editor() as editor:
        editor.alter_db_table(StoredSession, TABLE, "elsewhere")
    try:
        yield
    finally:
        with connections[engine.database].schema_editor() as editor:
            editor.alter_db_table(StoredSession, "elsewhere", TABLE)


@on_each
def test_a_missing_table_says_how_to_make_it(engine: Engine) -> None:
    """The first thing that goes wrong on a new site. "No session" would hide it for good."""
    command = f"manage.py migrate --database={engine.database}"

    with missing_table(engine), pytest.raises(StorageUnavailable, match=command):
        engine.storage.read("0" * 40)


@on_sqlite
@pytest.mark.usefixtures("own_connection")
def test_sqlites_limit_is_about_the_payload(engine: Engine) -> None:
    """Not an outage: another try would fail as well, and other sessions are fine."""
    record = stored(engine)
    connections[engine.database].connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)

    with pytest.raises(PayloadTooLarge):
        engine.storage.update(next_version(record, payload=bytes(200_000)), record, NOW)


@on_mariadb
@pytest.mark.private_servers({MariaDB: partial(MariaDB, "--max-allowed-packet=65536")})
def test_mariadbs_limit_is_about_the_payload(engine: Engine) -> None:
    """The server answers and then hangs up, which would look like an outage."""
    with pytest.raises(PayloadTooLarge):
        engine.storage.create(a_record(payload=bytes(70_000)), NOW)

    close_old_connections()
    stored(engine)


# Configuration --------------------------------------------------------------------------------


@on_sqlite
def test_reads_go_where_writes_go(engine: Engine) -> None:
    """Routers send reads to a replica. That may lag: the request after a login would be
    anonymous. Here the replica does not even exist."""
    router = SimpleNamespace(db_for_read=lambda model, **hints: "replica")
    record = stored(engine)

    with override_settings(DATABASE_ROUTERS=[router]):
        assert engine.SessionStore.storage().read(record.id) == record


def test_without_the_app_it_says_what_to_add() -> None:
    """Django's own error speaks of an app label and a model class that nobody has declared."""
    with (
        modify_settings(INSTALLED_APPS={"remove": ["django_sessionstores"]}),
        pytest.raises(ImproperlyConfigured, match="INSTALLED_APPS"),
    ):
        database.DatabaseStorage()


@on_each
def test_the_description_has_no_secret(engine: Engine) -> None:
    """It is shown by checks and pages, so it has neither host nor account."""
    vendor = connections[engine.database].vendor
    described = f"table {TABLE} in database '{engine.database}' ({vendor})"

    assert engine.storage.describe() == described


@on_sqlite
@pytest.mark.parametrize("use_tz", [True, False])
def test_the_expiry_does_not_depend_on_use_tz(engine: Engine, use_tz: bool) -> None:
    """Django's engine stores local time where USE_TZ is off: every session moves by hours when
    the setting, or the clock for winter, changes."""
    with override_settings(USE_TZ=use_tz, TIME_ZONE="Asia/Tokyo"):
        session = engine.SessionStore()
        session.set_expiry(3600)
        session.save()
        assert engine.SessionStore(session.session_key).get_expiry_age() == 3600

    expires, now = execute(engine, f"SELECT expires FROM {TABLE}")[0], time.time() * 1000
    assert now + 3_500_000 < expires <= now + 3_600_000


@on_sqlite
def test_the_migrations_are_those_of_the_model(engine: Engine) -> None:
    """Otherwise ``makemigrations`` in a project writes one into this package."""
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


def test_it_works_without_djangos_session_app() -> None:
    """Its table would be a second one that nobody uses."""
    script = """
import django
from django.conf import settings
settings.configure(
    SECRET_KEY="x",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=["django_sessionstores"],
    SESSION_ENGINE="django_sessionstores.backends.db",
)
from django_sessionstores.backends.db import SessionStore
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
session = SessionStore()
session["cart"] = [1]
session.save()
assert SessionStore(session.session_key)["cart"] == [1]
session.set_expiry(-1)
session.save()
call_command("clearsessions")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "1 expired session removed.\n"), done.stderr
