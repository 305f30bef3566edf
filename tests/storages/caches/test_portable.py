"""What is particular to caches behind Django's API: the locks, and writes that get lost.

What they share with other stores is in the conformance suite.
"""

import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.test import override_settings

from django_sessionstores.backends.cache import SessionStore
from django_sessionstores.core.records import Record, State, make_tombstone
from django_sessionstores.exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from django_sessionstores.inventory import Inventory
from django_sessionstores.storages.caches import portable
from django_sessionstores.storages.caches.database_cache import DatabaseCacheStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.registered import RegisteredStorage
from django_sessionstores.testing import StorageContract, in_threads, now, successor
from tests.storages.records import (
    HOUR,
    ID,
    assert_threads_lose_no_save,
    assert_touch_never_shortens,
    make_record,
)

KEY = f"django_sessionstores:{ID}"
LOCK = f"django_sessionstores:lock:{ID}"
LOCMEM = "django.core.cache.backends.locmem.LocMemCache"


class OtherCache(BaseCache):
    """A cache that Django does not know: values by key, and the moods of a server."""

    data: dict[str, Any] = {}
    timeouts: dict[str, Any] = {}
    mutex = threading.Lock()
    largest = 1_000_000
    """Bytes of a value; a larger one is dropped without a word, and takes the old one with it."""
    drops = False
    """Whether writes and deletions are answered but not carried out."""
    error: Exception | None = None
    """What every operation raises."""

    def __init__(self, location: str, params: dict[str, Any]) -> None:
        super().__init__(params)

    def add(self, key: str, value: Any, timeout: Any = None, version: Any = None) -> bool:
        self._fail()
        with self.mutex:
            if key in self.data:
                return False
            self._put(key, value, timeout)
        return True

    def get(self, key: str, default: Any = None, version: Any = None) -> Any:
        self._fail()
        return self.data.get(key, default)

    def set(self, key: str, value: Any, timeout: Any = None, version: Any = None) -> None:
        self._fail()
        with self.mutex:
            self._put(key, value, timeout)

    def delete(self, key: str, version: Any = None) -> bool:
        self._fail()
        return not self.drops and self.data.pop(key, None) is not None

    def _put(self, key: str, value: Any, timeout: Any) -> None:
        if len(value) > self.largest:
            self.data.pop(key, None)
        elif not self.drops:
            self.data[key], self.timeouts[key] = value, timeout

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


OTHER = f"{OtherCache.__module__}.OtherCache"


@contextmanager
def storage_of(backend: str) -> Iterator[Any]:
    entry = {"BACKEND": backend, "LOCATION": ""}
    with override_settings(CACHES={"default": entry}):
        caches["default"].clear() if backend != OTHER else OtherCache.data.clear()
        yield portable.from_cache("default")


@pytest.fixture
def other() -> Iterator[Any]:
    with storage_of(OTHER) as storage:
        yield storage


@pytest.fixture(params=[OTHER, LOCMEM], ids=["other", "locmem"])
def storage(request: pytest.FixtureRequest) -> Iterator[Any]:
    with storage_of(request.param) as storage:
        yield storage


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "WAIT_SECONDS", 0.05)


class TestOtherCache(StorageContract):
    """The lock in the cache is what a cache gets that is not known any better."""

    @pytest.fixture(autouse=True)
    def _storage(self, other: Any) -> None:
        self.storage = other


class TestOtherCacheAsync(TestOtherCache):
    awaited = True


class TestOtherCacheRegistered(TestOtherCache):
    """By its registry such a cache lists, too."""

    @pytest.fixture(autouse=True)
    def _storage(self, other: Any) -> None:
        self.storage = RegisteredStorage(other, MemoryStorage(1000), window=60)


class TestOtherCacheRegisteredAsync(TestOtherCacheRegistered):
    awaited = True


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        (OTHER, portable.PortableStorage),
        (LOCMEM, portable.LocMemStorage),
        ("django.core.cache.backends.db.DatabaseCache", DatabaseCacheStorage),
    ],
)
def test_the_lock_is_chosen_by_the_class_of_the_cache(backend: str, expected: type[Any]) -> None:
    """Each has a lock of its own: ``add`` is none in the database."""
    entry = {"BACKEND": backend, "LOCATION": "table"}
    with override_settings(CACHES={"default": entry}):
        assert type(portable.from_cache("default")) is expected


