"""What storages have by default, and what is built on the contract alone."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import nullcontext, suppress
from itertools import count
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from django_sessionstores import conf
from django_sessionstores.core import clock, flow
from django_sessionstores.core.clock import now
from django_sessionstores.core.flow import Flow, run
from django_sessionstores.core.records import State, is_session_id, make_tombstone, session_id
from django_sessionstores.exceptions import (
    SessionLimitReached,
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.storages import limited as limited_storage
from django_sessionstores.storages import revocation
from django_sessionstores.storages.base import (
    CacheStorage,
    Conflict,
    Found,
    Gone,
    Storage,
    Updated,
    refusal,
)
from django_sessionstores.storages.composed import Wrapper
from django_sessionstores.storages.contract import TRAITS
from django_sessionstores.storages.flows import FlowStorage
from django_sessionstores.storages.inspection import draw_ids
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.storages.limited import LimitedStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.registered import RegisteredStorage
from django_sessionstores.storages.revocation import EndedSession
from django_sessionstores.storages.tombstones import leave_tombstone
from django_sessionstores.testing import Twin, observed
from tests.storages.records import make_record


def _twins() -> list[str]:
    """Return the methods whose async twin runs them in a thread by default."""
    members = inspect.getmembers(CacheStorage, inspect.iscoroutinefunction)
    return [
        name[1:] for name, method in members if f"self.{name[1:]})" in inspect.getsource(method)
    ]


def test_what_a_storage_is_unless_it_says_otherwise() -> None:
    """A storage of a project says only in what it differs."""
    storage = CacheStorage()
    named = ["authoritative", "durable", "holds_in_key", "indexes_counts", "indexes_users"]
    named += ["keeps_changes", "keeps_client", "lists", "lists_lost", "max_payload"]
    named += ["native_async", "self_expiring", "shared", "thread_sensitive"]
    stated = {name for name in named if getattr(storage, name)}
    assert stated == {"authoritative", "keeps_client", "shared"}
    assert Storage().durable


def test_what_a_storage_answers_unless_it_says_otherwise() -> None:
    storage, record = Storage(), make_record()
    assert storage.write_obstacle() == storage.eviction_policy() == storage.first_expired(1) == ""
    assert storage.parts() == ()
    (node,) = storage.nodes()
    assert node == ""
    assert is_session_id(storage.nodes()[node])
    assert storage.mark(record) == b""
    assert storage.is_outdated(record) is False
    assert storage.native_async is False
    assert storage.in_transaction() is False
    assert async_to_sync(storage.ain_transaction)() is False
    assert storage.reindex() is None
    assert storage.index_is_complete() is None
    assert storage.key_of("a" * 32) == "a" * 32
    assert storage.key_of("a.b" * 10) is None
    assert storage.identify("a" * 32) == storage.locate("a" * 32) == session_id("a" * 32)
    assert storage.codec is conf.codec()


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_a_storage_asks_itself_for_what_it_does_not_say(
    monkeypatch: pytest.MonkeyPatch, awaited: bool
) -> None:
    """The default methods use ``read`` and ``delete`` of the storage."""
    storage, record, asked = Storage(), make_record(), list[tuple[Any, ...]]()

    def note(name: str, answer: Any) -> None:
        def method(*args: Any) -> Any:
            asked.append((name, *args))
            return answer

        monkeypatch.setattr(storage, name, method)

    note("read", record)
    note("delete", True)
    store, key = Twin(storage, awaited), "a" * 32
    assert store.find(key, "cookie") == Found(record)
    assert store.peek(key) is record
    assert store.read_latest("one") is record
    assert store.lookup("two") is record
    assert store.follow(record, "three") is record
    assert store.end("four", "key") is True
    located = ("read", session_id(key))
    ids = [("read", name) for name in ("one", "two", "three")]
    assert asked == [located, located, *ids, ("delete", "four")]


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_a_storage_of_flows_ends_many_sessions_by_its_flow_for_one(awaited: bool) -> None:
    """A storage of a project need not say how to end several."""

    class Written(FlowStorage):
        def _delete(self, session_id: str) -> Flow[bool]:
            yield from ()
            return session_id != "two"

    assert Twin(Written(), awaited).end_many(["one", "two", "three"]) == ["one", "three"]


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("kind", [Storage, FlowStorage])
@pytest.mark.parametrize("lasts", [0, 1, 2])
def test_a_store_that_stops_answering_while_several_sessions_end(
    kind: type[Any], awaited: bool, lasts: int
) -> None:
    """Those that have ended by then are told. If there are none, it is an outage."""

    def delete(self: Storage, session_id: str) -> bool:
        if session_id >= str(lasts):
            raise StorageUnavailable("no route to the store")
        return True

    def flow_of_delete(self: Storage, session_id: str) -> Flow[bool]:
        yield from ()
        return delete(self, session_id)

    written = {"delete": delete} if kind is Storage else {"_delete": flow_of_delete}
    storage = Twin(type("Written", (kind,), written)(), awaited)
    with nullcontext() if lasts else pytest.raises(StorageUnavailable):
        assert storage.end_many(["0", "1", "2"]) == ["0", "1", "2"][:lasts]


@pytest.mark.parametrize("name", _twins())
def test_an_async_method_does_what_the_sync_one_does(name: str) -> None:
    """A storage whose driver is not async writes the sync methods only."""
    parameters = list(inspect.signature(getattr(CacheStorage, name)).parameters)[1:]
    given, answer = tuple(object() for _ in parameters), object()
    asked: list[tuple[Any, ...]] = []

    def method(self: Any, *args: Any) -> Any:
        asked.append(args)
        return answer

    kind = type("Written", (CacheStorage,), {name: method})
    storage = kind.__new__(kind)
    returned = async_to_sync(getattr(storage, f"a{name}"))(*given)
    assert asked == [given]
    annotation = inspect.signature(getattr(CacheStorage, name)).return_annotation
    assert returned is (None if annotation == "None" else answer)


def test_a_tombstone_takes_the_place_of_a_record_that_is_stored_meanwhile() -> None:
    storage, record = MemoryStorage(10), make_record()
    tombstone = make_tombstone(record.id, State.ENDED, now=now(), seconds=60)
    created: list[object] = []

    def create(name: str) -> None:
        if name == "create" and not created:
            created.append(None)
            storage.create(record, now())

    with observed(storage, before=create):
        outcome = run(leave_tombstone(storage, tombstone))
    assert created
    assert (outcome.is_stored, outcome.has_ended) == (True, True)
    left = storage.read(record.id)
    assert left is not None
    assert left.state is State.ENDED


def test_a_tombstone_is_stored_although_its_record_goes_away_meanwhile() -> None:
    storage, record = MemoryStorage(10), make_record()
    storage.create(record, now())
    tombstone = make_tombstone(record.id, State.ENDED, now=now(), seconds=60)

    def remove(name: str) -> None:
        if name == "update":
            storage._sessions.clear()

    with observed(storage, before=remove):
        outcome = run(leave_tombstone(storage, tombstone))
    assert (outcome.is_stored, outcome.has_ended) == (True, False)
    left = storage.read(record.id)
    assert left is not None
    assert left.state is State.ENDED


def test_an_old_key_ends_a_session_that_cannot_be_read() -> None:
    """Within the grace it leads to that session, whatever is in there."""
    storage, record = MemoryStorage(10), make_record()
    tombstone = make_tombstone("b" * 40, State.ROTATED, now=now(), seconds=60, successor=record.id)
    for each in (record, tombstone):
        storage.create(each, now())

    def fail(name: str) -> None:
        if name == "lookup":
            looked_up.append(name)
            if len(looked_up) == 2:
                raise UnreadablePayload("damaged")

    looked_up: list[str] = []
    with observed(storage, before=fail):
        ended = run(revocation.end(storage, tombstone.id))
    assert ended == EndedSession(record.id, None)
    assert storage.read(record.id) is None


@pytest.mark.parametrize("state", [State.SUPERSEDED, State.ROTATED])
@pytest.mark.parametrize("since", [None, -1, 0, 1])
@pytest.mark.parametrize("is_spared", [False, True])
def test_an_old_key_ends_what_it_led_to_when_the_caller_began(
    state: State, since: int | None, is_spared: bool
) -> None:
    """Code that knows only an old key means its session. Of a key that was superseded before, that
    is no longer the session with the new one. A key in its grace period still leads there."""
    storage, record, moment = MemoryStorage(10), make_record(), now()
    tombstone = make_tombstone(
        "b" * 40, state, now=moment, seconds=60, of=record, successor=record.id
    )
    for each in (record, tombstone):
        storage.create(each, moment)
    began = None if since is None else moment + since
    spared = {record.id} if is_spared else set()
    ended = run(revocation.end(storage, tombstone.id, since=began, spared=spared))
    is_ended = state is State.ROTATED or not (is_spared or since == 1)
    assert ended == (EndedSession(record.id, record) if is_ended else None)
    assert (storage.read(record.id) is None) is is_ended


def test_an_old_key_of_nothing_ends_nothing() -> None:
    storage = MemoryStorage(10)
    for state in State.SUPERSEDED, State.ROTATED, State.ENDED:
        successor = "" if state is State.ENDED else "c" * 40
        record = make_tombstone("b" * 40, state, now=now(), seconds=60, successor=successor)
        assert run(revocation.end(storage, record.id)) is None
        storage.create(record, now())
        assert run(revocation.end(storage, record.id)) is None
        storage._sessions.clear()


def test_a_session_that_is_stored_while_it_is_ended_is_ended() -> None:
    """By a migration, which has read it in the previous backend before."""
    storage, record = MemoryStorage(10), make_record()
    calls: list[str] = []

    def store(name: str) -> None:
        if name == "lookup" and name not in calls:
            MemoryStorage.create(storage, record, now())
        calls.append(name)

    with observed(storage, before=store):
        assert run(revocation.end(storage, record.id)) == EndedSession(record.id, None)
    assert storage.read(record.id) is None


@pytest.mark.parametrize("place", [0, 1])
def test_a_session_that_is_not_known_to_be_the_same_is_not_ended(place: int) -> None:
    """A login may have begun it. Only in the grace period this does not matter."""
    storage, record = MemoryStorage(10), make_record()
    tombstone = make_tombstone(
        "b" * 40, State.SUPERSEDED, now=now(), seconds=60, of=record, successor=record.id
    )
    for each in (record, tombstone):
        storage.create(each, now())
    looked_up = count()

    def fail(name: str) -> None:
        if name == "lookup" and next(looked_up) == place:
            raise UnreadablePayload("damaged")

    with observed(storage, before=fail):
        assert run(revocation.end(storage, tombstone.id)) is None
    assert storage.read(record.id) == record


def test_a_previous_backend_is_asked_for_the_key_at_hand_only() -> None:
    """The key of a session that was rotated since is not known."""
    asked: list[tuple[str, str | None]] = []

    class Asked(MemoryStorage):
        def end(self, session_id: str, presented: str | None) -> bool:
            asked.append((session_id, presented))
            return super().end(session_id, presented)

    storage, record = Asked(10), make_record()
    tombstone = make_tombstone("b" * 40, State.ROTATED, now=now(), seconds=60, successor=record.id)
    for each in (record, tombstone):
        storage.create(each, now())
    assert run(revocation.end(storage, tombstone.id, "key")) == EndedSession(record.id, record)
    assert asked == [(tombstone.id, "key"), (record.id, None)]


@pytest.mark.parametrize("change", [{"user_id": "7"}, {"created": 1}])
def test_an_old_key_does_not_end_what_a_login_has_begun(change: dict[str, Any]) -> None:
    storage, record = MemoryStorage(10), make_record()
    tombstone = make_tombstone(
        "b" * 40, State.SUPERSEDED, now=now(), seconds=60, of=record, successor=record.id
    )
    for each in (make_record(**change), tombstone):
        storage.create(each, now())
    assert run(revocation.end(storage, tombstone.id)) is None
    assert storage.read(record.id) is not None


SITE = MemoryStorage(1).sites()[0]


def is_held(locks: MemoryStorage) -> bool:
    """Return whether a login of the user 7 holds the lock."""
    lock = locks.read(limited_storage._lock_of("7", "", now()).id)
    assert lock is not None
    return lock.expires > now()


@pytest.mark.parametrize(("milliseconds", "is_over"), [(9_999, False), (10_000, True)])
def test_the_lock_of_a_process_that_was_killed_expires(milliseconds: int, is_over: bool) -> None:
    """The clock stands still here: a login waits for the time that an unchanged lock lasts."""
    locks, moment, seconds = MemoryStorage(10), now(), count()
    limited = LimitedStorage(MemoryStorage(10), locks, most=1, refuses=False)
    locks.create(limited_storage._lock_of("7", "", moment), moment)
    with clock.use(now=lambda: moment + milliseconds, monotonic=lambda: next(seconds)):
        limited.create(make_record(user_id="7"), moment + milliseconds)
    assert (next(seconds) < 10) is is_over


@pytest.mark.parametrize("is_watched", [False, True], ids=["", "watched"])
@pytest.mark.parametrize("loses_lock", [False, True], ids=["", "loses its lock"])
def test_a_login_that_is_cancelled_keeps_no_lock(loses_lock: bool, is_watched: bool) -> None:
    """The browser has gone away, at whichever call, before or after the store has done it. Others
    of the same user would wait for 10 seconds."""
    flow.watch((lambda call, seconds, result: None) if is_watched else None)
    try:
        for at in range(20):
            was_cancelled = [_cancel_login(at, done, loses_lock) for done in (False, True)]
            assert was_cancelled == [at < (9 if loses_lock else 5)] * 2
    finally:
        flow.watch(None)


def _cancel_login(at: int, is_done: bool, loses_lock: bool) -> bool:
    """Cancel a login at its call with a number; return whether it has made so many calls."""
    storage, locks, calls = MemoryStorage(100), MemoryStorage(100), count()
    limited = LimitedStorage(storage, locks, most=1, refuses=False)
    storage.create(make_record("b" * 40, user_id="7", created=0), now())
    cancelled = False

    def hook(name: str) -> None:
        nonlocal cancelled
        if loses_lock and not cancelled and name == "end_many":
            locks._tombstones.clear()
        if not cancelled and next(calls) == at:
            cancelled = True
            raise asyncio.CancelledError

    hooks: Any = {"after" if is_done else "before": hook}
    with observed(storage, locks, **hooks), suppress(asyncio.CancelledError):
        async_to_sync(limited.acreate)(make_record(user_id="7"), now())
    lock = locks.read(limited_storage._lock_of("7", "", now()).id)
    assert lock is None or lock.expires == 1, (at, is_done)
    return cancelled


def test_a_login_does_not_wait_for_a_lock_for_ever() -> None:
    """Logins that wait one behind the other would use up all threads of a site."""
    locks, moment = MemoryStorage(10), now()
    limited = LimitedStorage(MemoryStorage(10), locks, most=1, refuses=False)
    locks.create(limited_storage._lock_of("7", "", moment), moment)
    passed, seconds = count(moment, 400), count()
    is_changing = False

    def hook(name: str) -> None:
        """Let another login take the lock before each look."""
        nonlocal is_changing
        if not is_changing:
            is_changing = True
            present = clock.now()
            lock = limited_storage._lock_of("7", "", present)
            held = locks.read(lock.id)
            assert held is not None
            assert isinstance(locks.update(lock, held, moment), Updated)
            is_changing = False

    with (
        observed(locks, before=hook),
        clock.use(now=lambda: next(passed), monotonic=lambda: next(seconds)),
        pytest.raises(StorageUnavailable, match=r"MAX_SESSIONS.* for 20 seconds"),
    ):
        limited.create(make_record(user_id="7"), moment)
    assert 21 <= next(seconds) - 1 <= 24  # Each turn looks at the clock up to three times.


@pytest.mark.parametrize("is_over", [False, True], ids=["live", "ended"])
def test_a_login_that_has_lost_its_lock_counts_again(is_over: bool) -> None:
    """Another login may have been counted meanwhile, and may have ended this one."""
    storage, locks = MemoryStorage(100), MemoryStorage(100)
    limited = LimitedStorage(storage, locks, most=1, refuses=False)
    record, other = make_record(user_id="7"), make_record("b" * 40, user_id="7", created=0)
    seen: list[str] = []

    def meanwhile(name: str) -> None:
        if name == "create" and name not in seen:
            locks._tombstones.clear()
            storage.create(other, now())
        if name == "lookup" and name not in seen and is_over:
            storage.delete(record.id)
        seen.append(name)

    with observed(storage, before=meanwhile):
        outcome = limited.create(record, now())
    assert "lookup" in seen
    live = {each for each in (record.id, other.id) if storage.read(each)}
    assert live == ({other.id} if is_over else {record.id})
    assert isinstance(outcome, Updated)
    assert [each.id for each in outcome.evicted] == ([] if is_over else [other.id])
    assert not is_held(locks)


def test_a_login_that_has_lost_its_lock_is_refused_after_all() -> None:
    """Another login was counted meanwhile, and there is room for one only."""
    storage, locks = MemoryStorage(100), MemoryStorage(100)
    limited = LimitedStorage(storage, locks, most=1, refuses=True)
    record, other = make_record(user_id="7"), make_record("b" * 40, user_id="7", created=0)

    def meanwhile(name: str) -> None:
        if name == "create" and storage.read(other.id) is None:
            locks._tombstones.clear()
            MemoryStorage.create(storage, other, now())

    with observed(storage, before=meanwhile), pytest.raises(SessionLimitReached):
        limited.create(record, now())
    assert storage.read(record.id) is None
    assert storage.read(other.id) == other
    assert not is_held(locks)


def test_a_login_that_fails_keeps_no_lock() -> None:
    """The next login would wait until the lock expires."""
    storage, locks = MemoryStorage(100), MemoryStorage(100)
    limited = LimitedStorage(storage, locks, most=1, refuses=False)

    def fail(name: str) -> None:
        if name == "create":
            assert is_held(locks)
            raise StorageUnavailable(f"{name} is broken")

    with observed(storage, before=fail), pytest.raises(StorageUnavailable, match="is broken"):
        limited.create(make_record(user_id="7"), now())
    assert not is_held(locks)


def test_a_login_whose_lock_cannot_be_released_is_stored() -> None:
    """The lock ends by itself, and the session is there already."""
    storage, locks = MemoryStorage(100), MemoryStorage(100)
    limited = LimitedStorage(storage, locks, most=1, refuses=True)
    record, asked = make_record(user_id="7"), list[str]()

    def fail(name: str) -> None:
        asked.append(name)
        if len(asked) > 1:
            raise StorageUnavailable(f"{name} is broken")

    with observed(locks, before=fail):
        assert isinstance(limited.create(record, now()), Updated)
    assert asked == ["create", "update"]
    assert storage.read(record.id) == record


@pytest.mark.parametrize(
    ("before", "user_id"), [(None, None), ("7", "7"), ("7", None)], ids=["nobody", "same", "left"]
)
@pytest.mark.parametrize("write", ["rotate", "update"])
def test_a_write_that_is_no_login_is_not_limited(
    before: str | None, user_id: str | None, write: str
) -> None:
    """The limit may have been lowered since the logins. A request that goes on must not fail."""
    storage, locks = MemoryStorage(100), MemoryStorage(100)
    limited = LimitedStorage(storage, locks, most=1, refuses=True)
    base, other = make_record(user_id=before), make_record("b" * 40, user_id="7")
    for each in base, other:
        storage.create(each, now())
    if write == "update":
        outcome = limited.update(make_record(user_id=user_id, version=2), base, now())
    else:
        tombstone = make_tombstone(base.id, State.ROTATED, now=now(), seconds=60, of=base)
        outcome = limited.rotate(make_record("c" * 40, user_id=user_id), base, tombstone, now())
    assert isinstance(outcome, Updated)
    assert not locks._tombstones
    assert storage.read(other.id) == other


@pytest.mark.parametrize("state", [State.LIVE, State.ENDED])
def test_a_session_of_nobody_and_a_tombstone_take_no_lock(state: State) -> None:
    storage, locks = MemoryStorage(100), MemoryStorage(100)
    limited = LimitedStorage(storage, locks, most=1, refuses=True)
    storage.create(make_record("b" * 40, user_id="7"), now())
    user_id = None if state is State.LIVE else "7"
    assert isinstance(limited.create(make_record(state=state, user_id=user_id), now()), Updated)
    assert not locks._tombstones


@pytest.mark.parametrize("write", ["rotate", "update"])
@pytest.mark.parametrize("user_id", [None, "8"])
def test_a_write_by_which_another_user_logs_in_is_limited(write: str, user_id: str | None) -> None:
    storage, locks = MemoryStorage(100), MemoryStorage(100)
    limited = LimitedStorage(storage, locks, most=1, refuses=True)
    base, other = make_record(user_id=user_id), make_record("b" * 40, user_id="7")
    for each in base, other:
        storage.create(each, now())
    tombstone = make_tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60, of=base)
    args: dict[str, tuple[Any, ...]] = {
        "rotate": (make_record("c" * 40, user_id="7"), base, tombstone),
        "update": (make_record(user_id="7", version=2), base),
    }
    with pytest.raises(SessionLimitReached):
        getattr(limited, write)(*args[write], now())
    assert storage.read(base.id) == base
    assert not is_held(locks)


@pytest.mark.parametrize(
    ("version", "moment", "kind"),
    [(2, 999, type(None)), (2, 1000, Gone), (3, 999, Conflict), (1, 999, Conflict)],
    ids=["same", "expired", "newer", "older"],
)
def test_a_write_is_refused_if_its_base_is_not_what_is_stored(
    version: int, moment: int, kind: type[object]
) -> None:
    """Storages that compare versions under a lock of their own share this."""
    base, current = make_record(version=2), make_record(version=version, expires=1000)
    refused = refusal(current, base, moment)
    assert type(refused) is kind
    if isinstance(refused, Conflict):
        assert refused.current is current
    assert refusal(None, base, moment) == Gone()


@pytest.mark.parametrize("trait", [*TRAITS, "native_async", "codec"])
def test_a_wrapper_is_what_the_storage_in_it_is(trait: str) -> None:
    """A wrapper has the properties of its storage, on which the checks and the sessions depend."""
    for value in True, False:
        inner = type("Inner", (MemoryStorage,), {trait: value})(10)
        assert getattr(Wrapper(inner), trait) is value


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *[
            ("describe", 0),
            ("key_of", 1),
            ("identify", 1),
            ("stated_id", 1),
            ("locate", 1),
            ("mark", 1),
        ],
        *[("is_outdated", 1), ("first_expired", 1), ("index_is_complete", 0)],
        *[("eviction_policy", 0), ("after_rollback", 1), ("close", 0)],
        *[("namespace", 0), ("sites", 0), ("mark_by", 1), ("summarize", 2), ("end_each", 2)],
    ],
)
def test_a_wrapper_asks_the_storage_in_it(
    name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what has no async twin."""
    inner, answer, asked = MemoryStorage(10), object(), list[tuple[object, ...]]()

    def method(*args: object) -> object:
        asked.append(args)
        return answer

    monkeypatch.setattr(inner, name, method)
    args = tuple(object() for _ in range(number))
    returned = getattr(Wrapper(inner), name)(*args)
    assert asked == [args]
    assert returned is (None if name in {"after_rollback", "close", "mark_by"} else answer)


