"""Records in any Django cache, through nothing but ``add``, ``get``, ``set`` and ``delete``.

No cache has a compare-and-set in Django's API, so every change is made under a lock: of the
process or, where the cache offers nothing better, of an entry of the cache.

The container is Django's: a cache pickles what it keeps, a record included. Who can write to such
a cache can run code in the site, as with any other use of it. The payload inside is sealed.
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

from ..exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from ..records import Record, State, is_session_id, moved, pack, unpack, unpack_start
from ..words import Phrase
from .base import (
    NAMESPACE,
    CacheStorage,
    Conflict,
    Gone,
    Outcome,
    Page,
    Taken,
    Updated,
    after,
    page_of,
    prefix_of,
)
from .copies import is_refused
from .database_cache import DatabaseCacheStorage

WAIT_SECONDS: Final = 5.0
"""How long to wait for a lock. It is held for a few operations of the cache."""
LOCK_SECONDS: Final = 30
"""How long a lock in the cache outlives a process that was killed while it held it."""
SAFE_SECONDS: Final = 10.0
"""How long its holder relies on it. What is left is for a write that is under way."""

# Some caches, on finding an entry expired, delete whatever has its key by then. So an entry lives
# longer than its record, and by then nobody saves the session any more.
_GRACE_SECONDS: Final = 60

_STRIPES: Final = 64


def from_cache(alias: str) -> CacheStorage:
    """The storage for sessions in the cache with this alias, whatever its class."""
    cache = caches.create_connection(alias)
    if isinstance(cache, BaseDatabaseCache):
        return DatabaseCacheStorage(cache)
    if isinstance(cache, LocMemCache):
        return LocMemStorage(alias)
    return PortableStorage(alias)


class PortableStorage(CacheStorage):
    """Records in a cache of which only Django's API is known.

    The lock is an entry of the cache, so it is as good as the cache's ``add``, and as its memory:
    a cache that evicts the entry lets two in. The timeouts of the cache's client have to be below
    `LOCK_SECONDS` less `SAFE_SECONDS`.

    A cache that swallows its errors is found out when it loses a write, but its "no such key" has
    to be believed.
    """

    self_expiring = True

    # What ``get`` raises for an entry that is no pickle, or a damaged one.
    _damage: tuple[type[Exception], ...] = (pickle.UnpicklingError, zlib.error, EOFError)
    # Whether a write that raised nothing was done.
    _reliable = False

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def describe(self) -> str:
        return Phrase(
            gettext_noop("%(cache)s through Django's cache API (alias %(alias)s)"),
            cache=type(self._cache).__name__,
            alias=repr(self._alias),
        )

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
            if current is None or current.expires <= now:
                return Gone()
            if current.version != base.version:
                return Conflict(current)
            self._replace(current, record, now, deadline)
        return Updated(record)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        with self._lock(base.id) as deadline:
            current = self._find(base.id)
            if current is None or current.expires <= now or current.version != base.version:
                return False
            touched = moved(current, expires, last_activity)
            self._replace(current, touched, now, deadline)
        return True

    def delete(self, session_id: str) -> bool:
        # Under the lock, or it would be undone by a writer that has just compared versions.
        with self._lock(session_id) as deadline:
            self._rely_on(deadline)
            record = None
            with suppress(UnreadablePayload):
                record = self._find(session_id)
            self._ask("delete", NAMESPACE + session_id)
            if not self._reliable and self._ask("get", NAMESPACE + session_id) is not None:
                raise StorageUnavailable(f"{self.describe()} did not delete a session")
        return record is not None and record.state is State.LIVE

    def purge(self, now: int, batch: int) -> int:
        return 0

    def fill(self, record: Record, until: int, now: int) -> None:
        with self._lock(record.id) as deadline:
            with suppress(UnreadablePayload):
                current = self._find(record.id)
                if current is not None and is_refused(record, current, now):
                    return
            self._put(record, _timeout(until, now), deadline)

    def bury(self, grave: Record, now: int) -> None:
        with self._lock(grave.id) as deadline:
            self._put(grave, _timeout(grave.expires, now, _GRACE_SECONDS), deadline)

    # --- Entries ------------------------------------------------------------------------------

    @property
    def _cache(self) -> BaseCache:
        # The one that Django hands out, not one of our own: some clients must not be shared by
        # threads, and who opens connections relies on being closed with the request.
        return caches[self._alias]

    def _find(self, session_id: str) -> Record | None:
        try:
            data = self._cache.get(NAMESPACE + session_id)
        except OSError as error:
            raise self._unavailable(error) from error
        except self._damage as error:
            raise UnreadablePayload("entry of the cache is damaged") from error
        except Exception as error:
            raise self._unavailable(error) from error
        if data is None:
            return None
        if not isinstance(data, bytes):
            raise UnreadablePayload("entry of the cache is no record")
        return unpack(session_id, data)

    def _replace(self, current: Record, record: Record, now: int, deadline: float) -> None:
        """Put a record in place of another, which stays if that fails."""
        try:
            self._put(record, _timeout(record.expires, now, _GRACE_SECONDS), deadline)
        except StorageUnavailable:
            # On memcached a value that is too large takes the old one with it.
            if not self._reliable and time.monotonic() < deadline:
                with suppress(StorageUnavailable):
                    self._put(current, _timeout(current.expires, now, _GRACE_SECONDS), deadline)
            raise

    def _put(self, record: Record, timeout: int, deadline: float) -> None:
        data = pack(record)
        self._rely_on(deadline)
        if timeout <= 0:
            self._ask("delete", NAMESPACE + record.id)
            return
        self._ask("set", NAMESPACE + record.id, data, timeout)
        self._verify(record, data)

    def _verify(self, record: Record, data: bytes) -> None:
        """Read back what was written, where the cache may have dropped it without a word."""
        if not self._reliable and self._ask("get", NAMESPACE + record.id) != data:
            raise StorageFull(
                f"{self.describe()} did not keep a session of {len(data)} bytes. It is out of "
                "reach or full, or takes no entries of this size."
            )

    def _ask(self, method: str, *arguments: Any) -> Any:
        """What a method of the cache returns. Whatever it raises is `StorageUnavailable`."""
        try:
            return getattr(self._cache, method)(*arguments)
        except Exception as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> StorageUnavailable:
        return StorageUnavailable(f"{self.describe()}: {type(error).__name__}")

    # --- Locks --------------------------------------------------------------------------------

    def _rely_on(self, deadline: float) -> None:
        # Not once more from the start: a cache this slow would not be faster the next time.
        if time.monotonic() > deadline:
            raise StorageUnavailable(
                f"{self.describe()} took longer to answer than a lock on it holds. Nothing was "
                "written."
            )

    @contextmanager
    def _lock(self, session_id: str) -> Generator[float]:
        """Keep others from changing the session; the moment until which that is sure."""
        name, token = f"{NAMESPACE}lock:{session_id}", secrets.token_hex(8)
        started = 0.0

        def attempt() -> bool:
            nonlocal started
            started = time.monotonic()
            return bool(self._ask("add", name, token, LOCK_SECONDS))

        self._wait_for(attempt)
        try:
            yield started + SAFE_SECONDS
        finally:
            # Later it may be someone else's. It ends by itself.
            if time.monotonic() < started + SAFE_SECONDS:
                with suppress(StorageUnavailable):
                    if self._ask("get", name) == token:
                        self._ask("delete", name)

    def _wait_for(self, attempt: Callable[[], bool]) -> None:
        """Try to take a lock until it works. Raises `StorageUnavailable` after a time."""
        until = time.monotonic() + WAIT_SECONDS
        while not attempt():
            if time.monotonic() > until:
                raise StorageUnavailable(
                    f"{self.describe()}: the lock of a session was not free for "
                    f"{WAIT_SECONDS:g} seconds"
                )
            time.sleep(random.uniform(0.0005, 0.004))  # noqa: S311 - so that not all come at once


class LocMemStorage(PortableStorage):
    """Records in Django's cache in the memory of this process, and so is the lock.

    Lists read the cache's dict, under its own lock: the cache has no method for that, and to get
    an entry moves it to the front of those that stay when the cache is full.
    """

    shared = False

    _damage = (Exception,)
    _reliable = True
    # Of the module's storages together: two may be on the same cache.
    _locks: Final = tuple(threading.Lock() for _ in range(_STRIPES))

    @contextmanager
    def _lock(self, session_id: str) -> Generator[float]:
        lock = self._locks[_stripe(session_id)]
        if not lock.acquire(timeout=WAIT_SECONDS):
            raise StorageUnavailable(f"{self.describe()}: a thread does not give back its lock")
        try:
            yield math.inf
        finally:
            lock.release()

    @property
    def lists(self) -> bool:  # type: ignore[override]
        """Whether the keys tell the ids, which is up to the cache's KEY_FUNCTION."""
        return prefix_of(self._cache.make_key) is not None

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        """See `Storage.scan`. Unpacks the entries of the page, or those up to the user's."""
        return page_of(self._records(after(cursor), user_id), limit)

    def count(self, now: int, user_id: str | None) -> int:
        """See `Storage.count`. Unpacks all entries."""
        return sum(record.is_live(now) for record in self._records("", user_id))

    def _records(self, last: str, user_id: str | None) -> Iterator[Record]:
        """The readable records after an id, by id, without payloads."""
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
        """The record as lists show it; ``None`` where there is none, or no readable one."""
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


def _timeout(until: int, now: int, grace: int = 0) -> int:
    """The seconds from now until a moment, and some grace if that is not past already."""
    seconds = -((now - until) // 1000)
    return seconds + grace if seconds > 0 else 0