def test_the_memory_of_a_process_is_not_shared() -> None:
    """A check tells who runs several workers on it."""
    with storage_of(LOCMEM) as storage:
        assert not storage.shared


def test_nothing_is_lost_by_sixteen_threads(storage: Any) -> None:
    """Every answer "updated" is a version of its own."""
    assert_threads_lose_no_save(storage)


OPERATIONS: dict[str, Callable[[Any, Record], object]] = {
    "update": lambda storage, base: storage.update(successor(base), base, now()),
    "touch": lambda storage, base: storage.touch(base, base.expires + HOUR, now(), now()),
    "delete": lambda storage, base: storage.delete(base.id),
    "fill": lambda storage, base: storage.fill(successor(base), now() + HOUR, now()),
    "leave_tombstone": lambda storage, base: storage.leave_tombstone(
        make_tombstone(base.id, State.ENDED, now=now(), seconds=60), now()
    ),
}
under_lock = pytest.mark.parametrize("operation", OPERATIONS)


@under_lock
@pytest.mark.usefixtures("impatient")
def test_who_cannot_get_the_lock_changes_nothing(storage: Any, operation: str) -> None:
    """A change beside the lock is what undoes a logout, or loses a save. Deleting needs it too:
    a writer that has compared versions would put the session back."""
    storage.create(base := make_record(), now())

    with storage._lock(ID):
        if operation == "touch":  # No request waits for it.
            assert OPERATIONS[operation](storage, base) is False
        else:
            with pytest.raises(StorageUnavailable):
                OPERATIONS[operation](storage, base)
    assert (storage.read(ID).version, storage.read(ID).expires) == (1, base.expires)


