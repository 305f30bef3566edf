"""What is particular of a cache in front of an authority: trouble, leases and transactions."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import ExitStack
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.cache import caches
from django.db import transaction
from django.test import override_settings

from django_sessionstores.backends import cached_db
from django_sessionstores.core import clock as core_clock
from django_sessionstores.core.flow import run
from django_sessionstores.core.records import Record, State, make_tombstone
from django_sessionstores.exceptions import (
    PayloadTooLarge,
    StorageFull,
    StorageUnavailable,
    UnreadablePayload,
)
from django_sessionstores.storages import copies
from django_sessionstores.storages.base import Conflict, Gone, Taken, Updated
from django_sessionstores.storages.caches import portable
from django_sessionstores.storages.layered import LayeredStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.uncommitted import UncommittedWrites
from django_sessionstores.testing.conformance.values import without_handle

NOW = core_clock.now()
HOUR = 3_600_000
LEASE, RETRY = 60.0, 5.0
ID = "0" * 39 + "1"


class Clock:
    """The clocks that the layered storage sees."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self._ahead = 0

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds
        self._ahead += int(seconds * 1000)


class Cache(portable.LocMemStorage):
    """A real cache storage that can be told to fail, and counts what it is asked."""

    def __init__(self, alias: str) -> None:
        super().__init__(alias)
        self.fails_with: Exception | None = None
        self.failing: set[str] | None = None
        self.calls: list[str] = []

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.fails_with and (self.failing is None or name in self.failing):
            raise self.fails_with

    def read(self, session_id: str) -> Record | None:
        self._called("read")
        return super().read(session_id)

    def fill(self, record: Record, until: int, now: int) -> None:
        self._called("fill")
        super().fill(record, until, now)

    def leave_tombstone(self, tombstone: Record, now: int) -> None:
        self._called("leave_tombstone")
        super().leave_tombstone(tombstone, now)

    def delete(self, session_id: str) -> None:
        self._called("delete")
        super().delete(session_id)


@pytest.fixture
def clock():
    clock = Clock()
    with core_clock.use(now=clock.now, monotonic=clock.monotonic):
        yield clock


@pytest.fixture
def cache():
    backend = "django.core.cache.backends.locmem.LocMemCache"
    with override_settings(CACHES={"default": {"BACKEND": backend, "LOCATION": "layered"}}):
        caches["default"].clear()
        yield Cache("default")


@pytest.fixture
def authority():
    return MemoryStorage(100)


@pytest.fixture
def storage(cache, authority, clock):
    return LayeredStorage(cache, authority, lease=LEASE, retry=RETRY)


@pytest.fixture
def other(cache, authority, clock):
    """The same in another process."""
    return LayeredStorage(cache, authority, lease=LEASE, retry=RETRY)


def record(version: int = 1, **fields: Any) -> Record:
    times = {"created": NOW, "last_activity": NOW, "expires": NOW + HOUR}
    return Record(
        **{"id": ID, "payload": b"encrypted %d" % version, "version": version} | times | fields
    )


def test_a_copy_answers_without_the_authority(storage, authority):
    """The point of the cache: what it has costs the authority nothing."""
    storage.create(record(), NOW)
    authority._sessions.clear()
    assert storage.read(ID).version == 1


def test_a_copy_lives_for_a_lease_only(storage, cache):
    """It bounds how long a logout can go unnoticed; the session's own lifetime would be weeks."""
    storage.create(record(), NOW)
    (moment,) = caches["default"]._expire_info.values()
    assert moment - time.time() <= LEASE


def test_a_copy_counts_until_its_lease_ends(storage, authority):
    """A longer time would delay a logout, and a shorter one would waste the copy."""
    with core_clock.freeze(NOW):
        storage.create(record(), NOW)
    authority._sessions.clear()
    end = NOW + int(LEASE * 1000)
    with core_clock.freeze(end - 1):
        assert storage.read(ID).version == 1
    with core_clock.freeze(end):
        assert storage.read(ID) is None


def test_a_dead_cache_costs_one_failure_per_retry_time(storage, cache, clock, caplog):
    """Without the breaker each request would wait for the cache's timeout."""
    storage.create(record(), NOW)
    cache.calls.clear()
    cache.fails_with = StorageUnavailable("away")
    with caplog.at_level(logging.ERROR, "django_sessionstores"):
        for _ in range(20):
            assert storage.read(ID).version == 1
    assert cache.calls == ["read"]
    assert len(caplog.records) == 1
    clock.seconds += RETRY
    storage.read(ID)
    storage.read(ID)
    assert cache.calls == ["read", "read"]


def test_a_write_that_the_cache_missed_leaves_it_alone(storage, cache):
    """The next request need not wait for the same timeout."""
    storage.create(record(), NOW)
    cache.fails_with = StorageUnavailable("away")
    storage.update(record(2), record(1), NOW)
    cache.calls.clear()
    assert storage.read("0" * 40) is None
    assert cache.calls == []


