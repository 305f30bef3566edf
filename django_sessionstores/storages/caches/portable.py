"""The storage of records in any Django cache, through ``add``, ``get``, ``set`` and ``delete``.

Django's cache API has no compare-and-set, so every change is made under a lock: a lock of the
process if the cache is in its memory, and otherwise an entry of the cache.

Django's caches pickle their entries, including records. So anyone who can write to such a cache can
run code in the site, as with any other use of the cache. The payload in a record is encrypted.
"""

from __future__ import annotations

import math
import pickle
import random
import secrets
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from django.core.cache import caches
from django.core.cache.backends.base import BaseCache
from django.core.cache.backends.db import BaseDatabaseCache
from django.core.cache.backends.locmem import LocMemCache
from django.utils.translation import gettext_noop

from ...core import clock
from ...core.phrases import Phrase
from ...core.records import Record, State, is_session_id, pack, unpack, unpack_start, with_times
from ...exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from ..base import (
    NAMESPACE,
    CacheStorage,
    Gone,
    Outcome,
    Page,
    Taken,
    Updated,
    id_of_cursor,
    page_of,
    place_of_cache,
    prefix_of,
    refusal,
)
from ..copies import is_refused
from ..outage_log import OutageLog
from ..outcomes import LockTaken
from .database_cache import DatabaseCacheStorage

WAIT_SECONDS: Final = 5.0
"""How long to wait for a lock, which is held for a few operations of the cache."""
LOCK_SECONDS: Final = 30
"""How long a lock in the cache stays if its process was killed."""
SAFE_SECONDS: Final = 10.0
"""How long a process relies on its lock. The rest of the lock's time is for a write that has
begun."""

_LATEST: Final = (2**31 - 1 - 24 * 60 * 60) * 1000
"""The last day whose times have 31 bits, in the year 2038: memcached cannot store later ones."""

# When some caches find that an entry has expired, they delete any entry that has its key by then.
# So an entry lives longer than its record, until no request saves the session any more.
_GRACE_SECONDS: Final = 60

_STRIPES: Final = 64


def from_cache(alias: str) -> CacheStorage:
    """Return the storage for sessions in the cache with this alias, for any class of cache."""
    cache = caches.create_connection(alias)
    if isinstance(cache, BaseDatabaseCache):
        return DatabaseCacheStorage(cache)
    if isinstance(cache, LocMemCache):
        return LocMemStorage(alias)
    return PortableStorage(alias)