def test_a_touch_does_not_wait_for_the_lock(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that only reads its session must not queue behind one that saves it."""
    monkeypatch.setattr(portable.time, "sleep", mock.Mock(side_effect=AssertionError("waits")))
    storage.create(base := make_record(), now())
    with storage._lock(ID):
        assert storage.touch(base, base.expires + HOUR, now(), now()) is False
    assert storage.touch(base, base.expires + HOUR, now(), now()) is True


@under_lock
def test_the_lock_is_given_back(storage: Any, operation: str) -> None:
    """Otherwise the next request would wait for the lock in vain."""
    storage.create(make_record(), now())
    OPERATIONS[operation](storage, make_record())

    with mock.patch.object(portable, "WAIT_SECONDS", 0.0):
        OPERATIONS[operation](storage, make_record())


def test_reading_needs_no_lock(storage: Any) -> None:
    """Most requests only read: they must not queue behind a slow writer."""
    storage.create(make_record(), now())

    with storage._lock(ID):
        assert storage.read(ID).payload == b"encrypted"


def test_a_touch_never_shortens(storage: Any) -> None:
    """Two requests touch at once: the one with the earlier clock must not undo the other."""
    base = make_record()
    storage.create(base, now())

    assert_touch_never_shortens(storage, base)


def test_an_entry_that_is_no_record_is_unreadable(storage: Any) -> None:
    """Not an error page for what someone else put there."""
    for value in ("text", (7,), {"a": 1}, b"", b"short", [1]):
        caches["default"].set(KEY, value)
        with pytest.raises(UnreadablePayload):
            storage.read(ID)


def test_a_damaged_copy_is_replaced(storage: Any) -> None:
    """It would otherwise stay in the way of every copy until it expires."""
    caches["default"].set(KEY, b"garbage")

    storage.fill(make_record(), now() + HOUR, now())

    assert storage.read(ID).payload == b"encrypted"


# The lock in the cache ----------------------------------------------------------------------------


@pytest.mark.usefixtures("impatient")
def test_the_lock_of_a_killed_process_ends(other: Any) -> None:
    """It has a lifetime: a worker killed while it saves must not lock a session for good."""
    with other._lock(ID):
        assert OtherCache.timeouts[LOCK] == portable.LOCK_SECONDS


@under_lock
def test_who_held_the_lock_for_too_long_does_not_write(
    other: Any, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By then it may be someone else's, whose change would be lost."""
    other.create(make_record(), now())
    monkeypatch.setattr(portable, "SAFE_SECONDS", -1.0)

    with pytest.raises(StorageUnavailable):
        OPERATIONS[operation](other, make_record())
    assert other.read(ID).version == 1


def test_a_lock_that_has_become_someone_elses_is_left_alone(other: Any) -> None:
    """Taking it from them would let a third one in while they write."""
    with other._lock(ID):
        OtherCache.data[LOCK] = "theirs"

    assert OtherCache.data[LOCK] == "theirs"


def test_a_lock_that_may_have_lapsed_is_left_alone(
    other: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look whose it is and the deletion, it may pass to someone else."""
    with other._lock(ID):
        monkeypatch.setattr(portable, "SAFE_SECONDS", -1.0)

    assert LOCK in OtherCache.data


# Writes that get lost -----------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["create", *OPERATIONS])
def test_a_write_that_the_cache_dropped_is_no_success(
    other: Any, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``set`` returns nothing, and caches that hide their errors make a miss of an outage."""
    base = make_record()
    other.create(base, now())
    if operation == "create":
        OtherCache.data.clear()
    # The lock has to work, for this to be about the write.
    monkeypatch.setattr(portable.PortableStorage, "_lock", portable.LocMemStorage._lock)
    monkeypatch.setattr(
        portable.PortableStorage, "_locks", portable.LocMemStorage._locks, raising=False
    )
    monkeypatch.setattr(OtherCache, "drops", True)

    with pytest.raises(StorageUnavailable):
        {"create": lambda s, r: s.create(r, now()), **OPERATIONS}[operation](other, base)


def test_a_session_that_grows_too_large_stays_as_it_was(other: Any) -> None:
    """On memcached the old value is gone by then: the visitor would be logged out."""
    base = make_record()
    other.create(base, now())

    with pytest.raises(StorageFull):
        other.update(successor(base, payload=bytes(OtherCache.largest + 1)), base, now())
    assert other.read(ID) == base


@pytest.mark.parametrize("operation", ["read", "create", *OPERATIONS])
@pytest.mark.parametrize(
    "error",
    [
        OSError("down"),
        RuntimeError("down"),
        KeyError("down"),
        type("ClientError", (Exception,), {})(),
    ],
)
def test_whatever_a_client_raises_is_an_outage(
    other: Any, operation: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never "no session", and no error that nothing above expects."""
    operations: dict[str, Callable[[Any, Record], object]] = {
        "read": lambda storage, base: storage.read(base.id),
        "create": lambda storage, base: storage.create(base, now()),
        **OPERATIONS,
    }
    monkeypatch.setattr(OtherCache, "error", error)

    with pytest.raises(StorageUnavailable):
        operations[operation](other, make_record())


# Lifetimes ----------------------------------------------------------------------------------------


def test_an_entry_outlives_its_record(other: Any) -> None:
    """Some caches, on finding an entry expired, delete what has its key by then: a save at the
    last moment would be lost after it was answered."""
    moment = now()
    other.create(make_record(expires=moment + 1), moment)

    assert OtherCache.timeouts[KEY] >= 60


def test_an_entry_that_lives_beyond_2038(other: Any) -> None:
    """Some caches keep a time in 31 bits, and would take a later one for one that has passed."""
    for seconds in (2**31 - 1, 2**31 + 1, 253_402_214_400):
        other.create(make_record(expires=seconds * 1000), now())
        assert OtherCache.timeouts[KEY] is None
        OtherCache.data.clear()
    other.create(make_record(expires=(2**31 - 10**6) * 1000), now())
    assert 0 < OtherCache.timeouts[KEY] < 2**31


def test_a_copy_ends_with_its_lease(other: Any) -> None:
    """A lease is what bounds how long a logout goes unnoticed."""
    other.fill(make_record(), now() + 60_000, now())

    assert OtherCache.timeouts[KEY] == 60


def test_a_copy_without_a_lease_is_not_kept(storage: Any) -> None:
    """Some caches take a timeout of 0 for their default, or for ever."""
    moment = now()
    storage.fill(make_record(), moment, moment)

    assert storage.read(ID) is None


def test_a_pickled_object_is_no_session(other: Any) -> None:
    """Only bytes are read as a record, whatever else the cache unpickles."""
    OtherCache.data[KEY] = pickle.loads(pickle.dumps(time.gmtime(0)))

    with pytest.raises(UnreadablePayload):
        other.read(ID)


# Lists --------------------------------------------------------------------------------------------


@pytest.fixture
def locmem() -> Iterator[Any]:
    with storage_of(LOCMEM) as storage:
        yield storage


def listed(storage: Any) -> list[str]:
    return [each.id for each in storage.scan("", 1000, None).records]


def test_a_cache_of_others_says_that_it_cannot_list(other: Any) -> None:
    """Its entries are known by their keys alone."""
    assert not other.lists
    assert not other.indexes_users


@pytest.mark.parametrize("backend", [OTHER, LOCMEM])
def test_a_registry_cures_it(backend: str, db: None) -> None:
    """Of a cache of others, and of one whose keys are digests. No other cache needs one."""
    entry = {"BACKEND": backend, "LOCATION": "registered", "KEY_FUNCTION": hidden}
    with override_settings(
        SESSION_ENGINE="django_sessionstores.backends.cache",
        CACHES={"default": entry},
        SESSIONSTORES={"REGISTRY": "db"},
    ):
        inventory = Inventory()
        inventory.end_all(7)  # What other tests have left in the database.
        store = SessionStore()
        store["_auth_user_id"] = "7"
        store.save()
        (found,) = inventory.list(user=7).sessions
        assert found.id == store.session_id
        assert inventory.end_all(7) == 1
        assert SessionStore(store.session_key).load() == {}
        entry.pop("KEY_FUNCTION")
        with override_settings(CACHES={"default": entry}):
            assert SessionStore.storage().lists
            assert isinstance(SessionStore.storage(), RegisteredStorage) is (backend == OTHER)


def hidden(key: str, prefix: str, version: int) -> str:
    return f"{key}:{prefix}:{version}"


def test_lists_leave_the_cache_as_it_is(locmem: Any) -> None:
    """It drops first what was used longest ago; to be looked at by staff is no use."""
    cache: Any = caches["default"]
    for n in range(5):
        locmem.create(make_record(f"{n:040}"), now())
    before = list(cache._cache.items())
    assert len(listed(locmem)) == locmem.count(now(), None) == 5
    assert list(cache._cache.items()) == before


def test_lists_hold_sessions_only(locmem: Any) -> None:
    """Neither entries of others, nor those of another version, nor what nobody can read."""
    cache = caches["default"]
    locmem.create(make_record(), now())
    cache.set("page", 1)
    cache.set("django_sessionstores:x", 1)
    cache.set(f"django_sessionstores:{'b' * 40}", b"damaged")
    cache.set(f"django_sessionstores:{'c' * 40}", ["no record"])
    cache.set(f"django_sessionstores:{'d' * 40}", cache.get(KEY), version=2)
    cache.set(f"django_sessionstores:{'e' * 40}", cache.get(KEY), timeout=-1)
    assert listed(locmem) == [ID]
    assert locmem.count(now(), None) == 1


def test_lists_meet_writers(locmem: Any) -> None:
    """Of other threads, at any moment."""
    lists: list[list[str]] = []

    def write() -> None:
        for n in range(200):
            each = make_record(f"{threading.get_ident() % 1000:03}{n:037}")
            locmem.create(each, now())
            if n >= 50:
                locmem.delete(f"{each.id[:3]}{n - 50:037}")

    def look() -> None:
        lists.extend(listed(locmem) for _ in range(50))

    locmem.create(make_record(), now())
    in_threads([write, write, look, look])
    assert all(ID in each for each in lists)


@pytest.mark.parametrize(
    ("function", "lists"),
    [(lambda key, *_: f"<{key}", True), (lambda key, *_: f"{hash(key)}", False)],
    ids=["readable", "digest"],
)
def test_a_key_function_may_hide_the_ids(function: Any, lists: bool) -> None:
    """Then it says that it cannot list, rather than that nobody is there."""
    entry = {"BACKEND": LOCMEM, "LOCATION": "keys", "KEY_FUNCTION": function}
    with override_settings(CACHES={"default": entry}):
        caches["default"].clear()
        storage = portable.from_cache("default")
        storage.create(make_record(), now())
        assert storage.lists is lists
        if lists:
            assert listed(storage) == [ID]