def test_one_request_alone_tries_whether_the_cache_is_back(storage, cache, clock):
    """A cache that hangs would otherwise hold up every worker again after each retry time."""
    storage.create(record(), NOW)
    cache.fails_with = StorageUnavailable("away")
    storage.read(ID)
    clock.seconds += RETRY
    cache.calls.clear()
    read = cache.read

    def meanwhile_another_request(session_id: str) -> Record | None:
        cache.read = read
        assert storage.read(ID).version == 1
        assert cache.calls == []
        return read(session_id)

    cache.read = meanwhile_another_request
    storage.read(ID)
    assert cache.calls == ["read"]


def test_a_cache_that_is_back_is_used_again(storage, cache, authority, clock):
    """An outage must not leave the database with the whole load for good."""
    storage.create(record(), NOW)
    cache.fails_with = StorageUnavailable("away")
    storage.read(ID)
    cache.fails_with = None
    clock.pass_by(RETRY)
    storage.read(ID)
    clock.pass_by(RETRY)
    storage.read(ID)
    authority._sessions.clear()
    assert storage.read(ID).version == 1


def test_a_cache_that_is_back_is_not_asked_before_all_processes_use_it(
    storage, other, cache, clock
):
    """The others may leave it alone for some seconds more, and write to the database meanwhile.
    A copy that is made in these seconds would hide such a write for a lease."""
    storage.create(record(), NOW)
    cache.fails_with = StorageUnavailable("away")
    other.read(ID)
    clock.pass_by(RETRY - 1)
    storage.read(ID)
    cache.fails_with = None
    clock.pass_by(1)
    assert other.read(ID).version == 1
    assert isinstance(storage.update(record(2), record(1), NOW), Updated)
    clock.pass_by(1)
    assert other.read(ID).version == 2
    # Nor is one that was made in these seconds used after them.
    cache.calls.clear()
    clock.pass_by(RETRY - 1)
    assert other.read(ID).version == 2
    assert cache.calls == ["read", "fill"]
    assert other.read(ID).version == 2
    assert cache.calls == ["read", "fill", "read"]


def test_a_process_that_begins_uses_no_copy_from_before(storage, cache, authority, clock):
    """It does not know whether the others have met an outage, and what they wrote in it."""
    storage.create(record(), NOW)
    cache.fails_with = StorageUnavailable("away")
    assert isinstance(storage.update(record(2), record(1), NOW), Updated)
    cache.fails_with = None
    began = core_clock.now()
    new = LayeredStorage(cache, authority, lease=LEASE, retry=RETRY, process_began=lambda: began)
    assert new.read(ID).version == 2
    assert isinstance(storage.update(record(3), record(2), NOW), Updated)
    assert new.read(ID).version == 3
    clock.pass_by(RETRY)
    assert new.read(ID).version == 3
    authority._sessions.clear()
    assert new.read(ID).version == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Nothing forks here")
def test_a_process_that_forks_begins_then():
    """A server that loads the site before it forks has done so long ago."""
    before = copies.process_began()
    time.sleep(0.01)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, str(copies.process_began()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 100)) > before == copies.process_began()


@pytest.mark.parametrize("backend", ["locmem.LocMemCache", "filebased.FileBasedCache"])
def test_only_a_cache_that_others_use_has_copies_of_other_processes(backend, tmp_path):
    """A test that counts queries would otherwise fail if it runs right after the start."""
    cache = {"BACKEND": f"django.core.cache.backends.{backend}", "LOCATION": str(tmp_path)}
    with override_settings(CACHES={"default": cache}):
        trust = cached_db.SessionStore.make_storage()._trust
    began = {"locmem.LocMemCache": copies.never}.get(backend, copies.process_began)
    assert trust._process_began is began


def test_a_write_that_a_cache_takes_again_brings_it_back_for_reads(
    storage, cache, authority, clock
):
    """Otherwise the writes of a busy process would keep its reads from the cache."""
    storage.create(record(), NOW)
    cache.fails_with = StorageUnavailable("away")
    storage.read(ID)
    clock.pass_by(RETRY)
    cache.fails_with = None
    assert isinstance(storage.update(record(2), record(1), NOW), Updated)
    clock.pass_by(RETRY)
    assert isinstance(storage.update(record(3), record(2), NOW), Updated)
    authority._sessions.clear()
    assert storage.read(ID).version == 3


def test_a_logout_that_the_cache_missed_holds_here_at_once(storage, cache, clock):
    """The copy is there when the cache is back; who was told of the logout must not use it."""
    storage.create(record(), NOW)
    cache.fails_with = StorageUnavailable("away")
    storage.delete(ID)
    cache.fails_with = None
    clock.seconds += RETRY
    assert portable.LocMemStorage.read(cache, ID) is not None
    assert storage.read(ID) is None
    # And the others are told as soon as someone asks.
    assert portable.LocMemStorage.read(cache, ID) is None


