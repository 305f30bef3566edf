"""What is particular to the table of Django's database cache, on every kind of database.

What it shares with other stores is in the conformance suite.
"""

import base64
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.db import DatabaseError, DataError, OperationalError, connections, transaction
from django.test.utils import CaptureQueriesContext

from django_sessionstores.core.records import State, make_tombstone, pack
from django_sessionstores.exceptions import PayloadTooLarge, StorageUnavailable, UnreadablePayload
from django_sessionstores.storages.base import LITTER_AGE, Conflict, Taken, Updated
from django_sessionstores.storages.caches import cache_table, database_cache
from django_sessionstores.storages.sql.deadline import LimitedCursor
from django_sessionstores.testing import StorageContract, in_threads, now, successor
from tests import cases
from tests.storages.records import (
    HOUR,
    ID,
    assert_threads_lose_no_save,
    assert_touch_never_shortens,
    make_record,
)

KEY = f":1:django_sessionstores:{ID}"
TABLE = cases.CACHE_TABLE
ROWS = [
    cases.Case("cache", cases.DATABASE_CACHE),
    cases.Case("cache", cases.DATABASE_CACHE, cases.POSTGRESQL),
    cases.Case("cache", cases.DATABASE_CACHE, cases.MARIADB),
]


@pytest.fixture(params=ROWS, ids=lambda case: case.id)
def site(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any
) -> Iterator[cases.Engine]:
    with django_db_blocker.unblock(), cases.activate(request.param) as engine:
        yield engine


@pytest.fixture
def storage(site: cases.Engine) -> Any:
    return site.storage


@pytest.fixture
def connection(site: cases.Engine) -> Any:
    return connections[site.database]


def value_of(connection: Any, key: str = KEY) -> str | None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT value FROM {TABLE} WHERE cache_key = %s", [key])
        row = cursor.fetchone()
    return None if row is None else row[0]


