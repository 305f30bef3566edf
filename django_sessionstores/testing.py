"""The conformance suite: what every storage and every engine promises, as tests.

For whoever writes a storage or an engine. The classes are plain mixins for pytest and for
``unittest``; each runs once with the blocking methods and, with ``awaited = True``, once with
their async twins::

    class TestMyStorage(StorageContract):
        @pytest.fixture(autouse=True)
        def _storage(self):
            self.storage = MyStorage(...)

    class TestMyStorageAsync(TestMyStorage):
        awaited = True

    class TestMyEngine(EngineContract):
        SessionStore = my_engine.SessionStore

    class TestMyEngineInRequests(RequestContract):
        SessionStore = my_engine.SessionStore

    class TestMyEngineInRequestsUnderAnotherMiddleware(TestMyEngineInRequests):
        SessionMiddleware = middleware.SessionMiddleware

The store must be reachable and, for the purge tests, hold no other sessions; nothing may wrap a
test in a transaction, because some tests write from threads. A storage that declares that it
cannot do something has the tests of it skipped, with the reason.
"""
# ruff: noqa: S101

from __future__ import annotations

import asyncio
import datetime
import decimal
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar, Token
from functools import partial
from typing import Any, ClassVar, Final
from unittest import SkipTest, mock

import msgspec
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings as django_settings
from django.contrib.sessions.backends.base import CreateError
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.db import connections
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from . import session as session_module
from .exceptions import (
    PayloadTooLarge,
    SessionEnded,
    StorageUnavailable,
    UnreadablePayload,
    UnserializableValue,
)
from .records import Record, State, draw_key, session_id, tombstone
from .session import SessionStore, now
from .storages.base import CacheStorage, Conflict, Storage, Taken, Updated

HOUR: Final = 3_600_000
DAY: Final = 24 * HOUR

STORAGE_METHODS: Final = (
    *("read", "create", "update", "touch", "delete", "purge", "rotate"),
    *("fill", "bury"),
    *("lookup", "scan", "count"),
)

MALFORMED_KEYS: Final = (
    *("", "short", "a" * 129, "a" * 10_000, "nul\x00nul\x00nul", "line\r\nbreak", "bell\x07bell"),
    *(
        "../../../../etc/passwd",
        "..\\..\\windows\\win.ini",
        "%2e%2e%2fetc%2fpasswd",
        "a" * 31 + "/",
    ),
    *("schlüsselschlüssel", "١٢٣٤٥٦٧٨٩٠", "a b c d e f g h", "a" * 31 + "\n", "{braces}{braces}"),
    *("'; DROP TABLE x; --", "\udcff" * 12),
)
"""Cookie values that no engine ever handed out."""


class Twin:
    """Calls an object's blocking methods or, where ``awaited``, their async twins.

    What has no twin is taken as it is. ``set`` is the blocking name for ``session[key] = value``.
    ``drive`` makes a blocking function of an awaited one; by itself in an event loop for each call.
    """

    def __init__(
        self, target: Any, awaited: bool, drive: Callable[[Any], Any] = async_to_sync
    ) -> None:
        self.target = target
        self._awaited = awaited
        self._drive = drive

    def __getattr__(self, name: str) -> Any:
        if self._awaited and hasattr(type(self.target), "a" + name):
            return self._drive(getattr(self.target, "a" + name))
        return getattr(self.target, "__setitem__" if name == "set" else name)


Hook = Callable[[str], None]
# Which storages are in the middle of which call.
_open_calls: ContextVar[tuple[tuple[Storage, str], ...]] = ContextVar("open_calls", default=())


@contextmanager
def observed(
    *storages: Storage, before: Hook | None = None, after: Hook | None = None
) -> Iterator[list[str]]:
    """Watch the calls of storages: the list that it gives grows by the name of each.

    Async twins are listed under the blocking name. The hooks are called, blocking and with that
    name, before and after each. Calls that a storage makes of itself are not watched, because it
    may hold a lock; but for those of the default `Storage.rotate`, for which the hooks are called.
    """
    calls: list[str] = []

    def enter(storage: Storage, name: str) -> tuple[Token[Any], bool]:
        """Note the call; whether the hooks are to be told."""
        opened = _open_calls.get()
        if not opened:
            calls.append(name)
        own = [outer for one, outer in opened if one is storage]
        default_rotate = set(own) == {"rotate"} and type(storage).rotate is Storage.rotate
        told = not own or (default_rotate and name != "rotate")
        return _open_calls.set((*opened, (storage, name))), told

    def blocking(storage: Storage, name: str) -> Callable[..., Any]:
        method = getattr(storage, name)

        def call(*args: Any) -> Any:
            token, told = enter(storage, name)
            # In an event loop a hook could not make awaited calls of its own. The async call that
            # this one is part of has told it.
            told = told and not _in_event_loop()
            try:
                if before and told:
                    before(name)
                result = method(*args)
                if after and told:
                    after(name)
                return result
            finally:
                _open_calls.reset(token)

        return call

    def awaited(storage: Storage, name: str) -> Callable[..., Any]:
        method = getattr(storage, "a" + name)

        async def call(*args: Any) -> Any:
            token, told = enter(storage, name)
            try:
                if before and told:
                    await sync_to_async(before)(name)
                result = await method(*args)
                if after and told:
                    await sync_to_async(after)(name)
                return result
            finally:
                _open_calls.reset(token)

        return call

    with ExitStack() as stack:
        for storage in storages:
            for name in STORAGE_METHODS:
                if hasattr(storage, name):
                    for twin, call in (
                        (name, blocking(storage, name)),
                        ("a" + name, awaited(storage, name)),
                    ):
                        stack.enter_context(mock.patch.object(storage, twin, call))
        yield calls


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def inner_storages(storage: Storage) -> list[Storage]:
    """The storages that a storage is made of, at any depth, without itself."""
    inner = [value for value in vars(storage).values() if isinstance(value, Storage)]
    deeper = [each for one in inner for each in inner_storages(one)]
    return list(dict.fromkeys([*inner, *deeper]))


def stores_of(storage: Storage) -> list[Storage]:
    """The storage and what it is made of, without those whose records are in the keys."""
    return [one for one in (storage, *inner_storages(storage)) if not one.holds_in_key]


@contextmanager
def at(moment: int) -> Iterator[None]:
    """Let sessions believe that it is ``moment``, in milliseconds since the epoch."""
    with mock.patch.object(session_module, "now", return_value=moment):
        yield