def test_a_session_that_was_looked_for_in_an_outage_can_still_come(storage, authority, other):
    """It is moved here from a previous backend. When the first try fails, the second must not be
    hidden by what the cache was told between the two."""
    create = authority.create
    authority.create = unanswered
    with pytest.raises(StorageUnavailable):
        storage.create(record(), NOW)
    authority.create = create
    assert storage.read(ID) is None
    assert isinstance(storage.create(record(), NOW), Updated)
    assert other.read(ID).version == 1


def test_a_save_that_the_cache_missed_is_read_back_here(storage, cache, clock):
    """A user must not see a change of theirs vanish when the cache is back with an older copy."""
    storage.create(record(), NOW)
    cache.fails_with = StorageUnavailable("away")
    assert isinstance(storage.update(record(2), record(1), NOW), Updated)
    cache.fails_with = None
    clock.seconds += RETRY
    assert storage.read(ID).version == 2


@pytest.mark.parametrize("error", [PayloadTooLarge("big"), StorageFull("full")])
def test_a_save_that_does_not_fit_the_cache_removes_the_older_copy(storage, cache, error):
    """The save is done; the copy from before it would hide it for a lease."""
    storage.create(record(), NOW)
    cache.fails_with, cache.failing = error, {"fill"}
    assert isinstance(storage.update(record(2), record(1), NOW), Updated)
    assert portable.LocMemStorage.read(cache, ID) is None
    assert storage.read(ID).version == 2


def test_nor_does_an_older_copy_come_after_a_save_that_is_too_large(storage, cache, authority):
    """Another request has written it, and tells the cache late."""
    fill = cache.fill

    def limited(copy: Record, until: int, now: int) -> None:
        if len(copy.payload) > 100:
            raise PayloadTooLarge("big")
        fill(copy, until, now)

    cache.fill = limited
    authority.create(record(), NOW)
    storage.update(record(2 << 32, payload=b"x" * 100), record(), NOW)
    fill(copies.make_copy(record(), core_clock.now()), NOW + HOUR, NOW)
    assert storage.read(ID).version == 2 << 32


def test_an_older_copy_that_cannot_be_removed_is_not_used(storage, cache):
    """A full cache may refuse even that. The save is stored nevertheless."""
    storage.create(record(), NOW)
    cache.fails_with, cache.failing = StorageFull("full"), {"fill", "delete"}
    assert isinstance(storage.update(record(2), record(1), NOW), Updated)
    assert portable.LocMemStorage.read(cache, ID).version == 1
    assert storage.read(ID).version == 2


def test_a_logout_in_a_full_cache_removes_the_copy(storage, cache):
    """A full Redis refuses the tombstone, and still deletes."""
    storage.create(record(), NOW)
    cache.fails_with, cache.failing = StorageFull("full"), {"leave_tombstone"}
    storage.delete(ID)
    assert storage.read(ID) is None


def test_a_late_reader_does_not_bring_back_a_session_that_ended(storage, cache):
    """Cold cache: the reader has the record in hand when the logout comes and goes."""
    storage.create(record(), NOW)
    storage.delete(ID)
    cache.fill(record(), NOW + HOUR, NOW)
    assert storage.read(ID) is None


@pytest.mark.parametrize("change", ["read", "update"])
def test_a_copy_that_comes_when_the_tombstone_has_gone_does_not_count(
    storage, cache, authority, clock, monkeypatch, change
):
    """A cache that stands still executes a write when it goes on, long after the sender has given
    up. If such a copy were trusted from then on, it would undo a logout for a whole lease."""
    authority.create(record(), NOW)
    late: list[Any] = []
    with monkeypatch.context() as stalled:
        stalled.setattr(cache, "fill", lambda *args: late.append(args))
        if change == "read":
            storage.read(ID)
        else:
            storage.update(record(2), record(), NOW)
    authority.delete(ID)
    after = core_clock.now() + int(LEASE * 1000) + 1000
    with core_clock.freeze(after):
        cache.fill(*late.pop())
        assert portable.LocMemStorage.read(cache, ID) is not None
        assert storage.read(ID) is None


def test_a_reader_that_was_stalled_for_a_lease_leaves_no_copy(storage, cache, authority):
    """After a lease the tombstone is gone, and nothing but its own clock can stop the reader."""
    authority.create(record(), NOW)
    read = authority.read

    with ExitStack() as stack:

        def stalled(session_id: str) -> Record | None:
            after = core_clock.now() + int(LEASE * 1000) + 1000
            stack.enter_context(core_clock.freeze(after))
            return read(session_id)

        authority.read = stalled
        assert storage.read(ID).version == 1
    assert portable.LocMemStorage.read(cache, ID) is None