@pytest.mark.parametrize("kind", ["layered", "registered"])
def test_a_storage_closes_all_that_it_consists_of(kind: str) -> None:
    closed: list[str] = []

    class Closed(CacheStorage):
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            closed.append(self.name)

    parts = Closed("a"), Closed("b")
    if kind == "layered":
        LayeredStorage(*parts, lease=60, retry=5).close()
    else:
        RegisteredStorage(*parts, window=60).close()
    assert closed == ["a", "b"]


def test_a_storage_with_another_mark_has_records_of_its_own() -> None:
    """In the same store: only those with that mark are listed, counted and ended."""
    storage = MemoryStorage(10)
    other = storage.with_mark(5)
    moment = now()
    storage.create(make_record("1" * 40, site=storage.sites()[0]), moment)
    storage.create(make_record("2" * 40, site=5), moment)
    assert [each.id for each in other.scan("", 10, None).records] == ["2" * 40]
    assert [each.id for each in storage.scan("", 10, None).records] == ["1" * 40]
    assert other.count(moment, None) == storage.count(moment, None) == 1
    assert not other.delete("1" * 40)
    assert not storage.delete("2" * 40)
    assert other.delete("2" * 40)
    assert storage.sites() != (5,)


def test_an_id_is_drawn_for_each_node() -> None:
    nodes = [f"node {number}" for number in range(20)]
    found = draw_ids(nodes, lambda each: nodes[int(each, 16) % 20])
    assert [*found] == nodes
    assert [nodes[int(each, 16) % 20] for each in found.values()] == nodes
    assert [*draw_ids(nodes, lambda _: nodes[3])] == [nodes[3]]