class PortableStorage(CacheStorage):
    """Records in a cache of which only Django's API is known.

    The lock is an entry of the cache, so it is only as reliable as the cache's ``add`` and its
    memory: if a cache evicts the entry, two requests have the lock. The timeouts of the cache's
    client must be shorter than `LOCK_SECONDS` less `SAFE_SECONDS`.

    If a cache hides its errors, this storage notices lost writes, but it has to believe the answer
    that a key does not exist.
    """

    self_expiring = True

    # What ``get`` raises for an entry that is damaged, or is not a pickle.
    _damage: tuple[type[Exception], ...] = (pickle.UnpicklingError, zlib.error, EOFError)
    # Whether a write that raised no exception was done.
    _reliable = False

    def __init__(self, alias: str) -> None:
        self._alias = alias
        self._outages = OutageLog(self.describe)

    def describe(self) -> str:
        return Phrase(
            gettext_noop("%(cache)s through Django's cache API (alias %(alias)s)"),
            cache=type(self._cache).__name__,
            alias=repr(self._alias),
        )

    def place(self) -> str:
        return place_of_cache(self._alias)

    def namespace(self) -> str:
        return str(self._cache.make_key(NAMESPACE))

    def read(self, session_id: str) -> Record | None:
        return self._find(session_id)

    def create(self, record: Record, now: int) -> Updated | Taken:
        data = pack(record)
        timeout = _timeout(record.expires, now, _GRACE_SECONDS)
        if not self._ask("add", NAMESPACE + record.id, data, timeout):
            return Taken()
        self._verify(record, data)
        return Updated(record)

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        with self._lock(base.id) as deadline:
            current = self._find(base.id)
            refused = refusal(current, base, now)
            if current is None or refused is not None:
                return refused or Gone()
            self._replace(current, record, now, deadline)
        return Updated(record)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        with suppress(LockTaken), self._lock(base.id, waits=False) as deadline:
            current = self._find(base.id)
            if current is None or refusal(current, base, now) is not None:
                return False
            touched = with_times(current, expires, last_activity)
            self._replace(current, touched, now, deadline)
            return True
        return False

    def delete(self, session_id: str) -> bool:
        # Under the lock. Otherwise a request that has just compared versions would undo it.
        with self._lock(session_id) as deadline:
            self._rely_on(deadline)
            record = None
            with suppress(UnreadablePayload):
                record = self._find(session_id)
                if record is None or record.state is not State.LIVE or not self.is_own(record):
                    return False
            self._ask("delete", NAMESPACE + session_id)
            if not self._reliable and self._ask("get", NAMESPACE + session_id) is not None:
                failure = StorageUnavailable(
                    f"{self.describe()} did not delete a session. Look at CACHES[{self._alias!r}], "
                    "and whether its server accepts writes."
                )
                self._outages.failed(failure, "keep")
                raise failure
        return record is not None and record.is_live(clock.now())

    def purge(self, now: int, batch: int) -> int:
        return 0

    def fill(self, record: Record, until: int, now: int) -> None:
        with self._lock(record.id) as deadline:
            with suppress(UnreadablePayload):
                current = self._find(record.id)
                if current is not None and is_refused(record, current, now):
                    return
            self._put(record, _timeout(until, now), deadline)

    def leave_tombstone(self, tombstone: Record, now: int) -> None:
        with self._lock(tombstone.id) as deadline:
            self._put(tombstone, _timeout(tombstone.expires, now, _GRACE_SECONDS), deadline)

    # --- Entries ------------------------------------------------------------------------------

    @property
    def _cache(self) -> BaseCache:
        # The object of Django's ``caches``, and not one of this storage: some clients must not be
        # shared by threads, and some rely on being closed at the end of the request.
        return caches[self._alias]

    def _find(self, session_id: str) -> Record | None:
        try:
            data = self._cache.get(NAMESPACE + session_id)
        except OSError as error:
            raise self._outage(error) from error
        except self._damage as error:
            raise UnreadablePayload("entry of the cache is damaged") from error
        except Exception as error:
            raise self._outage(error) from error
        self._note_success("get")
        if data is None:
            return None
        if not isinstance(data, bytes):
            raise UnreadablePayload("entry of the cache is not a record")
        return unpack(session_id, data)

    def _replace(self, current: Record, record: Record, now: int, deadline: float) -> None:
        """Replace ``current`` by ``record``; ``current`` stays if that fails."""
        try:
            self._put(record, _timeout(record.expires, now, _GRACE_SECONDS), deadline)
        except StorageUnavailable:
            # If a value is too large, memcached removes the old value as well.
            if not self._reliable and time.monotonic() < deadline:
                with suppress(StorageUnavailable):
                    self._put(current, _timeout(current.expires, now, _GRACE_SECONDS), deadline)
            raise

    def _put(self, record: Record, timeout: int | None, deadline: float) -> None:
        data = pack(record)
        self._rely_on(deadline)
        if timeout is not None and timeout <= 0:
            self._ask("delete", NAMESPACE + record.id)
            return
        self._ask("set", NAMESPACE + record.id, data, timeout)
        self._verify(record, data)

    def _verify(self, record: Record, data: bytes) -> None:
        """Read a record back, if the cache may have dropped it without an error."""
        if not self._reliable and self._ask("get", NAMESPACE + record.id) != data:
            failure = StorageFull(
                f"{self.describe()} did not keep a session of {len(data)} bytes. It is unreachable "
                "or full, or does not accept entries of this size."
            )
            self._outages.failed(failure, "keep")
            raise failure
        self._note_success("keep")

    def _ask(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the cache returns. Raises `StorageUnavailable` for any error."""
        began = clock.monotonic()
        try:
            answer = getattr(self._cache, method)(*arguments)
        except Exception as error:
            self._outages.note_start(began)
            raise self._outage(error) from error
        self._note_success(method)
        return answer

    def _note_success(self, method: str) -> None:
        if self._outages.is_open:
            self._outages.succeeded(method)

    def _outage(self, error: Exception) -> StorageUnavailable:
        # Not its text, which may quote the data.
        failure = StorageUnavailable(
            f"{self.describe()}: {type(error).__name__}. Look at CACHES[{self._alias!r}], and "
            "whether its server runs."
        )
        self._outages.failed(failure)
        return failure

    # --- Locks --------------------------------------------------------------------------------

    def _rely_on(self, deadline: float) -> None:
        # The operation is not tried again, because so slow a cache would not be faster then.
        if time.monotonic() > deadline:
            raise StorageUnavailable(
                f"{self.describe()} took longer to answer than the lock of a session lasts. "
                "Nothing was written."
            )

    @contextmanager
    def _lock(self, session_id: str, *, waits: bool = True) -> Generator[float]:
        """Keep other requests from changing the session.

        Waits for the lock, or raises `LockTaken` instead. Provides the moment until which the lock
        is certain, of the monotonic clock.
        """
        name, token = f"{NAMESPACE}lock:{session_id}", secrets.token_hex(8)
        started = 0.0

        def attempt() -> bool:
            nonlocal started
            started = time.monotonic()
            return bool(self._ask("add", name, token, LOCK_SECONDS))

        self._wait_for(attempt, waits=waits)
        try:
            yield started + SAFE_SECONDS
        finally:
            # Later it may be the lock of another request. Otherwise it expires.
            if time.monotonic() < started + SAFE_SECONDS:
                with suppress(StorageUnavailable):
                    if self._ask("get", name) == token:
                        self._ask("delete", name)

    def _wait_for(self, attempt: Callable[[], bool], *, waits: bool) -> None:
        """Try to take a lock until that works.

        Raises `StorageUnavailable` after `WAIT_SECONDS`; `LockTaken` at once unless it ``waits``.
        """
        until = time.monotonic() + WAIT_SECONDS
        while not attempt():
            if not waits:
                raise LockTaken
            if time.monotonic() > until:
                raise StorageUnavailable(
                    f"{self.describe()}: the lock of a session was not free for "
                    f"{WAIT_SECONDS:g} seconds. Try again later."
                )
            time.sleep(random.uniform(0.0005, 0.004))  # noqa: S311 - not all at the same time


class LocMemStorage(PortableStorage):
    """Records in Django's cache in the memory of this process, with locks of the process.

    Lists read the cache's dict under the cache's own lock, because the cache has no method for
    that, and ``get`` would change which entries are removed when the cache is full.
    """

    shared = False

    _damage = (Exception,)
    _reliable = True
    # All storages of this class share them, because two may use the same cache.
    _locks: Final = tuple(threading.Lock() for _ in range(_STRIPES))

    @contextmanager
    def _lock(self, session_id: str, *, waits: bool = True) -> Generator[float]:
        lock = self._locks[_stripe(session_id)]
        if not lock.acquire(timeout=WAIT_SECONDS if waits else 0):
            if not waits:
                raise LockTaken
            raise StorageUnavailable(
                f"{self.describe()}: a thread did not release the lock of a session for "
                f"{WAIT_SECONDS:g} seconds. Try again later."
            )
        try:
            yield math.inf
        finally:
            lock.release()

    @property
    def lists(self) -> bool:  # type: ignore[override]
        """Whether the keys show the ids, which depends on the cache's KEY_FUNCTION."""
        return prefix_of(self._cache.make_key) is not None

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """See `Storage.scan`. Unpacks the entries of the page, and those of other users before."""
        return page_of(self.own(self._records(id_of_cursor(cursor), user_id)), limit)

    def count(self, now: int, user_id: str | None) -> int:
        """See `Storage.count`. Unpacks all entries."""
        return sum(record.is_live(now) for record in self.own(self._records("", user_id)))

    def _records(self, last: str, user_id: str | None) -> Iterator[Record]:
        """Yield the readable records after an id, in order of ids, without payloads."""
        for session_id in sorted(each for each in self._ids() if each > last):
            record = self._look(session_id)
            if record is not None and user_id in {None, record.user_id}:
                yield record

    def _ids(self) -> Iterator[str]:
        cache: Any = self._cache
        start = cache.make_key(NAMESPACE)
        with cache._lock:
            keys = [key for key in cache._cache if key.startswith(start)]
        return filter(is_session_id, (key[len(start) :] for key in keys))

    def _look(self, session_id: str) -> Record | None:
        """Return the record as lists show it; ``None`` if it does not exist or cannot be read."""
        cache: Any = self._cache
        key = cache.make_key(NAMESPACE + session_id)
        with cache._lock:
            pickled = None if cache._has_expired(key) else cache._cache.get(key)
        if pickled is None:
            return None
        try:
            data = pickle.loads(pickled)  # noqa: S301 - the process's own memory.
            return unpack_start(session_id, data, len(data)) or unpack(session_id, data)
        except self._damage:
            return None


def _stripe(session_id: str) -> int:
    return zlib.crc32(session_id.encode()) % _STRIPES


def _timeout(until: int, now: int, grace: int = 0) -> int | None:
    """Return the seconds from now until a moment, plus ``grace``; 0 if the moment has passed.

    The moments are in milliseconds since the epoch, and ``grace`` is in seconds. Return ``None``,
    which stands for never, if the moment is later than some caches can store.
    """
    if until > _LATEST:
        return None
    seconds = -((now - until) // 1000)
    return seconds + grace if seconds > 0 else 0