def test_a_session_of_the_cache_itself_is_no_copy(storage, cache, authority):
    """Of the ``cache`` engine, say, that used this cache before. The authority has not heard of it,
    and would refuse all that is saved to it."""
    portable.LocMemStorage.create(cache, record(), NOW)
    assert storage.read(ID) is None


def test_a_copy_that_cannot_be_read_is_no_copy(storage, cache):
    """The authority has the session, and the cache goes on for the others."""
    storage.create(record(), NOW)
    cache.fails_with, cache.failing = UnreadablePayload("damaged"), {"read"}
    assert [storage.read(ID).version for _ in range(2)] == [1, 1]
    assert cache.calls.count("read") == 2
    cache.fails_with = None
    assert storage.read(ID).version == 1


def test_a_stale_copy_is_corrected_by_the_conflict_it_causes(storage, cache, authority):
    """Otherwise each later save would fail again until the lease ends."""
    storage.create(record(), NOW)
    authority.update(record(2), record(1), NOW)
    outcome = storage.update(record(2), record(1), NOW)
    assert isinstance(outcome, Conflict)
    assert portable.LocMemStorage.read(cache, ID).version == 2


def test_a_save_of_a_session_that_ended_elsewhere_ends_the_copy(storage, cache, authority):
    """Whoever finds out that the session is gone tells the cache."""
    storage.create(record(), NOW)
    authority.delete(ID)
    assert isinstance(storage.update(record(2), record(1), NOW), Gone)
    assert storage.read(ID) is None


def test_a_rotation_leaves_a_tombstone_and_keeps_the_new(storage, cache):
    """The old cookie must not find the copy of the session that a login has replaced."""
    storage.create(record(), NOW)
    other = "0" * 39 + "2"
    tombstone = make_tombstone(ID, State.SUPERSEDED, now=NOW, seconds=30)
    new = Record(id=other, payload=b"new", expires=NOW + HOUR)
    assert isinstance(storage.rotate(new, record(), tombstone, NOW), Updated)
    assert storage.read(ID).state is State.SUPERSEDED
    assert portable.LocMemStorage.read(cache, other).payload.endswith(b"new")


OTHER_ID = "0" * 39 + "9"


def test_a_rotation_that_is_refused_corrects_the_copy(storage, cache, authority):
    """It finds out what the authority has, as a save does."""
    storage.create(record(), NOW)
    tombstone = make_tombstone(ID, State.SUPERSEDED, now=NOW, seconds=30)
    new = record(id=OTHER_ID)
    authority.update(record(2), record(1), NOW)
    assert isinstance(storage.rotate(new, record(), tombstone, NOW), Conflict)
    assert portable.LocMemStorage.read(cache, ID).version == 2
    authority.delete(ID)
    assert isinstance(storage.rotate(new, record(2), tombstone, NOW), Gone)
    assert portable.LocMemStorage.read(cache, ID).state is State.ENDED


def test_a_rotation_to_an_id_that_is_taken_leaves_both_sessions(storage, cache):
    """Nothing was written, and what the authority has under the old id is not known."""
    for each in (record(), record(id=OTHER_ID)):
        storage.create(each, NOW)
    tombstone = make_tombstone(ID, State.SUPERSEDED, now=NOW, seconds=30)
    assert isinstance(storage.rotate(record(2, id=OTHER_ID), record(), tombstone, NOW), Taken)
    for each in (ID, OTHER_ID):
        assert storage.read(each).version == 1


def refused(*args: Any) -> None:
    outage = StorageUnavailable("the authority refuses connections")
    outage.was_sent = False
    raise outage


def unanswered(*args: Any) -> None:
    raise StorageUnavailable("the authority is away")


def test_an_unanswered_write_makes_that_session_suspect_and_no_other(storage, authority):
    """It may have been done, so its copy proves nothing. The others go on without the authority,
    or one failed save would turn a database that is away into an outage for all."""
    other = record(id=OTHER_ID)
    storage.create(record(), NOW)
    storage.create(other, NOW)
    authority.delete = authority.read = unanswered
    with pytest.raises(StorageUnavailable):
        storage.delete(ID)
    assert storage.read(OTHER_ID).payload == other.payload
    with pytest.raises(StorageUnavailable):
        storage.read(ID)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("name", ["update", "rotate"])
def test_a_write_that_was_not_sent_leaves_the_copy_alone(storage, authority, name, is_async):
    """A server that refuses connections has done nothing. Requests that only read go on, or a
    rotation that is due would end them one by one."""

    storage.create(record(), NOW)
    setattr(authority, name, refused)
    authority.read = unanswered
    tombstone = make_tombstone(ID, State.ROTATED, now=NOW, seconds=60, successor=OTHER_ID)
    args = {
        "update": (record(2), record(), NOW),
        "rotate": (record(2, id=OTHER_ID), storage.read(ID), tombstone, NOW),
    }[name]
    write = getattr(storage, f"a{name}" if is_async else name)
    with pytest.raises(StorageUnavailable):
        (async_to_sync(write) if is_async else write)(*args)
    assert without_handle(storage.read(ID)) == record()