@contextmanager
def suspicions() -> Iterator[list[str]]:
    """The messages logged on ``django.security.SuspiciousSession`` meanwhile."""
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Handler()
    logger = logging.getLogger("django.security.SuspiciousSession")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def in_threads(functions: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of functions that run at the same time, a thread for each."""

    def call(function: Callable[[], Any]) -> Any:
        try:
            return function()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(call, functions))


def bare(record: Record | None) -> Record | None:
    """The record without its handle, to be compared."""
    return record and msgspec.structs.replace(record, handle=None)


def successor(record: Record, **changes: Any) -> Record:
    """The next version of a record."""
    return msgspec.structs.replace(record, **{"version": record.version + 1, **changes})


class StorageContract:
    """What `storages.base.Storage` asks of a storage, method by method."""

    storage: Storage
    """The storage under test, given by the subclass."""
    awaited: ClassVar[bool] = False

    @property
    def store(self) -> Any:
        if self.storage.holds_in_key:
            raise SkipTest("records are in the keys: there is no store to be held to this")
        return Twin(self.storage, self.awaited)

    def new_record(self, **fields: Any) -> Record:
        """A record as a session makes it, not stored yet."""
        moment = now()
        values: dict[str, Any] = {
            "id": session_id(draw_key()),
            "payload": bytes(range(256)),
            "user_id": "7",
            "created": moment - 2,
            "last_activity": moment - 1,
            "expires": moment + HOUR,
            "ip": "2001:db8::1",
            "user_agent": "Browsér/1.0 (😀)",
            **fields,
        }
        return Record(**values)

    def stored(self, **fields: Any) -> Record:
        """A record that the store holds, as reading it gives it."""
        record = self.new_record(**fields)
        assert isinstance(self.store.create(record, now()), Updated)
        held = self.store.read(record.id)
        assert isinstance(held, Record)
        return held

    def replace(self, base: Record, **changes: Any) -> Record:
        """The record after a save that must succeed."""
        outcome = self.store.update(successor(base, **changes), base, now())
        assert isinstance(outcome, Updated), outcome
        return outcome.record

    def assert_gone(self, record_id: str) -> None:
        held = self.store.read(record_id)
        assert held is None or held.state is State.ENDED, held

    # --- read and create -------------------------------------------------------------------

    def test_an_absent_record_reads_as_none(self) -> None:
        """A miss is a value, not an error: an error would be an outage."""
        assert self.store.read(session_id(draw_key())) is None

    def test_every_field_comes_back_as_it_was(self) -> None:
        """Times to the millisecond, bytes of every value, text beyond ASCII."""
        record = self.new_record()
        self.store.create(record, now())
        assert bare(self.store.read(record.id)) == record

    def test_an_anonymous_record_has_no_user(self) -> None:
        """``None`` must not come back as the text "None" or "", which would be a user."""
        assert self.stored(user_id=None).user_id is None

    def test_a_payload_of_64_kb_comes_back(self) -> None:
        """Column and packet sizes must not cut a payload."""
        payload = os.urandom(65_536)
        assert self.stored(payload=payload).payload == payload

    def test_create_gives_back_what_it_stored(self) -> None:
        """The next save of the same object starts from it, without a read."""
        record = self.new_record()
        outcome = self.store.create(record, now())
        assert bare(outcome.record) == record
        self.replace(outcome.record)

    def test_create_never_overwrites(self) -> None:
        """Two sessions under one id would hand one visitor's data to another."""
        held = self.stored()
        intruder = self.new_record(id=held.id, payload=b"other", user_id="8")
        assert isinstance(self.store.create(intruder, now()), Taken)
        assert bare(self.store.read(held.id)) == bare(held)

    def test_of_simultaneous_creates_one_succeeds(self) -> None:
        """Creating is atomic: a look and a write apart would let two through."""
        for _ in range(5):
            record_id = session_id(draw_key())
            records = [self.new_record(id=record_id, payload=bytes([n])) for n in range(4)]
            outcomes = in_threads([partial(self.contend, record) for record in records])
            (winner,) = [o.record for o in outcomes if isinstance(o, Updated)]
            assert self.store.read(record_id).payload == winner.payload

    # --- update ----------------------------------------------------------------------------

    def test_update_stores_the_next_version(self) -> None:
        """Every field of the new record replaces the old one, the user included."""
        base = self.stored()
        record = self.new_record(id=base.id, version=2, payload=b"next", user_id="8")
        outcome = self.store.update(record, base, now())
        assert isinstance(outcome, Updated)
        assert bare(self.store.read(base.id)) == record

    def test_update_after_update_needs_no_read(self) -> None:
        """The handle of an outcome is fresh, or the second save of a request would conflict."""
        base = self.stored()
        second = self.replace(base, payload=b"2")
        assert self.replace(second, payload=b"3").version == base.version + 2

    def test_update_of_a_former_version_brings_the_current_one(self) -> None:
        """A lost update otherwise; and the merge needs the winner's record."""
        base = self.stored()
        winner = self.replace(base, payload=b"winner")
        outcome = self.store.update(successor(base, payload=b"loser"), base, now())
        assert isinstance(outcome, Conflict)
        assert bare(outcome.current) == bare(winner)
        assert self.store.read(base.id).payload == b"winner"

    def test_the_record_of_a_conflict_can_be_updated(self) -> None:
        """Its handle is good, or a contested save would never come to an end."""
        base = self.stored()
        self.replace(base, payload=b"winner")
        current = self.store.update(successor(base), base, now()).current
        assert self.replace(current, payload=b"merged").payload == b"merged"

    def test_update_of_an_absent_record_does_nothing(self) -> None:
        """A save after logout must not make the session anew."""
        absent = self.new_record()
        assert not isinstance(self.store.update(successor(absent), absent, now()), Updated)
        assert self.store.read(absent.id) is None

    def test_update_of_an_expired_record_does_nothing(self) -> None:
        """An expired session must not be revived by a late save, also before it is purged."""
        base = self.stored()
        late = base.expires + 1
        revived = successor(base, expires=late + HOUR)
        assert not isinstance(self.store.update(revived, base, late), Updated)

    def test_of_simultaneous_updates_one_succeeds(self) -> None:
        """Compare-and-set is atomic: this is what no lost update stands on."""
        base = self.stored()
        for _ in range(5):
            records = [successor(base, payload=bytes([n])) for n in range(4)]
            outcomes = in_threads([partial(self.contend, record, base) for record in records])
            (winner,) = [o.record for o in outcomes if isinstance(o, Updated)]
            held = self.store.read(base.id)
            assert (held.version, held.payload) == (base.version + 1, winner.payload)
            base = held

    def contend(self, record: Record, base: Record | None = None) -> Any:
        """What the storage says to one of several that write at the same time."""
        try:
            if base is None:
                return self.store.create(record, now())
            return self.store.update(record, base, now())
        except StorageUnavailable as busy:  # A deadlock, for example: not done, and it says so.
            return busy

    def test_a_payload_over_the_limit_is_refused(self) -> None:
        """The stored record stays whole: a cut payload is a lost session."""
        limit = self.storage.max_payload
        if limit is None:
            raise SkipTest("the storage declares no max_payload")
        base = self.stored(payload=b"small")
        record = successor(base, payload=os.urandom(limit + 64 * 1024))
        with raises(PayloadTooLarge):
            self.store.update(record, base, now())
        assert self.store.read(base.id).payload == b"small"

    # --- tombstones ------------------------------------------------------------------------

    def buried(self, state: State = State.SUPERSEDED) -> Record:
        """A record that was live and is now a tombstone."""
        base = self.stored()
        grave = tombstone(base.id, state, now=now(), seconds=60)
        assert isinstance(self.store.update(grave, base, now()), Updated)
        return base

    def test_a_tombstone_reads_as_one(self) -> None:
        """So that a request with the old key is told apart from one with an unknown key."""
        held = self.store.read(self.buried().id)
        assert held.state is State.SUPERSEDED
        assert held.payload == b""

    def test_update_does_not_replace_a_tombstone(self) -> None:
        """A late save would make the old key resolve to a session again."""
        base = self.buried()
        outcome = self.store.update(successor(base), base, now())
        assert isinstance(outcome, Conflict)
        assert outcome.current.state is State.SUPERSEDED

    def test_touch_does_not_replace_a_tombstone(self) -> None:
        """A late touch would make the old key resolve to a session again."""
        base = self.buried()
        self.store.touch(base, base.expires + HOUR, now(), now())
        assert self.store.read(base.id).state is State.SUPERSEDED

    def test_delete_tells_whether_there_was_a_session(self) -> None:
        """One that goes on under another id was not ended, and whoever ended it must know."""
        record, grave = self.stored(), self.buried()
        assert self.store.delete(grave.id) is self.storage.deletes_blindly
        assert self.store.delete(record.id) is True
        assert self.store.delete(record.id) is False
        held = self.store.read(grave.id)
        assert held is None or held.state is not State.LIVE

    # --- touch -----------------------------------------------------------------------------

    def test_touch_moves_the_times_and_nothing_else(self) -> None:
        """A touch that rewrote the payload would undo a save made meanwhile."""
        base = self.stored()
        expires, active = base.expires + HOUR, base.last_activity + 5
        self.store.touch(base, expires, active, now())
        moved = msgspec.structs.replace(base, expires=expires, last_activity=active)
        assert bare(self.store.read(base.id)) == bare(moved)

    def test_touch_of_an_absent_record_creates_nothing(self) -> None:
        """Logout, then the touch of a request that had read the session before."""
        absent = self.new_record()
        self.store.touch(absent, absent.expires + HOUR, now(), now())
        assert self.store.read(absent.id) is None

    def test_touch_of_a_former_version_does_nothing(self) -> None:
        """Who saved since may have set a shorter lifetime, which must hold."""
        base = self.stored()
        saved = self.replace(base, expires=base.expires - HOUR // 2)
        self.store.touch(base, base.expires + HOUR, now(), now())
        assert bare(self.store.read(base.id)) == bare(saved)

    def test_touch_of_an_expired_record_does_not_revive_it(self) -> None:
        """Expired is expired, also before it is purged."""
        base = self.stored()
        late = base.expires + 1
        self.store.touch(base, late + HOUR, late, late)
        held = self.store.read(base.id)
        assert held is None or held.expires <= late

    def test_update_after_touch_keeps_what_it_saves(self) -> None:
        """The request that saves may have loaded before another one touched."""
        base = self.stored()
        self.store.touch(base, base.expires + HOUR, now(), now())
        outcome = self.store.update(successor(base, payload=b"saved"), base, now())
        if isinstance(outcome, Conflict):  # Allowed where a touch changes the handle.
            assert outcome.current.version == base.version
            self.replace(outcome.current, payload=b"saved")
        assert self.store.read(base.id).payload == b"saved"

    # --- delete ----------------------------------------------------------------------------

    def test_a_deleted_record_is_gone(self) -> None:
        """Logout."""
        base = self.stored()
        self.store.delete(base.id)
        self.assert_gone(base.id)

    def test_delete_is_harmless_where_there_is_nothing(self) -> None:
        """Logging out twice, or of an expired session, is no error."""
        base = self.stored()
        for _ in range(2):
            self.store.delete(base.id)
        self.store.delete(session_id(draw_key()))

    def test_update_does_not_revive_a_deleted_record(self) -> None:
        """A save that ends after the logout."""
        base = self.stored()
        self.store.delete(base.id)
        assert not isinstance(self.store.update(successor(base), base, now()), Updated)
        self.assert_gone(base.id)

    def test_touch_does_not_revive_a_deleted_record(self) -> None:
        """A read that ends after the logout."""
        base = self.stored()
        self.store.delete(base.id)
        self.store.touch(base, base.expires + HOUR, now(), now())
        self.assert_gone(base.id)

    # --- rotate ----------------------------------------------------------------------------

    def rotate(self, base: Record, **fields: Any) -> tuple[Record, Any]:
        """The record under its new id, and what the storage said."""
        record = self.new_record(payload=b"rotated", **fields)
        grave = tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60)
        return record, self.store.rotate(record, base, grave, now())

    def test_rotate_moves_the_session_to_its_new_id(self) -> None:
        """Login: the old key no longer resolves, the new one does."""
        base = self.stored(user_id=None)
        record, outcome = self.rotate(base)
        assert isinstance(outcome, Updated)
        assert bare(outcome.record) == record
        assert bare(self.store.read(record.id)) == record
        assert self.store.read(base.id).state is State.SUPERSEDED

    def test_a_rotated_record_can_be_updated(self) -> None:
        """Its handle is fresh."""
        _, outcome = self.rotate(self.stored())
        self.replace(outcome.record, payload=b"saved")

    def test_rotate_over_a_newer_version_does_nothing(self) -> None:
        """The save made meanwhile would be missing from the new session."""
        base = self.stored()
        winner = self.replace(base, payload=b"winner")
        record, outcome = self.rotate(base)
        assert isinstance(outcome, Conflict)
        assert bare(outcome.current) == bare(winner)
        self.assert_gone(record.id)
        assert bare(self.store.read(base.id)) == bare(winner)

    def test_rotate_over_a_deleted_record_does_nothing(self) -> None:
        """A new key must not bring back a session that was logged out."""
        base = self.stored()
        self.store.delete(base.id)
        record, outcome = self.rotate(base)
        assert not isinstance(outcome, Updated)
        self.assert_gone(record.id)
        self.assert_gone(base.id)

    def test_rotate_to_a_taken_id_does_nothing(self) -> None:
        """Neither session may lose its record."""
        base, other = self.stored(), self.stored()
        _, outcome = self.rotate(base, id=other.id)
        assert isinstance(outcome, Taken)
        assert bare(self.store.read(other.id)) == bare(other)
        assert bare(self.store.read(base.id)) == bare(base)

    def test_of_simultaneous_rotations_one_succeeds(self) -> None:
        """Two live sessions of one login would need two logouts."""
        base = self.stored()
        outcomes = in_threads([lambda: self.rotate(base) for _ in range(4)])
        (winner,) = [record for record, said in outcomes if isinstance(said, Updated)]
        for record, _ in outcomes:
            if record.id == winner.id:
                assert self.store.read(record.id).state is State.LIVE
            else:
                self.assert_gone(record.id)

    # --- purge -----------------------------------------------------------------------------

    def purge_all(self, moment: int, batch: int) -> list[int]:
        """What `purge` answers until it has nothing left to do."""
        if self.storage.self_expiring:
            raise SkipTest("the store drops expired records by itself")
        answers = [self.store.purge(moment, batch)]
        while answers[-1] and len(answers) < 100:
            answers.append(self.store.purge(moment, batch))
        return answers

    def test_purge_removes_what_has_expired_and_counts_it(self) -> None:
        """Tombstones included; what runs on stays."""
        dead = [self.stored(expires=now() + HOUR) for _ in range(3)]
        live = self.stored(expires=now() + DAY)
        grave = self.buried()
        moment = now() + 2 * HOUR
        assert sum(self.purge_all(moment, 100)) == 4
        for record in [*dead, grave]:
            held = self.store.read(record.id)
            # A cache in front may still hold a copy that says itself that it has expired.
            assert held is None or held.expires <= moment
        assert bare(self.store.read(live.id)) == bare(live)

    def test_purge_works_in_batches(self) -> None:
        """Never more than a batch, or a purge of millions would lock the store."""
        for _ in range(5):
            self.stored(expires=now() + HOUR)
        answers = self.purge_all(now() + 2 * HOUR, 2)
        assert max(answers) <= 2
        assert sum(answers) == 5

    def test_purge_spares_what_was_touched(self) -> None:
        """The expiry that counts is the stored one at that moment."""
        base = self.stored(expires=now() + HOUR)
        self.store.touch(base, now() + DAY, now(), now())
        assert self.purge_all(now() + 2 * HOUR, 10) == [0]
        assert self.store.read(base.id).state is State.LIVE

    # --- scan, count and lookup ------------------------------------------------------------

    def listed(self, user_id: str | None = None, limit: int = 2) -> list[Record]:
        """What all pages hold, together."""
        if not self.storage.lists:
            raise SkipTest("the storage keeps no list of its sessions")
        found, cursor = [], ""
        for _ in range(1000):
            records, cursor = self.store.scan(cursor, limit, user_id)
            assert len(records) <= limit
            found += records
            if not cursor:
                return found
        raise AssertionError("scanning does not end")

    def test_scan_pages_through_all_sessions(self) -> None:
        """Each once, with everything but its payload; whatever the size of a page. The size of
        the payload is right, or not told."""

        def without_payload(record: Record) -> Record:
            return msgspec.structs.replace(record, payload=b"", handle=None, size=None)

        stored = [self.stored(expires=now() + HOUR + n) for n in range(5)]
        sizes = {record.id: len(record.payload) for record in stored}
        for limit in (1, 2, 5, 100):
            found = self.listed(limit=limit)
            assert len(found) == len(stored), limit
            assert set(map(without_payload, stored)) == set(map(without_payload, found))
            for record in found:
                assert record.payload == b""
                assert record.size in {None, sizes[record.id]}

    def test_scan_shows_no_tombstones(self) -> None:
        """A session that got another id would be there twice."""
        grave = self.buried()
        assert grave.id not in {record.id for record in self.listed()}

    def test_scan_shows_no_deleted_session(self) -> None:
        """Who ended it must not find it again."""
        record, other = self.stored(), self.stored()
        self.store.delete(record.id)
        assert [each.id for each in self.listed()] == [other.id]

    def test_scan_of_a_user(self) -> None:
        """Anonymous sessions have no user, and are nobody's."""
        mine = {self.stored(user_id="7").id for _ in range(3)}
        for user_id in ("8", "77", None):
            self.stored(user_id=user_id)
        assert {record.id for record in self.listed("7")} == mine
        assert self.listed("9") == []

    def test_scan_tells_users_apart(self) -> None:
        """A database that takes capitals for small letters would end the sessions of others."""
        users = ("ab", "AB", "ab ", "\u00e1b", "a%", "a_")
        stored = {user_id: self.stored(user_id=user_id).id for user_id in users}
        for user_id, record_id in stored.items():
            assert [record.id for record in self.listed(user_id)] == [record_id]
            assert self.store.count(now(), user_id) == 1

    def test_scan_knows_the_user_of_a_rotated_session(self) -> None:
        """A login: the session is the user's under its new id."""
        record, outcome = self.rotate(self.stored(user_id=None), user_id="7")
        assert isinstance(outcome, Updated)
        assert [each.id for each in self.listed("7")] == [record.id]

    def test_scan_knows_the_user_of_an_updated_session(self) -> None:
        """And no longer the one of before."""
        record = self.replace(self.stored(user_id="7"), user_id="8")
        assert self.listed("7") == []
        assert [each.id for each in self.listed("8")] == [record.id]

    def test_count(self) -> None:
        """Of what is live: neither tombstones nor what has expired."""
        if not self.storage.lists:
            raise SkipTest("the storage keeps no list of its sessions")
        for user_id in ("7", "7", None):
            self.stored(user_id=user_id)
        self.buried()
        assert (self.store.count(now(), None), self.store.count(now(), "7")) == (3, 2)
        assert self.store.count(now() + 2 * DAY, None) == 0

    def test_lookup(self) -> None:
        """By the id alone, for who has no key."""
        record = self.stored(user_id="7")
        held = self.store.lookup(record.id)
        assert (held.id, held.user_id, held.expires) == (record.id, "7", record.expires)
        assert self.store.lookup(session_id(draw_key())) is None

    # --- a cache in front of another storage -------------------------------------------------

    @property
    def cache(self) -> Any:
        if not isinstance(self.storage, CacheStorage):
            raise SkipTest("not a CacheStorage")
        return self.store

    def copied(self, **fields: Any) -> Record:
        """A record of another storage, of which the cache keeps a copy."""
        record = self.new_record(**{"version": 3, **fields})
        self.cache.fill(record, now() + HOUR, now())
        return record

    def test_a_copy_reads_like_the_record(self) -> None:
        """What is served from the cache must not differ from what is in the database."""
        record = self.copied()
        held = self.store.read(record.id)
        assert (held.payload, held.version, held.user_id, held.state) == (
            *(record.payload, record.version, record.user_id, record.state),
        )

    def test_a_copy_does_not_replace_a_newer_one(self) -> None:
        """A slow reader fills the cache after a writer did."""
        record = self.copied()
        self.cache.fill(successor(record, version=2, payload=b"old"), now() + HOUR, now())
        assert self.store.read(record.id).payload == record.payload

    def test_a_copy_replaces_an_older_one(self) -> None:
        """A writer's copy, or the reads after the save would be stale."""
        record = self.copied()
        self.cache.fill(successor(record, payload=b"new"), now() + HOUR, now())
        assert self.store.read(record.id).payload == b"new"

    def test_a_copy_does_not_replace_a_tombstone(self) -> None:
        """Logout while a reader is on its way from the database to the cache."""
        record = self.copied()
        self.cache.bury(tombstone(record.id, State.ENDED, now=now(), seconds=60), now())
        self.cache.fill(successor(record), now() + HOUR, now())
        assert self.store.read(record.id).state is State.ENDED

    def test_a_tombstone_is_put_where_there_is_no_copy(self) -> None:
        """A reader may be about to fill it."""
        record = self.new_record(version=3)
        self.cache.bury(tombstone(record.id, State.SUPERSEDED, now=now(), seconds=60), now())
        self.cache.fill(record, now() + HOUR, now())
        assert self.store.read(record.id).state is State.SUPERSEDED


class EngineContract:
    """What a session over any storage does, case by case, without a request."""

    SessionStore: type[SessionStore]
    """The engine under test, given by the subclass."""
    awaited: ClassVar[bool] = False

    @property
    def storage(self) -> Storage:
        return self.SessionStore.storage()

    def session(self, key: str | None = None) -> Any:
        """A session object as a request gets it, as a `Twin`."""
        return Twin(self.SessionStore(key), self.awaited)

    def stored(self, **data: Any) -> str:
        """The key of a stored session."""
        session = self.session()
        session.update(data or {"color": "blue"})
        session.save()
        return str(session.session_key)

    def data(self, key: str | None) -> dict[str, Any]:
        """What a new request with this key finds."""
        return dict(self.session(key).items())

    def log_in(self, session: Any, user: str = "7") -> None:
        """As ``django.contrib.auth.login`` does it over an anonymous session, without the save."""
        session.cycle_key()
        session.update({"_auth_user_id": user, "_auth_user_backend": "b", "_auth_user_hash": "h"})

    def record(self, key: str) -> Record:
        held = self.storage.read(self.storage.locate(key))
        assert held is not None
        return held

    def needs_authority(self) -> None:
        if not self.storage.authoritative:
            raise SkipTest("a key holds what it was made with, and cannot be ended")

    # --- Lifecycle ---------------------------------------------------------------------------

    def test_an_unknown_key_reads_as_empty_and_leaves_no_record(self) -> None:
        """Scanners that make up keys must not fill the store."""
        key = draw_key()
        assert self.data(key) == {}
        assert not self.session(key).exists(key)

    def test_an_unknown_key_is_not_adopted(self) -> None:
        """Session fixation: a key that the attacker chose must never become a session."""
        key = draw_key()
        session = self.session(key)
        session.get("x")
        session.set("x", 1)
        session.save()
        assert session.session_key != key
        assert self.data(key) == {}
        assert self.data(session.session_key) == {"x": 1}

    def test_must_create_refuses_a_taken_key(self) -> None:
        """Two sessions must never share a key."""
        self.needs_authority()
        key = self.stored(color="blue")
        with raises(CreateError):
            self.session(key).save(must_create=True)
        assert self.data(key) == {"color": "blue"}

    def test_an_unchanged_save_makes_no_write(self) -> None:
        """The store's work should follow what happens, not how often save() is called."""
        session = self.session(self.stored())
        session.load()
        with observed(self.storage) as calls:
            session.get("color")
            session.save()
        assert "update" not in calls

    def test_a_change_that_was_undone_makes_no_write(self) -> None:
        """What counts is the data, not the history of the object."""
        session = self.session(self.stored(cart={"a": 1}))
        session.get("cart")["b"] = 2
        del session.get("cart")["b"]
        assert not session.modified

    def test_a_nested_change_is_saved(self) -> None:
        """Django's engines lose it unless ``modified`` is set by hand."""
        key = self.stored(cart={"lines": [{"n": 1}]})
        session = self.session(key)
        session.get("cart")["lines"][0]["n"] = 2
        assert session.modified
        session.save()
        assert self.data(session.session_key) == {"cart": {"lines": [{"n": 2}]}}

    def test_delete_is_harmless_where_there_is_nothing(self) -> None:
        """Logging out twice is no error, nor is a key that nobody has."""
        self.needs_authority()
        key = self.stored()
        for _ in range(2):
            self.session().delete(key)
        self.session().delete(draw_key())
        assert self.data(key) == {}

    def test_a_flushed_session_goes_on_under_a_new_key(self) -> None:
        """Who writes after a logout writes into another session, never into the old one."""
        key = self.stored()
        session = self.session(key)
        session.flush()
        session.set("x", 1)
        session.save()
        assert session.session_key != key
        assert self.data(session.session_key) == {"x": 1}
        if self.storage.authoritative:
            assert self.data(key) == {}

    def test_load_gives_the_stored_data(self) -> None:
        """Whatever was changed in the object and not saved."""
        session = self.session(self.stored(color="blue"))
        session.set("color", "red")
        assert session.load() == {"color": "blue"}

    # --- Identity ----------------------------------------------------------------------------

    def test_cycle_key_keeps_the_data_and_ends_the_old_key(self) -> None:
        """Login: who knows the key from before must be left with nothing."""
        self.needs_authority()
        key = self.stored(color="blue")
        session = self.session(key)
        self.log_in(session)
        session.save()
        assert self.data(session.session_key)["color"] == "blue"
        assert self.data(key) == {}

    def test_cycle_key_twice_leaves_one_session(self) -> None:
        """Keys drawn in between were never handed out and never stored."""
        self.needs_authority()
        key = self.stored()
        session = self.session(key)
        session.cycle_key()
        between = session.session_key
        session.cycle_key()
        session.save()
        assert self.data(key) == self.data(between) == {}
        assert self.data(session.session_key) == {"color": "blue"}

    def test_cycle_key_of_an_unsaved_session_stores_one_record(self) -> None:
        """A login without a cookie is one write."""
        session = self.session()
        with observed(self.storage) as calls:
            self.log_in(session)
            session.save()
        assert calls == ["create"]

    def test_cycle_key_does_not_revive_a_deleted_session(self) -> None:
        """Logout while another request of the same user draws a new key."""
        self.needs_authority()
        key = self.stored(_auth_user_id="7")
        session = self.session(key)
        session.get("x")
        self.session(key).delete(key)
        with raises(SessionEnded):
            session.cycle_key()
            session.save()
        assert self.data(key) == self.data(session.session_key) == {}

    def test_of_two_requests_that_cycle_the_key_one_wins(self) -> None:
        """Two live sessions of one login would need two logouts."""
        self.needs_authority()
        key = self.stored(_auth_user_id="7")
        first, second = self.session(key), self.session(key)
        for session in (first, second):
            session.cycle_key()
        first.save()
        with raises(SessionEnded):
            second.save()
        assert self.data(first.session_key) == {"_auth_user_id": "7"}
        assert self.data(second.session_key) == {}

    def test_the_session_id_is_no_key(self) -> None:
        """Who reads a log or the store must not be able to present what he read as a cookie."""
        key = self.stored()
        assert self.data(session_id(key)) == {}

    def test_a_malformed_key_never_reaches_the_store(self) -> None:
        """Control characters break protocols, long keys fill logs, traversal reads files."""
        with observed(*stores_of(self.storage)) as calls:
            for key in MALFORMED_KEYS:
                assert self.data(key) == {}, key
                assert not self.session().exists(key), key
                self.session().delete(key)
        assert calls == []

    def test_a_key_of_another_case_is_another_key(self) -> None:
        """Stores whose comparison ignores case would halve the guessing."""
        key = self.stored()
        assert self.data(key.upper()) == {}

    def test_repr_and_errors_do_not_show_the_key(self) -> None:
        """They go to logs and error trackers, which more people read than may log in."""
        self.needs_authority()
        key = self.stored()
        session = self.session(key)
        session.set("x", 1)
        self.session().delete(key)
        with raises(SessionEnded) as caught:
            session.save()
        shown = f"{session.target!r} {caught} {self.storage.describe()}"
        assert key not in shown

    # --- Expiry ------------------------------------------------------------------------------

    def test_an_expired_session_reads_as_empty(self) -> None:
        """Whether or not the store has dropped it yet."""
        key = self.stored()
        with at(self.record(key).expires):
            assert self.data(key) == {}
            assert not self.session().exists(key)

    def test_a_session_is_there_until_it_expires(self) -> None:
        """To the millisecond before."""
        key = self.stored()
        with at(self.record(key).expires - 1):
            assert self.data(key) == {"color": "blue"}

    def test_a_save_moves_the_expiry(self) -> None:
        """Rolling: a session in use lives on."""
        key = self.stored()
        before = self.record(key)
        with at(now() + DAY):
            session = self.session(key)
            session.load()
            session.save()
        after = self.record(session.session_key)
        assert after.expires - before.expires >= DAY
        assert after.payload == before.payload

    def test_saves_within_the_touch_interval_make_no_write(self) -> None:
        """With SESSION_SAVE_EVERY_REQUEST every request saves; most of them need not write."""
        session = self.session(self.stored(_auth_user_id="1"))
        session.get("color")
        with observed(self.storage) as calls:
            for _ in range(3):
                session.save()
        assert calls == []

    def test_a_touch_does_not_revive_a_deleted_session(self) -> None:
        """A read that ends after the logout."""
        self.needs_authority()
        key = self.stored()
        session = self.session(key)
        session.get("color")
        self.session().delete(key)
        with at(now() + DAY), suppress(SessionEnded):
            session.save()
        assert self.data(key) == {}

    def test_a_save_does_not_revive_an_expired_session(self) -> None:
        """A request that began before the expiry and ends after it."""
        self.needs_authority()
        key = self.stored()
        expires = self.record(key).expires
        session = self.session(key)
        session.set("x", 1)
        with at(expires + 1):
            with raises(SessionEnded):
                session.save()
            assert self.data(key) == {}

    def test_lifetimes_of_a_second_to_400_days_hold(self) -> None:
        """Some stores take more than 30 days of seconds for a date in 1970."""
        for days in (1 / 86_400, 31, 60, 400):
            session = self.session()
            session.set("x", 1)
            session.set_expiry(datetime.timedelta(days=days))
            moment = now()
            session.save()
            age = round(days * DAY)
            assert abs(self.record(session.session_key).expires - moment - age) < 30_000
            with at(moment + age - 500):
                assert self.data(session.session_key)["x"] == 1, days

    def test_a_negative_lifetime_ends_the_session(self) -> None:
        """A store that takes it for "never expires" would keep the session for ever."""
        key = self.stored()
        session = self.session(key)
        session.set_expiry(-1)
        session.save()
        assert self.data(session.session_key) == {}

    def test_a_browser_length_session_expires_in_the_store(self) -> None:
        """Its cookie has no expiry, and no browser tells when it ends."""
        session = self.session()
        session.set_expiry(0)
        session.save()
        age = self.record(session.session_key).expires - now()
        assert 0 < age <= django_settings.SESSION_COOKIE_AGE * 1000

    def test_clear_expired_removes_only_what_has_expired(self) -> None:
        """And says how much, so that a job that does nothing is noticed."""
        if self.storage.self_expiring:
            raise SkipTest("the store drops expired records by itself")
        short, long = self.session(), self.session()
        for session, age in ((short, 3600), (long, 864_000)):
            session.set_expiry(age)
            session.save()
        with at(now() + DAY):
            assert self.session().clear_expired() == 1
            assert self.session().clear_expired() == 0
            assert self.data(short.session_key) == {}
        assert self.data(long.session_key) == {"_session_expiry": 864_000}

    # --- Concurrency -------------------------------------------------------------------------

    def test_two_requests_that_write_different_keys_both_win(self) -> None:
        """Django's engines keep the one that saves last."""
        self.needs_authority()
        key = self.stored(color="blue")
        first, second = self.session(key), self.session(key)
        first.set("a", 1)
        second.set("b", 2)
        first.save()
        second.save()
        assert self.data(key) == {"color": "blue", "a": 1, "b": 2}

    def test_of_two_requests_that_write_one_key_the_later_save_wins(self) -> None:
        """Documented, so that it can be relied on."""
        self.needs_authority()
        key = self.stored()
        first, second = self.session(key), self.session(key)
        first.set("color", "red")
        second.set("color", "green")
        second.save()
        first.save()
        assert self.data(key) == {"color": "red"}

    def test_a_deleted_key_stays_deleted(self) -> None:
        """A save of another request must not bring it back, nor be lost."""
        self.needs_authority()
        key = self.stored(coupon="X", color="blue")
        deleter, writer = self.session(key), self.session(key)
        deleter.pop("coupon")
        writer.set("color", "red")
        deleter.save()
        writer.save()
        assert self.data(key) == {"color": "red"}

    def test_a_reader_that_ends_late_does_not_undo_a_writer(self) -> None:
        """It read the old data and saves because it touches."""
        self.needs_authority()
        key = self.stored(color="blue")
        reader = self.session(key)
        reader.get("color")
        writer = self.session(key)
        writer.set("color", "red")
        writer.save()
        with at(now() + DAY):
            reader.save()
            assert self.data(reader.session_key) == {"color": "red"}

    def test_a_save_does_not_revive_a_deleted_session(self) -> None:
        """A request that ends after the logout. It learns that nothing was saved."""
        self.needs_authority()
        key = self.stored()
        late = self.session(key)
        late.set("x", 1)
        self.session(key).flush()
        with raises(SessionEnded):
            late.save()
        assert self.data(key) == {}

    def test_a_save_does_not_resolve_the_key_from_before_a_login(self) -> None:
        """It carries the anonymous key, which an attacker may know."""
        self.needs_authority()
        key = self.stored()
        late, login = self.session(key), self.session(key)
        late.set("x", 1)
        self.log_in(login)
        login.save()
        with raises(SessionEnded):
            late.save()
        assert self.data(key) == {}

    def test_a_login_keeps_what_another_request_saved(self) -> None:
        """The cart filled while the login was under way."""
        self.needs_authority()
        key = self.stored()
        login = self.session(key)
        self.log_in(login)
        other = self.session(key)
        other.set("cart", [1])
        other.save()
        login.save()
        assert self.data(login.session_key)["cart"] == [1]

    # --- Data --------------------------------------------------------------------------------

    def test_types_survive(self) -> None:
        """The same types out as in, on every engine: moving engines must not change a program."""
        if django_settings.is_overridden("SESSION_SERIALIZER"):  # type: ignore[misc]
            raise SkipTest("SESSION_SERIALIZER is set, and decides")
        zone = datetime.timezone(datetime.timedelta(hours=5, minutes=30))
        data = {
            "datetime": datetime.datetime(2026, 2, 3, 4, 5, 6, 789, tzinfo=zone),
            "date": datetime.date(2026, 2, 3),
            "time": datetime.time(4, 5, 6, 789),
            "timedelta": datetime.timedelta(days=-1, microseconds=5),
            "decimal": decimal.Decimal("1.10"),
            "uuid": uuid.UUID(int=7),
            "bytes": bytes(range(256)),
            "set": {1, 2},
            "int keys": {1: "one", -2: "two"},
            "large": [2**63, -(2**70), 0.1, True, None],
            "text": ["", "ünïcödé 😀", "\x00"],
        }
        loaded = self.data(self.stored(**data))
        assert loaded == data
        assert {name: type(value) for name, value in loaded.items()} == {
            name: type(value) for name, value in data.items()
        }
        assert str(loaded["decimal"]) == "1.10"
        assert loaded["datetime"].utcoffset() == zone.utcoffset(None)

    def test_100_kb_survive(self) -> None:
        """Packet and column sizes must not cut a session."""
        data = {"blob": os.urandom(50_000).hex()}
        try:
            key = self.stored(**data)
        except PayloadTooLarge as reason:
            raise SkipTest(f"refused: {reason}") from None
        assert self.data(key) == data

    def test_names_of_fields_are_harmless_as_keys(self) -> None:
        """Whoever may name a key must not reach the metadata."""
        names = ("id", "version", "expires", "payload", "user_id", "state", "__class__", "", "\x00")
        key = self.stored(**dict.fromkeys(names, "x"))
        assert self.data(key) == dict.fromkeys(names, "x")
        assert self.record(key).user_id is None

    def test_an_unserializable_value_names_its_key_and_leaves_the_session_whole(self) -> None:
        """The stored session must not be half of the new one, nor gone."""
        key = self.stored(color="blue")
        session = self.session(key)
        session.set("color", "red")
        session.set("culprit", {"deep": [object()]})
        with raises(UnserializableValue) as caught:
            session.save()
        assert "'culprit'" in str(caught)
        assert self.data(key) == {"color": "blue"}

    def damaged(self, payload: bytes = b"no payload of ours") -> str:
        """The key of a session with other bytes in place of its payload."""
        key = self.stored()
        base = self.record(key)
        outcome = self.storage.update(successor(base, payload=payload), base, now())
        assert isinstance(outcome, Updated)
        return outcome.key or key

    def test_a_damaged_payload_reads_as_empty_and_is_logged_once(self) -> None:
        """Neither a 500 for as long as the cookie lives, nor silence."""
        key = self.damaged()
        session = self.session(key)
        with suspicions() as messages:
            assert session.get("color") is None
            assert session.get("color") is None
        assert len(messages) == 1
        assert str(self.storage.identify(key)) in messages[0]
        assert key not in messages[0]

    def test_a_damaged_payload_is_not_overwritten(self) -> None:
        """It may be another worker's, with a newer SECRET_KEY: the session goes on elsewhere."""
        key = self.damaged()
        session = self.session(key)
        session.set("x", 1)
        session.save()
        assert session.session_key != key
        assert self.data(session.session_key) == {"x": 1}
        try:
            held = self.record(key).payload
        except UnreadablePayload:
            return
        assert held == b"no payload of ours"

    # --- Operations --------------------------------------------------------------------------

    def test_an_outage_is_no_empty_session(self) -> None:
        """Who takes one for the other logs everybody out."""
        key = self.stored()
        for method in ("load", "save", "delete", "cycle_key"):
            session = self.session(key)
            with observed(self.storage, before=_break), raises(StorageUnavailable):
                getattr(session, method)()
            assert session.session_key == key, method
        assert self.data(key) == {"color": "blue"}

    def test_a_save_that_failed_can_be_repeated(self) -> None:
        """The object must not believe that it was done."""
        key = self.stored()
        session = self.session(key)
        session.set("x", 1)
        with observed(self.storage, before=_break), raises(StorageUnavailable):
            session.save()
        session.save()
        assert self.data(session.session_key) == {"color": "blue", "x": 1}


class RequestContract:
    """What an engine does in requests, under Django's own ``SessionMiddleware`` or a subclass."""

    SessionStore: type[SessionStore]
    """The engine under test, given by the subclass."""
    SessionMiddleware: ClassVar[type[DjangoSessionMiddleware]] = DjangoSessionMiddleware

    @property
    def storage(self) -> Storage:
        return self.SessionStore.storage()

    def request(
        self, view: Callable[[Any], object], key: str | None = None, status: int = 200
    ) -> HttpResponse:
        """The response to a request with this key in its cookie; ``view`` gets the session."""

        def answer(request: HttpRequest) -> HttpResponse:
            view(request.session)
            return HttpResponse(status=status)

        middleware = self.SessionMiddleware(answer)
        middleware.SessionStore = self.SessionStore
        request = RequestFactory().get("/")
        if key is not None:
            request.COOKIES[django_settings.SESSION_COOKIE_NAME] = key
        response = middleware(request)
        assert isinstance(response, HttpResponse)
        return response

    def cookie(self, response: HttpResponse) -> str | None:
        """The key that a response sets: ``""`` where it deletes the cookie, None for neither."""
        morsel = response.cookies.get(django_settings.SESSION_COOKIE_NAME)
        return None if morsel is None else morsel.value

    def stored(self, **data: Any) -> str:
        """The key of a session that a first request has made."""
        response = self.request(lambda session: session.update(data or {"color": "blue"}))
        key = self.cookie(response)
        assert key
        return key

    def test_reading_an_empty_session_costs_nothing(self) -> None:
        """Neither cookie nor record: crawlers must not fill the store."""
        with observed(self.storage) as calls:
            response = self.request(lambda session: session.get("x"))
        assert self.cookie(response) is None
        assert calls == []

    def test_the_first_write_makes_one_cookie_and_one_record(self) -> None:
        """One trip, without a probe whether the key is free."""
        with observed(self.storage) as calls:
            response = self.request(lambda session: session.update({"x": 1}))
        assert calls == ["create"]
        assert self.SessionStore(self.cookie(response)).get("x") == 1

    def test_reading_makes_one_trip_and_sets_no_cookie(self) -> None:
        """The least that a read can cost."""
        key = self.stored()
        with observed(self.storage) as calls:
            response = self.request(lambda session: session.get("color"), key)
        assert calls == ["read"]
        assert self.cookie(response) is None

    def test_an_untouched_session_costs_nothing(self) -> None:
        """Most requests of most sites."""
        key = self.stored()
        with observed(self.storage) as calls:
            self.request(lambda session: None, key)
        assert calls == []

    def test_flush_deletes_record_and_cookie(self) -> None:
        """Logout."""
        key = self.stored()
        response = self.request(lambda session: session.flush(), key)
        assert self.cookie(response) == ""
        assert not (self.storage.authoritative and self.SessionStore().exists(key))

    def test_flush_without_a_session_deletes_no_cookie(self) -> None:
        """There is none to delete."""
        assert self.cookie(self.request(lambda session: session.flush())) is None

    def test_a_response_of_500_saves_nothing(self) -> None:
        """What a failed view left behind is half done."""
        key = self.stored(color="blue")
        self.request(lambda session: session.update({"color": "red"}), key, status=500)
        assert self.SessionStore(key).get("color") == "blue"

    def test_two_first_requests_make_two_sessions(self) -> None:
        """Never a shared one."""
        assert self.stored() != self.stored()

    def test_login_over_an_anonymous_session_makes_two_trips(self) -> None:
        """One read, one write: no probe, no delete, no second save."""

        def log_in(session: Any) -> None:
            session.get("color")
            session.cycle_key()
            session["_auth_user_id"] = "7"

        key = self.stored()
        with observed(self.storage) as calls:
            response = self.request(log_in, key)
        assert calls == ["read", "rotate"]
        new_key = self.cookie(response)
        assert new_key not in {None, "", key}
        assert self.SessionStore(new_key).get("color") == "blue"

    def test_a_view_that_fails_after_cycle_key_loses_nothing(self) -> None:
        """The browser still holds the old key, which must go on working."""
        key = self.stored()
        self.request(lambda session: session.cycle_key(), key, status=500)
        assert self.SessionStore(key).get("color") == "blue"

    def test_the_key_from_before_a_login_keeps_its_cookie(self) -> None:
        """A deleting cookie could overtake the login's in the browser and log the user out."""
        key = self.stored()
        self.request(lambda session: session.cycle_key(), key)
        response = self.request(lambda session: session.get("color"), key)
        assert self.cookie(response) is None

    def test_a_malformed_cookie_makes_no_trip_and_no_error(self) -> None:
        """Anybody can send anything."""
        with observed(*stores_of(self.storage)) as calls:
            for key in MALFORMED_KEYS:
                self.request(lambda session: session.get("x"), key)
        assert calls == []

    def test_an_outage_deletes_no_cookie(self) -> None:
        """An error, and after the outage everybody is still logged in."""
        key = self.stored()
        with observed(self.storage, before=_break):
            try:
                response = self.request(lambda session: session.get("color"), key)
            except StorageUnavailable:
                pass  # Of which Django's handlers make a response.
            else:
                assert response.status_code == 503
                assert self.cookie(response) is None
        assert self.SessionStore(key).get("color") == "blue"

    def test_a_visitor_without_cookie_does_not_notice_an_outage(self) -> None:
        """Pages that need no session must go on working."""
        with observed(self.storage, before=_break) as calls:
            self.request(lambda session: session.get("x"))
        assert calls == []


def _break(name: str) -> None:
    raise StorageUnavailable(f"{name}: broken by a test")


@contextmanager
def raises(error: type[BaseException]) -> Iterator[Raised]:
    """The block must raise the error. As of the test frameworks, without depending on one."""
    raised = Raised()
    try:
        yield raised
    except error as caught:
        raised.error = caught
        return
    raise AssertionError(f"{error.__name__} was not raised")


class Raised:
    """What a block raised, once it has."""

    error: BaseException | None = None

    def __str__(self) -> str:
        return str(self.error)