def set_value(connection: Any, value: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {TABLE} SET value = %s WHERE cache_key = %s", [value, KEY])


def expire(connection: Any) -> None:
    """Let the row be expired, whatever the record in it says."""
    past = connection.ops.adapt_datetimefield_value(datetime.now(UTC) - timedelta(minutes=1))
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {TABLE} SET expires = %s WHERE cache_key = %s", [past, KEY])


class TestContract(StorageContract):
    @pytest.fixture(autouse=True)
    def _storage(self, storage: Any) -> None:
        self.storage = storage


class TestContractAsync(TestContract):
    awaited = True


# Statements ---------------------------------------------------------------------------------------


def test_every_operation_is_one_statement(storage: Any, connection: Any) -> None:
    """Django's cache takes four for each write, a count of all rows among them."""
    base = make_record()
    steps = {
        "create": lambda: storage.create(base, now()),
        "read": lambda: storage.read(ID),
        "update": lambda: storage.update(successor(base), storage.read(ID), now()),
        "touch": lambda: storage.touch(storage.read(ID), base.expires + HOUR, now(), now()),
        "delete": lambda: storage.delete(ID),
    }
    counts = {}
    for name, step in steps.items():
        with CaptureQueriesContext(connection) as queries:
            step()
        counts[name] = len(queries)

    assert counts == {"create": 1, "read": 1, "update": 1 + 1, "touch": 1 + 1, "delete": 1}


def test_what_a_request_waits_for_has_a_limit(
    storage: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single statement past the limit hangs the site with its server. A purge takes its time."""
    limited = []

    def enter(cursor: LimitedCursor) -> Any:
        limited.append(cursor)
        return original(cursor)

    original = LimitedCursor.__enter__
    monkeypatch.setattr(LimitedCursor, "__enter__", enter)
    base = make_record()
    with CaptureQueriesContext(connection) as queries:
        storage.create(base, now())
        storage.update(successor(base), storage.read(ID), now())
        storage.fill(base, base.expires, now())
        storage.leave_tombstone(make_tombstone(ID, State.ENDED, now=now(), seconds=60), now())
        storage.delete(ID)
    assert len(limited) == len(queries) > 5
    storage.purge(now(), 10)
    assert len(limited) == len(queries)


def test_a_second_save_needs_no_read(storage: Any, connection: Any) -> None:
    """A save compares with the record that the previous save wrote."""
    created = storage.create(make_record(), now()).record
    with CaptureQueriesContext(connection) as queries:
        saved = storage.update(successor(created), created, now()).record
        storage.update(successor(saved), saved, now())

    assert len(queries) == 2


def test_nothing_is_lost_by_sixteen_threads(storage: Any) -> None:
    """Every answer "updated" is a version of its own."""
    assert_threads_lose_no_save(storage)


def test_a_save_goes_through_after_someone_has_only_touched(storage: Any) -> None:
    """The row has changed, but the version has not: no conflict to be merged."""
    base = storage.create(make_record(), now()).record
    storage.touch(base, base.expires + HOUR, base.last_activity, now())

    assert isinstance(storage.update(successor(base), base, now()), Updated)


def test_a_touch_never_shortens(storage: Any) -> None:
    """Two requests touch at once: the one with the earlier clock must not undo the other."""
    assert_touch_never_shortens(storage, storage.create(make_record(), now()).record)


def test_a_touch_of_a_previous_version_does_nothing(storage: Any) -> None:
    """Also of a record that came from elsewhere, without the value that it was read as: it would
    lengthen what another request has just set."""
    base = make_record()
    storage.create(base, now())
    storage.update(successor(base), base, now())

    assert not storage.touch(base, base.expires + HOUR, base.last_activity, now())
    assert storage.read(ID).expires == base.expires


# Rows ---------------------------------------------------------------------------------------------


def test_rows_hold_no_pickle(storage: Any, connection: Any) -> None:
    """Django's cache unpickles the rows that it reads, so anyone who can write to the table could
    run code in the site."""
    base = make_record()
    storage.create(base, now())

    assert base64.b64decode(str(value_of(connection))) == pack(base)


executed: list[str] = []


class Exploit:
    def __reduce__(self) -> Any:
        return executed.append, ("pickle",)


@pytest.mark.parametrize(
    "value",
    [base64.b64encode(pickle.dumps(Exploit())).decode(), "no Base64!", "", "ÿ"],
)
def test_what_others_wrote_is_unreadable(storage: Any, connection: Any, value: str) -> None:
    """Neither executed, nor an error page, nor "no session"."""
    storage.create(make_record(), now())
    set_value(connection, value)

    with pytest.raises(UnreadablePayload):
        storage.read(ID)
    assert executed == []


def test_a_damaged_copy_is_replaced(storage: Any, connection: Any) -> None:
    """It would otherwise stay in the way of every copy until it expires."""
    storage.create(make_record(), now())
    set_value(connection, "garbage")

    storage.fill(make_record(), now() + HOUR, now())

    assert storage.read(ID).payload == b"encrypted"


def test_an_expired_row_is_absent(storage: Any, connection: Any) -> None:
    """A copy is trusted for its lease, which only the column knows."""
    storage.create(make_record(), now())
    expire(connection)

    assert storage.read(ID) is None
    assert not isinstance(storage.update(successor(make_record()), make_record(), now()), Updated)


def test_a_read_does_not_delete_what_has_expired(storage: Any, connection: Any) -> None:
    """Django's cache does, by key: what another request saved in between would be lost."""
    storage.create(make_record(), now())
    expire(connection)
    storage.read(ID)

    assert value_of(connection) is not None


def test_an_expired_copy_makes_room_for_a_new_one(storage: Any, connection: Any) -> None:
    """The row is still there: it can be replaced, but not inserted."""
    storage.fill(make_record(), now() + HOUR, now())
    expire(connection)

    storage.fill(make_record(), now() + HOUR, now())

    assert storage.read(ID).payload == b"encrypted"


def test_many_tombstones_are_left_by_few_statements(storage: Any, connection: Any) -> None:
    """Whatever was there, and even if one is named twice."""
    ids = [f"{number:040x}" for number in range(database_cache._MAX_PUT + 1)]
    for each in ids[:3]:
        storage.fill(make_record(each), now() + HOUR, now())
    tombstones = [make_tombstone(each, State.ENDED, now=now(), seconds=60) for each in ids]

    with CaptureQueriesContext(connection) as queries:
        storage.leave_tombstones([*tombstones, tombstones[0]], now())

    # Some databases count the beginning and the end of the transaction.
    assert sum("INSERT" in query["sql"] for query in queries) == 2
    assert len(queries) <= 4
    assert {storage.read(each).state for each in ids} == {State.ENDED}
    assert storage.read(ids[0]).expires == tombstones[0].expires


def test_an_expired_tombstone_takes_a_copy(storage: Any) -> None:
    """Its row stays until it is swept away; what it says does not."""
    storage.leave_tombstone(make_tombstone(ID, State.ENDED, now=now(), seconds=60), now())

    storage.fill(make_record(), now() + 2 * HOUR, now() + HOUR)

    assert storage.read(ID).state is State.LIVE


def test_lifetimes_beyond_the_calendar_are_kept(storage: Any) -> None:
    """``set_expiry`` takes any number; a column does not."""
    far = make_record(expires=400_000_000_000_000)

    storage.create(far, now())

    assert storage.read(ID).expires == far.expires


@pytest.mark.parametrize("use_tz", [True, False])
def test_times_hold_with_and_without_time_zones(
    storage: Any, connection: Any, settings: Any, use_tz: bool
) -> None:
    """A session of a minute must not be expired, nor last for hours, for a time zone's sake."""
    settings.USE_TZ = use_tz
    settings.TIME_ZONE = "Asia/Tokyo"
    moment = now()
    storage.create(make_record(expires=moment + 60_000), moment)

    assert storage.read(ID) is not None
    assert storage.purge(moment, 10) == 0
    assert storage.purge(moment + 120_000, 10) == 1


# Lists --------------------------------------------------------------------------------------------

IDS = [pair * 20 for pair in ("aa", "ab", "09", "f0", "a0", "ff", "00", "9f", "0a", "ba")]
COLLATIONS = {
    "sqlite": [""],
    "postgresql": ["C", "en-x-icu", "da-x-icu", "cs-x-icu", "shifted"],
    "mysql": ["utf8mb4_bin", "utf8mb4_general_ci", "utf8mb4_danish_ci", "utf8mb4_unicode_nopad_ci"],
}


@contextmanager
def sorted_by(connection: Any, collation: str) -> Iterator[None]:
    """Sort the keys of the table in the order of some language."""
    if connection.vendor == "sqlite":
        yield
        return
    if connection.vendor == "postgresql":
        key = 'ALTER COLUMN cache_key TYPE varchar(255) COLLATE "{}"'
        statements = [
            # Punctuation counts only where all else is the same.
            "CREATE COLLATION IF NOT EXISTS shifted (provider = icu, locale = 'en-u-ka-shifted')",
            f"ALTER TABLE {TABLE} {key.format(collation)}",
        ]
        undo = f"ALTER TABLE {TABLE} {key.format('default')}"
    else:
        key = "MODIFY cache_key varchar(255) NOT NULL"
        statements = [f"ALTER TABLE {TABLE} {key} COLLATE {collation}"]
        undo = f"ALTER TABLE {TABLE} {key}"
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(undo)


def listed(storage: Any, user_id: str | None = None, limit: int = 3) -> list[str]:
    """Return the ids on all pages."""
    found, cursor = [], ""
    for _ in range(100):
        records, cursor = storage.scan(cursor, limit, user_id)
        found += [each.id for each in records]
        if not cursor:
            return found
    raise AssertionError("scanning does not end")


@pytest.mark.parametrize("number", range(5))
def test_lists_are_complete_in_any_order_of_a_language(
    storage: Any, connection: Any, number: int
) -> None:
    """In Danish "aa" comes after "z"; some skip punctuation, some take capitals for small letters.
    And whoever else has rows between those of sessions."""
    if number >= len(COLLATIONS[connection.vendor]):
        pytest.skip("no further order")
    cache = caches[cases.CACHE_ALIAS]
    with sorted_by(connection, COLLATIONS[connection.vendor][number]):
        for each in ("0", "z", "django_sessionstores", "django_sessionstores;", "djangosessionsz"):
            cache.set(each, 1)
        cache.set("django_sessionstores:zz", 1)
        for n, session_id in enumerate(IDS):
            storage.create(make_record(session_id, user_id=str(n % 2)), now())
        for limit in (1, 3, 10, 11):
            assert sorted(listed(storage, limit=limit)) == sorted(IDS)
            assert sorted(listed(storage, "1", limit)) == sorted(IDS[1::2])
        assert (storage.count(now(), None), storage.count(now(), "0")) == (10, 5)


@pytest.mark.parametrize("prefix", ["", "%", "_ite", "Site", "[a-z]*", "a\\b'\"", "sitez", "ü"])
def test_lists_are_of_one_site(storage: Any, connection: Any, prefix: str) -> None:
    """The prefix is no pattern, whatever is in it; the sessions of others, of which one differs
    only in a capital, are nobody's business here, nor are those in another version."""
    others = {}
    for n, (their_prefix, version) in enumerate([("site", 1), ("s", 1), (prefix, 2), (prefix, 11)]):
        storage._cache.key_prefix, storage._cache.version = their_prefix, version
        for m in range(3):
            storage.create(make_record(f"{n}{m}" + "b" * 38), now())
        others[their_prefix, version] = 3
    storage._cache.key_prefix, storage._cache.version = prefix, 1
    storage.create(make_record(), now())
    assert listed(storage) == [ID]
    assert storage.count(now(), None) == 1
    for (storage._cache.key_prefix, storage._cache.version), count in others.items():
        assert storage.count(now(), None) == len(listed(storage)) == count


def test_a_statement_of_a_list_looks_at_so_many_rows(
    storage: Any, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However rare the user is who is looked for: a statement past the limit would be an outage."""
    monkeypatch.setattr(database_cache, "_MAX_LISTED", 3)
    for n in range(10):
        storage.create(make_record(f"{n:040}", user_id="7" if n == 8 else "8"), now())
    with CaptureQueriesContext(connection) as queries:
        assert listed(storage, "7") == [f"{8:040}"]
    assert len(queries) == 4
    assert all(query["sql"].endswith("LIMIT 3") for query in queries)
    with CaptureQueriesContext(connection) as queries:
        assert len(storage.scan("", 2, None).records) == 2
    assert len(queries) == 1


def test_a_list_leaves_payloads_in_the_database(storage: Any, connection: Any) -> None:
    """A page of large sessions is no more than their beginnings, and knows their sizes."""
    sizes = {}
    for n, size in enumerate([0, 1, 2, 3, 60_000, 60_001, 60_002]):
        each = make_record(f"{n:040}", payload=b"\xff" * size, user_agent="a" * 300)
        storage.create(each, now())
        sizes[each.id] = size or None
    fetched: list[int] = []
    decode = base64.b64decode

    def noted(text: str) -> bytes:
        fetched.append(len(text))
        return decode(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_table.base64, "b64decode", noted)
        page = storage.scan("", 100, None)
    assert {each.id: each.size for each in page.records} == sizes
    assert max(fetched) < 6000


def test_a_record_whose_beginning_is_long_is_listed(storage: Any) -> None:
    """Whoever writes records of their own may put in what they like."""
    storage.create(make_record(user_agent="a" * 10_000, user_id="7"), now())
    (found,) = storage.scan("", 1, "7").records
    assert (len(found.user_agent), found.payload, found.size) == (10_000, b"", 9)


@pytest.mark.parametrize("value", ["no Base64!", "", "AQAA", "AQAAÿ", "AQAAAAAA" * 20])
def test_what_nobody_can_read_is_not_listed(storage: Any, connection: Any, value: str) -> None:
    """It must not hide the others."""
    other = make_record("b" * 40)
    storage.create(other, now())
    storage.create(make_record(), now())
    set_value(connection, value)
    assert listed(storage) == [other.id]


def test_a_user_is_told_from_one_with_the_same_letters(storage: Any) -> None:
    """The letters that the database compares end before the user does."""
    names = ["aaa", "aab"]
    assert len(set(map(cache_table.owner_letters, names))) == 1
    for n, name in enumerate(names):
        storage.create(make_record(f"{n:040}", user_id=name), now())
    for n, name in enumerate(names):
        assert listed(storage, name) == [f"{n:040}"]
        assert storage.count(now(), name) == 1


@pytest.mark.parametrize("user_id", ["", "a" * 31, "a" * 32, "ü" * 200, "%", "x\0"])
def test_any_user_is_found(storage: Any, user_id: str) -> None:
    """The key of a user may be a number, an address or a sentence."""
    for n, each in enumerate((user_id, f"{user_id}7", f"7{user_id}", None)):
        storage.create(make_record(f"{n:040}", user_id=each), now())
    assert listed(storage, user_id) == [f"{0:040}"]


@pytest.mark.parametrize(
    ("function", "lists"),
    [(lambda key, *_: f"<{key}", True), (lambda key, *_: f"{hash(key)}", False)],
    ids=["readable", "digest"],
)
def test_a_key_function_may_hide_the_ids(storage: Any, function: Any, lists: bool) -> None:
    """Then it says that it cannot list, rather than that nobody is there."""
    storage._cache.key_func = function
    storage.create(make_record(), now())
    assert storage.lists is lists
    if lists:
        assert listed(storage) == [ID]
        assert storage.count(now(), None) == 1


# Transactions -------------------------------------------------------------------------------------


def test_a_key_that_is_taken_spoils_no_transaction(storage: Any, connection: Any) -> None:
    """PostgreSQL refuses everything after an error; a view's transaction is not ours to break."""
    storage.create(make_record(), now())

    with transaction.atomic(using=connection.alias):
        assert isinstance(storage.create(make_record(), now()), Taken)
        assert storage.read(ID) is not None


def test_what_is_rolled_back_was_never_saved(storage: Any, connection: Any) -> None:
    """The table is in the caller's database, so the caller's transaction holds for it. Whoever
    keeps copies elsewhere has to know."""
    assert not storage.in_transaction()
    with transaction.atomic(using=connection.alias):
        assert storage.in_transaction()
        storage.create(make_record(), now())
        transaction.set_rollback(True, using=connection.alias)

    assert storage.read(ID) is None


def test_what_is_awaited_is_in_the_transaction_too(storage: Any, connection: Any) -> None:
    """On another thread it would be on another connection, which commits at once."""
    with transaction.atomic(using=connection.alias):
        async_to_sync(storage.acreate)(make_record(), now())
        transaction.set_rollback(True, using=connection.alias)

    assert storage.read(ID) is None


def test_a_conflict_in_a_transaction_shows_the_winner(storage: Any, connection: Any) -> None:
    """At REPEATABLE READ, MySQL goes on showing the version that has just been found outdated:
    the save would merge with it for ever."""
    if connection.vendor == "sqlite":
        pytest.skip("SQLite lets nobody else write meanwhile")
    base = storage.create(make_record(), now()).record
    if connection.vendor == "mysql":
        with connection.cursor() as cursor:
            # For the next transaction; Django's choice is READ COMMITTED.
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    with transaction.atomic(using=connection.alias):
        storage.read(ID)
        in_threads([lambda: storage.update(successor(base, payload=b"winner"), base, now())])

        outcome = storage.update(successor(base, payload=b"loser"), base, now())

    assert isinstance(outcome, Conflict)
    assert outcome.current.payload == b"winner"


def test_actions_wait_for_the_commit(storage: Any, connection: Any) -> None:
    """A cache in front must not hear of a write that is rolled back."""
    done: list[int] = []
    with transaction.atomic(using=connection.alias):
        storage.after_commit(lambda: done.append(1))
        assert done == []
    assert done == [1]


# Errors -------------------------------------------------------------------------------------------


OPERATIONS = {
    "read": lambda storage: storage.read(ID),
    "create": lambda storage: storage.create(make_record(), now()),
    "update": lambda storage: storage.update(successor(make_record()), make_record(), now()),
    "touch": lambda storage: storage.touch(make_record(), now() + HOUR, now(), now()),
    "delete": lambda storage: storage.delete(ID),
    "fill": lambda storage: storage.fill(make_record(), now() + HOUR, now()),
    "leave_tombstone": lambda storage: storage.leave_tombstone(
        make_tombstone(ID, State.ENDED, now=now(), seconds=60), now()
    ),
    "purge": lambda storage: storage.purge(now(), 10),
    "scan": lambda storage: storage.scan("", 10, None),
    "scan of a user": lambda storage: storage.scan("", 10, "7"),
    "count": lambda storage: storage.count(now(), None),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_missing_table_names_the_command(storage: Any, connection: Any, operation: str) -> None:
    """Django's cache takes a write that fails for a key that is taken."""
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {TABLE} RENAME TO away")
    try:
        with pytest.raises(StorageUnavailable, match="createcachetable"):
            OPERATIONS[operation](storage)
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE away RENAME TO {TABLE}")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_error_of_the_database_is_an_outage(
    storage: Any, connection: Any, operation: str
) -> None:
    """Not "taken", "gone" or "no session", which would log people out."""

    def fail(execute: Any, sql: str, *args: Any) -> Any:
        raise DatabaseError("the disk is full, near SECRET")

    with (
        connection.execute_wrapper(fail),
        pytest.raises(StorageUnavailable) as raised,
    ):
        OPERATIONS[operation](storage)
    assert "SECRET" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        OperationalError(1153, "Got a packet bigger than 'max_allowed_packet' bytes"),
        DataError("string or blob too big"),
    ],
    ids=["mysql", "sqlite"],
)
def test_a_row_that_is_too_large_is_no_outage(
    storage: Any, connection: Any, error: Exception
) -> None:
    """Trying again later does not help: the session has to become smaller."""

    def fail(execute: Any, sql: str, *args: Any) -> Any:
        raise error

    with connection.execute_wrapper(fail), pytest.raises(PayloadTooLarge):
        storage.create(make_record(), now())


def test_other_errors_that_say_too_big_are_outages(storage: Any, connection: Any) -> None:
    """A user who is told to store less could do nothing about them."""

    def fail(execute: Any, sql: str, *args: Any) -> Any:
        raise OperationalError("the log is too big")

    with connection.execute_wrapper(fail), pytest.raises(StorageUnavailable):
        storage.create(make_record(), now())


def test_a_purge_takes_no_more_than_a_batch(storage: Any, connection: Any) -> None:
    """And only what has expired, long ago if it is of others in the table, who may be gone."""
    for number in range(5):
        storage.create(make_record(f"{number:040}", expires=now() + 1000), now())
    storage.create(make_record(), now())
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {TABLE} SET cache_key = 'theirs' WHERE cache_key LIKE '%%:{0:040}'")
    later = now() + HOUR // 2

    assert [storage.purge(later, 2) for _ in range(3)] == [2, 2, 0]
    assert storage.read(ID) is not None

    assert [storage.purge(later + LITTER_AGE, 9) for _ in range(2)] == [2, 0]


def test_a_session_that_is_touched_during_a_purge_stays(storage: Any, connection: Any) -> None:
    """It was found to have expired, and goes on before it is deleted."""
    base = storage.create(make_record(), now()).record
    later = base.expires + 1
    touched: list[bool] = []

    def touch_first(execute: Any, sql: str, *args: Any) -> Any:
        if sql.startswith("DELETE") and not touched:
            touched.append(storage.touch(base, base.expires + HOUR, now(), now()))
        return execute(sql, *args)

    with connection.execute_wrapper(touch_first):
        storage.purge(later + 1000, 10)

    assert touched == [True]
    assert storage.read(ID) is not None


def test_keys_are_those_of_the_cache(storage: Any, connection: Any) -> None:
    """Two sites on one table tell their sessions apart by KEY_PREFIX, as they do their caches."""
    storage._cache.key_prefix, storage._cache.version = "site", 3
    storage.create(make_record(), now())

    assert value_of(connection, f"site:3:django_sessionstores:{ID}") is not None