def test_a_rotation_that_is_not_sent_gives_its_copy_no_further_lease(storage, authority, clock):
    """Each request of an outage tries the rotation again. A logout of another server, which reaches
    the database and not the cache, would otherwise not hold before the outage is over."""
    storage.create(record(), NOW)
    authority.rotate = authority.read = unanswered
    tombstone = make_tombstone(ID, State.ROTATED, now=NOW, seconds=60, successor=OTHER_ID)
    clock.pass_by(LEASE / 2)
    for _ in range(2):
        base = storage.read(ID)
        with pytest.raises(StorageUnavailable):
            LayeredStorage(storage.cache, authority, lease=LEASE, retry=RETRY).rotate(
                record(2, id=OTHER_ID), base, tombstone, NOW
            )
    clock.pass_by(LEASE / 2)
    with pytest.raises(StorageUnavailable):
        storage.read(ID)


def test_a_rotation_that_is_under_way_hides_the_copy(storage, other, authority):
    """A request with the new key can end the session before the cache has heard of the rotation.
    Then the old key must not lead to it, nor may a late reader bring the copy back."""
    storage.create(record(), NOW)
    tombstone = make_tombstone(ID, State.SUPERSEDED, now=NOW, seconds=30)
    rotate, found = authority.rotate, []

    def rotate_and_end(*args: Any) -> Any:
        before = authority.read(ID)
        outcome = rotate(*args)
        assert other.delete(OTHER_ID)
        run(other._keep_copy(before, core_clock.now()))
        found.append(other.read(ID).state)
        return outcome

    authority.rotate = rotate_and_end
    storage.rotate(record(id=OTHER_ID), record(), tombstone, NOW)
    assert found == [State.SUPERSEDED]
    assert other.read(OTHER_ID) is None


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_unanswered_touch_leaves_the_copy_alone(storage, authority, is_async):
    """The copy has the data, and times that are a little behind at most. Requests that only read
    do without the authority while it is away; the error of the touch is for the caller."""
    storage.create(record(), NOW)
    authority.touch = authority.read = unanswered
    touch = async_to_sync(storage.atouch) if is_async else storage.touch
    with pytest.raises(StorageUnavailable):
        touch(record(), NOW + 2 * HOUR, NOW + 1, NOW)
    assert without_handle(storage.read(ID)) == record()


def test_suspects_are_forgotten_after_a_lease(storage, cache, clock):
    """By then every copy from before has ended; to remember them for ever would be a leak."""
    cache.fails_with = StorageUnavailable("away")
    for number in range(20):
        storage.delete(f"{number:040x}")
    clock.seconds += LEASE
    storage.delete(OTHER_ID)
    assert list(storage._trust._suspects) == [OTHER_ID]


def test_too_many_suspects_make_all_copies_suspect(storage, cache, clock, monkeypatch):
    """Memory is limited, and a copy must not be trusted if nobody remembers whether it is
    suspect."""
    monkeypatch.setattr(copies, "_MAX_SUSPECTS", 5)
    storage.create(record(), NOW)
    cache.fails_with = StorageUnavailable("away")
    for number in range(10, 16):
        storage.delete(f"{number:040x}")
    cache.fails_with = None
    clock.seconds += RETRY
    cache.calls.clear()
    storage.read(ID)
    assert cache.calls == ["fill"]
    assert len(storage._trust._suspects) < 5


@pytest.mark.parametrize("where", ["authority", "cache"])
def test_a_cancelled_logout_leaves_nothing_to_believe(storage, cache, authority, where):
    """The client went away while the session was being ended: it may have ended, and the copy
    would say otherwise."""
    storage.create(record(), NOW)

    async def cancelled(*args: Any) -> None:
        if where == "cache":
            authority.delete(ID)
        raise asyncio.CancelledError

    if where == "authority":
        authority.adelete = cancelled
    else:
        cache.aleave_tombstone = cancelled
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(storage.adelete(ID))
    cache.calls.clear()
    storage.read(ID)
    assert "read" not in cache.calls


def test_an_expired_copy_asks_the_authority(storage, authority):
    """The authority's record may have been touched since the copy was made."""
    soon = record(expires=core_clock.now() + 30)
    storage.create(soon, NOW)
    authority.touch(soon, NOW + HOUR, NOW, NOW)
    time.sleep(0.05)
    assert storage.read(ID).expires == NOW + HOUR


def purging(cache: Cache, answers: list[int | Exception]) -> None:
    """Let the cache be one that must be purged, and answer so."""

    def purge(now: int, batch: int) -> int:
        cache.calls.append(f"purge {batch}")
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cache.self_expiring = False
    cache.purge = purge


@pytest.mark.parametrize("of_cache", [False, True])
@pytest.mark.parametrize("of_authority", [False, True])
def test_nothing_need_be_purged_if_both_drop_what_expires(of_cache, of_authority):
    cache, authority = Cache("default"), MemoryStorage(10)
    cache.self_expiring, authority.self_expiring = of_cache, of_authority
    storage = LayeredStorage(cache, authority, lease=LEASE, retry=RETRY)
    assert storage.self_expiring is (of_cache and of_authority)


@pytest.mark.parametrize("awaited", [False, True])
def test_a_purge_goes_on_to_the_copies_and_counts_sessions(storage, cache, awaited):
    """A cache that drops nothing itself would keep a copy of each session that ever was. Whoever
    purges calls again until the answer is 0: that must not come before all is done, nor never."""
    purging(cache, [3, 2, 0, 0])

    def purge() -> int:
        if awaited:
            return asyncio.run(storage.apurge(NOW + 2 * HOUR, 3))
        return storage.purge(NOW + 2 * HOUR, 3)

    for number in range(4):
        storage.authority.create(record(id=f"{number:040}"), NOW)
    assert [purge(), purge()] == [3, 1]
    assert cache.calls == []
    assert purge() == 0
    assert cache.calls == ["purge 3"] * 3
    assert purge() == 0


def test_a_cache_that_expires_by_itself_is_not_purged(storage, cache):
    """It would be a round trip for nothing."""
    cache.purge = None
    assert storage.purge(NOW, 3) == 0


def test_a_purge_fails_for_no_cache(storage, cache):
    """The sessions that have expired are removed; the copies have their lease."""
    purging(cache, [StorageUnavailable("away")])
    storage.authority.create(record(), NOW)
    assert [storage.purge(NOW + 2 * HOUR, 3) for _ in range(3)] == [1, 0, 0]
    assert len(cache.calls) == 1


@pytest.fixture
def over_database(cache, clock, transactional_db):
    """A storage with a session, whose authority is the database."""
    from django_sessionstores.storages.sql.storage import DatabaseStorage

    storage = LayeredStorage(cache, DatabaseStorage(), lease=LEASE, retry=RETRY)
    storage.create(record(), NOW)
    return storage


def test_a_read_inside_a_transaction_fills_the_cache_after_it(over_database, cache):
    """With ATOMIC_REQUESTS all reads are inside one, and the cache would stay cold."""
    cache.delete(ID)
    with transaction.atomic():
        over_database.read(ID)
        assert portable.LocMemStorage.read(cache, ID) is None
    assert portable.LocMemStorage.read(cache, ID).version == 1


def test_a_copy_is_not_of_what_was_there_when_the_transaction_began(over_database, cache):
    """At REPEATABLE READ a session that ended long ago would come back with the commit."""
    cache.delete(ID)
    with transaction.atomic():
        over_database.read(ID)
        over_database.authority.delete(ID)  # As seen after the commit: another request did that.
    assert portable.LocMemStorage.read(cache, ID) is None


@pytest.mark.parametrize("error", [StorageUnavailable("away"), UnreadablePayload("damaged")])
def test_an_error_of_a_copy_after_the_commit_is_nobodys(over_database, cache, monkeypatch, error):
    """The request has been answered, and the session is read again when it is needed."""
    cache.delete(ID)

    def fail(session_id: str) -> None:
        raise error

    with transaction.atomic():
        over_database.read(ID)
        monkeypatch.setattr(over_database.authority, "read", fail)
    monkeypatch.undo()
    assert portable.LocMemStorage.read(cache, ID) is None
    assert over_database.read(ID).version == 1


def test_a_copy_is_not_of_a_transaction_that_has_begun_since(over_database, cache, monkeypatch):
    """A test of a project may run the hooks of a commit within a transaction that is rolled back
    later."""
    cache.delete(ID)
    with transaction.atomic():
        over_database.read(ID)
        monkeypatch.setattr(over_database.authority, "in_transaction", lambda: True)
    assert portable.LocMemStorage.read(cache, ID) is None


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_transaction_reads_its_own_write_whatever_others_put_into_the_cache(
    over_database, cache, ends_well
):
    copy = portable.LocMemStorage.read(cache, ID)

    def fill() -> None:
        caches["default"].clear()  # It has forgotten that it must refuse the copy.
        cache.fill(copy, copy.expires, NOW)
        assert portable.LocMemStorage.read(cache, ID).version == 1

    def in_transaction() -> None:
        with transaction.atomic():
            over_database.update(record(2), record(1), NOW)
            fill()
            assert over_database.read(ID).version == 2
            over_database.delete(ID)
            fill()
            assert over_database.read(ID) is None
            if not ends_well:
                raise RuntimeError

    if ends_well:
        in_transaction()
        assert over_database.read(ID) is None
    else:
        with pytest.raises(RuntimeError):
            in_transaction()
        over_database.authority.delete(ID)  # The copy is what counts again.
        assert over_database.read(ID).version == 1


def test_writes_of_transactions_that_are_over_are_forgotten():
    """A process may see many of them that were rolled back, of which nobody tells."""
    over: set[int] = set()
    written = UncommittedWrites()
    for number in range(100):
        written.add(f"{number}", lambda number=number: False if number in over else None)
    for _ in range(2):  # It is still open when it is looked up again.
        assert "5" in written
    over |= set(range(100))
    assert "5" not in written
    for number in range(100, 300):
        written.add(f"{number}", lambda: True)
    assert len(written._writes) < 20


def test_writes_of_open_transactions_are_rarely_asked_whether_they_are_over():
    """Otherwise each write would ask about all the others that wait for the same commit."""
    written, asked = UncommittedWrites(), []
    for number in range(1000):
        written.add(f"{number}", lambda: asked.append(None))
    assert len(asked) < 5000


@pytest.mark.parametrize("change", ["save", "delete"])
def test_what_is_rolled_back_never_reached_the_cache(over_database, change):
    """Django's cached_db serves the save that never was; and a logout must not stick either."""

    def in_transaction() -> None:
        with transaction.atomic():
            if change == "save":
                over_database.update(record(2), record(1), NOW)
            else:
                over_database.delete(ID)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        in_transaction()
    assert over_database.read(ID).version == 1


@pytest.mark.parametrize("change", ["save", "delete"])
def test_news_that_come_late_are_no_news_after_a_rollback(over_database, cache, change):
    """A request has saved, and tells the cache of it when another one has saved more and a third
    one was rolled back. The older copy would stay for a lease."""
    late = portable.LocMemStorage.read(cache, ID)
    over_database.update(record(2), record(1), NOW)
    with transaction.atomic():
        if change == "save":
            over_database.update(record(3), record(2), NOW)
        else:
            over_database.delete(ID)
        transaction.set_rollback(True)
    cache.fill(late, NOW + HOUR, NOW)
    assert over_database.read(ID).version == 2


def test_what_is_committed_reaches_the_cache(over_database, cache):
    """After a commit, the cache has the change."""
    with transaction.atomic():
        over_database.update(record(2), record(1), NOW)
    assert portable.LocMemStorage.read(cache, ID).version == 2
    with transaction.atomic():
        over_database.delete(ID)
    assert portable.LocMemStorage.read(cache, ID).state is State.ENDED


def test_a_transaction_reads_its_own_writes(over_database):
    """Otherwise each test of a project in a ``TestCase`` would see the session as it was before."""
    with transaction.atomic():
        over_database.update(record(2), record(1), NOW)
        assert over_database.read(ID).version == 2
        over_database.delete(ID)
        assert over_database.read(ID) is None
        transaction.set_rollback(True)
    assert over_database.read(ID).version == 1


# Many at once -------------------------------------------------------------------------------------

IDS = [f"{number:040x}" for number in range(1, 4)]


def held(cache, session_id):
    """What the cache has, past what the test counts."""
    return portable.LocMemStorage.read(cache, session_id)


@pytest.mark.parametrize("name", ["delete", "end_many"])
def test_a_process_that_dies_when_a_session_has_ended_leaves_no_copy(
    storage, other, authority, monkeypatch, name
):
    """Another request finds nothing left to end, and is answered. Then no copy may show it."""
    storage.create(record(), NOW)
    end = getattr(authority, name)

    def die(subject: Any) -> None:
        end(subject)
        raise SystemExit

    monkeypatch.setattr(authority, name, die)
    with pytest.raises(SystemExit):
        getattr(storage, name)(ID if name == "delete" else [ID])
    assert other.read(ID) is None


def test_an_end_takes_one_command_of_the_cache(storage, cache):
    """Before the authority is asked, and none after it."""
    storage.create(record(), NOW)
    cache.calls.clear()
    assert storage.delete(ID)
    assert cache.calls == ["leave_tombstone"]


def test_an_end_that_the_authority_refuses_leaves_the_session_and_no_copy(storage, authority):
    """The user is signed in again when the authority is back, and cannot read before that."""
    storage.create(record(), NOW)
    delete, read = authority.delete, authority.read
    authority.delete = authority.read = refused
    with pytest.raises(StorageUnavailable):
        storage.delete(ID)
    with pytest.raises(StorageUnavailable):
        storage.read(ID)
    authority.delete, authority.read = delete, read
    assert without_handle(storage.read(ID)) == record()


def test_many_that_end_are_left_to_the_cache_in_one_call(storage, other, cache, monkeypatch):
    """Of sessions in a database, the round trips to the cache would be most of the time."""
    for each in IDS:
        storage.create(record(id=each), NOW)
    told = []
    leave_tombstones = cache.leave_tombstones

    def leave(tombstones: Any, now: int) -> None:
        told.append([each.id for each in tombstones])
        leave_tombstones(tombstones, now)

    monkeypatch.setattr(cache, "leave_tombstones", leave)
    assert storage.end_many(IDS) == frozenset(IDS)
    assert told == [IDS]
    assert [held(cache, each).state for each in IDS] == [State.ENDED] * 3
    assert [other.read(each) for each in IDS] == [None] * 3


def test_many_that_end_while_the_cache_is_away_are_suspect(storage, cache, authority):
    """Their copies are still there when the cache is back, within their lease."""
    for each in IDS:
        storage.create(record(id=each), NOW)
    cache.fails_with = StorageUnavailable("away")
    assert storage.end_many(IDS) == frozenset(IDS)
    cache.fails_with = None
    assert [storage.read(each) for each in IDS] == [None] * 3
    assert held(cache, IDS[0]) is not None


def test_many_whose_end_is_not_known_are_suspect(storage, cache, authority, monkeypatch):
    """The answer of the authority was lost."""
    for each in IDS:
        storage.create(record(id=each), NOW)

    def lost(session_ids: Any) -> Any:
        for each in session_ids:
            authority.delete(each)
        raise StorageUnavailable("no answer")

    monkeypatch.setattr(authority, "end_many", lost)
    with pytest.raises(StorageUnavailable):
        storage.end_many(IDS)
    assert [storage.read(each) for each in IDS] == [None] * 3


@pytest.mark.parametrize("was_sent", [True, False])
@pytest.mark.parametrize("name", ["delete", "end_many"])
def test_no_other_process_finds_the_copies_of_an_end_that_is_not_known(
    storage, cache, authority, monkeypatch, name, was_sent
):
    """If the session has ended, no list has it, and a caller who tries again does not find it."""
    storage.create(record(), NOW)

    def lost(_: Any) -> Any:
        error = StorageUnavailable("no answer")
        if was_sent:
            del authority._sessions[ID]
        error.was_sent = was_sent
        raise error

    monkeypatch.setattr(authority, name, lost)
    with pytest.raises(StorageUnavailable):
        getattr(storage, name)(ID if name == "delete" else [ID])
    other = LayeredStorage(cache, authority, lease=LEASE, retry=RETRY)
    assert (other.read(ID) is None) is was_sent


def test_many_that_do_not_fit_into_a_full_cache_are_removed_from_it(storage, cache):
    """A full cache refuses tombstones and still removes copies."""
    for each in IDS:
        storage.create(record(id=each), NOW)
    cache.fails_with, cache.failing = StorageFull("full"), {"leave_tombstone"}
    storage.end_many(IDS)
    cache.fails_with = None
    assert [held(cache, each) for each in IDS] == [None] * 3


@pytest.mark.parametrize("is_committed", [True, False])
def test_many_that_end_in_a_transaction(over_database, cache, is_committed):
    """The copies go at once, because the process may die after the commit. After a rollback, the
    database is asked until the tombstones have gone."""
    for each in IDS[1:]:
        over_database.create(record(id=each), NOW)
    with transaction.atomic():
        assert over_database.end_many(IDS) == frozenset(IDS)
        assert [held(cache, each).state for each in IDS] == [State.ENDED] * 3
        assert [over_database.read(each) for each in IDS] == [None] * 3
        transaction.set_rollback(not is_committed)
    assert [held(cache, each).state for each in IDS] == [State.ENDED] * 3
    found = [over_database.read(each) for each in IDS]
    assert [each and each.version for each in found] == [None if is_committed else 1] * 3


@pytest.mark.parametrize("payload", [b"", b"x", b"encrypted"])
def test_a_copy_has_what_its_record_has(payload):
    """This includes a record without a payload, as registries have it."""
    original = record(payload=payload)
    copy = copies.make_copy(original, NOW)
    assert without_handle(copies.read_copy(copy, NOW)) == original
    assert copies.read_copy(copy, NOW + 1) is None
    assert copies.read_copy(original, NOW) is None


@pytest.mark.parametrize("payload", [b"", b"x", b"encrypted"])
def test_a_mark_has_what_the_copy_had(payload):
    """And no request takes it for a copy."""
    original = record(payload=payload)
    mark = copies.make_mark(copies.read_copy(copies.make_copy(original, NOW), NOW))
    assert without_handle(copies.read_mark(mark, NOW)) == original
    assert copies.read_mark(mark, NOW + 1) is None
    assert copies.read_copy(mark, 0) is None
    assert copies.is_refused(original, mark, NOW)
    assert not copies.is_refused(record(2), mark, NOW)


def test_a_mark_of_what_is_not_from_a_copy_has_nothing():
    """When the authority was asked for it is not known."""
    mark = copies.make_mark(record(payload=b"encrypted"))
    assert copies.read_mark(mark, 1) is None
    assert b"encrypted" not in mark.payload
