"""The contract of a storage. A storage only stores; the behaviour of sessions is in ``sessions``.

Absent, expired and gone
    A record that does not exist reads as ``None``. A storage may still return an expired record:
    callers compare `Record.expires` with the clock. It must never return less than it has: if a
    store does not answer, every method raises `StorageUnavailable`.

Deleted stays deleted
    Only `Storage.create` and `Storage.rotate` create a record. `update` and `touch` of an absent
    record do nothing and say so.

Tombstones stay
    A tombstone says what became of an id, and under which id its session continues. `delete` leaves
    it alone, so that ending a session can follow it. It lasts until it expires. But an update by a
    tombstone whose ``expires`` is 0 only removes the record, and `create` can use the id again.

Time is an argument
    A method that writes gets ``now``, in milliseconds since the epoch, and uses that rather than a
    clock of its own. The expiry of the server itself may run in addition. `delete` also removes
    what has expired, because the clock of another process may be behind; its own clock only says
    what it returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from asgiref.sync import sync_to_async
from django.core.cache import caches
from django.core.cache.backends.base import BaseCache, default_key_func

from .. import conf
from ..core.flow import Call, Flow, run
from ..core.records import (
    Record,
    State,
    is_well_formed,
    make_tombstone,
    session_id,
)
from .ending import end_one_by_one, end_without_key
from .inspection import Inspection
from .outcomes import (
    Conflict,
    Found,
    Gone,
    Outcome,
    Page,
    Taken,
    Updated,
    cursor_error,
    expiry_cursor,
    expiry_page,
    id_of_cursor,
    is_removal,
    page_of,
    place_of_cursor,
    refusal,
)
from .site_marks import LITTER_AGE
from .threads import in_thread

if TYPE_CHECKING:
    from ..payloads.codec import Codec

__all__ = [
    "LITTER_AGE",
    "MOST_AT_ONCE",
    "NAMESPACE",
    "SHORT_NAMESPACE",
    "CacheStorage",
    "Conflict",
    "Found",
    "Gone",
    "Outcome",
    "Page",
    "Storage",
    "Taken",
    "Updated",
    "cursor_error",
    "expiry_cursor",
    "expiry_page",
    "has_fixed_keys",
    "id_of_cursor",
    "is_removal",
    "page_of",
    "place_of_cache",
    "place_of_cursor",
    "prefix_of",
    "refusal",
    "rotate_in_two_steps",
    "was_rotated",
]

P = ParamSpec("P")
T = TypeVar("T")

MOST_AT_ONCE: Final = 500
"""How many sessions one call of a storage ends at most."""


class Storage(Inspection):
    """The base class of all storages.

    A subclass must implement `describe`, `read`, `create`, `update`, `touch`, `delete` and `purge`.
    Each operation must be atomic for its record.

    Each method that asks the store has an async twin, which runs it in a thread. A storage with an
    async driver overrides the twins, most easily as a `flows.FlowStorage`. ``handle`` of a record
    belongs to the storage: the storage gets back the value that it has set.

    Indexes (by user, by expiry) are updated in the round trip of the write that they follow. For
    that, methods that write get the record before and after the write.
    """

    thread_sensitive: bool = False
    """Whether the async twins must share one thread, as database connections require."""
    shared: bool = True
    """Whether all processes of a site see the same records."""
    durable: bool = True
    """Whether records survive a restart of the store and are never evicted."""
    tells_eviction: bool = False
    """Whether `eviction_policy` tells if the store drops records in use, so that nobody guesses."""
    temporary: bool = False
    """Whether the records are in a folder that the system may empty at any time."""
    self_expiring: bool = False
    """Whether the store removes expired records itself, so that `purge` has nothing to do."""
    max_payload: int | None = None
    """The maximum size of a payload in bytes; ``None`` if only memory limits it."""

    authoritative: bool = True
    """Whether the store decides what the session is now, and not the key that a request presents.

    If so, a session can be ended, and no changes of parallel requests are lost.
    """
    holds_in_key: bool = False
    """Whether the session key itself holds the record, so that each write makes another key."""
    lists: bool = False
    """Whether `scan` and `count` are implemented."""
    lists_lost: bool = False
    """Whether `scan` and `count` may include sessions whose data the store has lost."""
    indexes_users: bool = False
    """Whether an index has the sessions of each user. If not, listing those reads all records."""
    indexes_counts: bool = False
    """Whether an index has the number of sessions. If not, `count` reads all records."""
    keeps_client: bool = True
    """Whether the IP address and user agent of a record are stored."""
    asks_for_rights: bool = False
    """Whether `write_obstacle` asks the store, so that system checks must not call it."""
    keeps_changes: bool = False
    """Whether writes must pass the changed keys in `Record.changes`."""

    @property
    def native_async(self) -> bool:
        """Whether the async twins work without a thread."""
        return False

    def describe(self) -> str:
        """Return one line for checks and pages: which store, through which adapter.

        It must not show secrets. A `Phrase` is translated on pages.
        """
        raise _unwritten(self, "describe")

    @property
    def codec(self) -> Codec:
        """The codec that makes payloads for this storage from session data."""
        return conf.codec()

    def parts(self) -> tuple[Storage, ...]:
        """Return the storages that this storage consists of; an empty tuple if it uses a store."""
        return ()

    def key_of(self, cookie: str) -> str | None:
        """Return the session key for the value of a cookie.

        Return ``None`` for a value that this storage cannot have given to a browser. Does not ask
        the store.
        """
        return cookie if is_well_formed(cookie) else None

    def identify(self, key: str) -> str | None:
        """Return the session id of a well-formed key; ``None`` for a key that was never issued."""
        return session_id(key)

    def locate(self, key: str) -> str:
        """Return the locator of a well-formed key, by which `read` finds the record."""
        return session_id(key)

    def mark(self, record: Record) -> bytes:
        """Return bytes that tell a record from others of the same id and version.

        Only needed if the storage `holds_in_key`, because keys may be made whose save then fails.
        """
        return b""

    def is_outdated(self, record: Record) -> bool:
        """Return whether a live record should be stored again although it has not changed."""
        return False

    def read(self, locator: str) -> Record | None:
        """Return the record or tombstone with this locator, or ``None``. One round trip.

        Damaged bytes read as a record whose payload is unreadable, or raise `UnreadablePayload`.
        """
        raise _unwritten(self, "read")

    def find(self, key: str, cookie: str) -> Found:
        """Return the record or tombstone of a key, as `read` does.

        A storage that also looks elsewhere overrides this. ``cookie`` is the value that the browser
        sent, see `key_of`.
        """
        return Found(self.read(self.locate(key)))

    def peek(self, key: str) -> Record | None:
        """Return the record or tombstone of a key, here or elsewhere, without changing anything."""
        return self.read(self.locate(key))

    def read_latest(self, session_id: str) -> Record | None:
        """Return the record or tombstone with an id from the store, not a copy. One round trip."""
        return self.read(session_id)

    def follow(self, base: Record, successor: str) -> Record | None:
        """Return the record with the id ``successor``, for a caller that knows ``base``.

        ``base`` is the record of the session before it got that id. One round trip.
        """
        return self.read(successor)

    def create(self, record: Record, now: int) -> Updated | Taken:
        """Store a new record, unless a record with its id exists. One round trip."""
        raise _unwritten(self, "create")

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        """Replace ``base`` by ``record`` if the store still has that version. One round trip.

        ``record`` is the next version, or a tombstone. A `Conflict` has the current record, from
        the same round trip if the store can do that. Raises `PayloadTooLarge`.
        """
        raise _unwritten(self, "update")

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        """Set the times of a record without rewriting its payload. One round trip.

        ``expires`` and ``last_activity`` are in milliseconds since the epoch. Return whether the
        times were set. Nothing happens unless the store still has the version of ``base``, because
        a request that has saved since has set the times too, and a shorter lifetime must not be
        undone. Nothing happens either if the call would have to wait for another transaction:
        requests that only read touch their session, and later ones do it again.
        """
        raise _unwritten(self, "touch")

    def delete(self, session_id: str) -> bool:
        """Remove the record with this id; return whether it was live, by the clock of the process.

        A tombstone stays, and a record of another site. A value that cannot be read is removed
        without an error, because the session must end nevertheless; the storage may return either
        value then. One round trip, or two if nothing was live or to tell records from tombstones.
        """
        raise _unwritten(self, "delete")

    def end(self, session_id: str, presented: str | None) -> bool:
        """Delete the record as `delete` does, and keep copies elsewhere from coming back.

        ``presented`` is the session key, or the cookie that stands for it, if the caller has it.
        """
        return self.delete(session_id)

    def end_many(self, session_ids: Sequence[str]) -> Collection[str]:
        """End several sessions as `end` does, without their keys; return the ids of the live ones.

        Callers pass `MOST_AT_ONCE` ids at most. A storage does this in one statement or pipeline if
        it can; the default ends one session after the other. Each end is atomic, all together need
        not be. If the store stops answering after the first ones, their ids are returned, and the
        next call raises `StorageUnavailable`.
        """
        return self.end_each(session_ids, partial(end_without_key, self))

    def end_each(
        self, session_ids: Sequence[str], end: Callable[[str], Flow[bool]]
    ) -> Collection[str]:
        """Run ``end`` for each id; return the ids for which it returns true, see `end_many`.

        A store with commits makes one for all of them, because a commit costs more than a
        statement. Then nothing has ended if this raises an exception.
        """
        return run(end_one_by_one(session_ids, end))

    def issue(self, record: Record, now: int) -> Updated:
        """Make another key for a session that a request has created with the data of ``record``.

        Only if the storage `holds_in_key` and `create` may return `Taken`.
        """
        raise _unwritten(self, "issue")

    def purge(self, now: int, batch: int) -> int:
        """Remove up to ``batch`` records that have expired by ``now``, and return how many.

        Records of other sites stay for another `LITTER_AGE`.

        Callers repeat the call with the same ``now`` until it returns 0. No statement locks more
        than a batch, and a record that is touched meanwhile stays. One that cannot be read does not
        stop the purge: it is removed when it would have expired, or at once if the store cannot
        tell when that is. If the store cannot tell its site, it may stay as long as those of other
        sites.
        """
        raise _unwritten(self, "purge")

    def lookup(self, session_id: str) -> Record | None:
        """Return the record or tombstone with this id, as far as it is known without the key.

        Its payload is empty if only the key has it. Finds all that `delete` finds. One round trip.
        """
        return self.read(session_id)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """Return a page of up to ``limit`` records, of one user or of all users.

        The page begins after ``cursor``, or at the start if that is empty, in the storage's own
        order. It has no tombstones. It may have expired records, and records that have changed
        since the page before. Those that have expired by ``live_at`` may be left out, and are if
        the store can do that without reading them: there may be thousands that no purge has
        removed. Memory and time must be bounded at any number of sessions. Only if the storage
        `lists`. Raises ``ValueError`` for a cursor that no page has returned.
        """
        raise _unwritten(self, "scan")

    def count(self, now: int, user_id: str | None) -> int:
        """Return how many sessions are live, of one user or of all. Only if the storage `lists`."""
        raise _unwritten(self, "count")

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        """Store ``record`` under its new id and replace ``base`` by ``tombstone``.

        Other requests must see both writes or none; that is possible in two steps, because nobody
        knows the key of ``record`` yet. The default is `rotate_in_two_steps`.
        """
        return run(rotate_in_two_steps(self, record, base, tombstone, now))

    def in_transaction(self) -> bool:
        """Return whether the caller can still commit or roll back what was just written."""
        return False

    def after_commit(self, action: Callable[[], object]) -> Callable[[], bool | None]:
        """Call ``action`` when the caller's transaction commits. Only if `in_transaction`.

        Return a function that tells whether it has committed: ``None`` while it is open, ``False``
        after a rollback. The function may be called in any thread, and asks no store.
        """
        raise _unwritten(self, "after_commit")

    def after_rollback(self, action: Callable[[], object]) -> None:
        """Call ``action`` if the caller rolls back what was just written. Only if `in_transaction`.

        ``action`` is called outside of any transaction.
        """
        raise _unwritten(self, "after_rollback")

    def close(self) -> None:
        """Close all connections. The storage is not used afterwards."""

    async def aread(self, locator: str) -> Record | None:
        """See `read`."""
        return await self._in_thread(self.read)(locator)

    async def afind(self, key: str, cookie: str) -> Found:
        """See `find`."""
        return Found(await self.aread(self.locate(key)))

    async def apeek(self, key: str) -> Record | None:
        """See `peek`."""
        return await self.aread(self.locate(key))

    async def aread_latest(self, session_id: str) -> Record | None:
        """See `read_latest`."""
        return await self.aread(session_id)

    async def afollow(self, base: Record, successor: str) -> Record | None:
        """See `follow`."""
        return await self.aread(successor)

    async def acreate(self, record: Record, now: int) -> Updated | Taken:
        """See `create`."""
        return await self._in_thread(self.create)(record, now)

    async def aupdate(self, record: Record, base: Record, now: int) -> Outcome:
        """See `update`."""
        return await self._in_thread(self.update)(record, base, now)

    async def atouch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        """See `touch`."""
        return await self._in_thread(self.touch)(base, expires, last_activity, now)

    async def adelete(self, session_id: str) -> bool:
        """See `delete`."""
        return await self._in_thread(self.delete)(session_id)

    async def aend(self, session_id: str, presented: str | None) -> bool:
        """See `end`."""
        return await self.adelete(session_id)

    async def aend_many(self, session_ids: Sequence[str]) -> Collection[str]:
        """See `end_many`."""
        return await self._in_thread(self.end_many)(session_ids)

    async def aissue(self, record: Record, now: int) -> Updated:
        """See `issue`."""
        return await self._in_thread(self.issue)(record, now)

    async def apurge(self, now: int, batch: int) -> int:
        """See `purge`."""
        return await self._in_thread(self.purge)(now, batch)

    async def alookup(self, session_id: str) -> Record | None:
        """See `lookup`."""
        return await self._in_thread(self.lookup)(session_id)

    async def alookup_many(self, session_ids: Sequence[str]) -> Mapping[str, Record]:
        """See `lookup_many`."""
        return await self._in_thread(self.lookup_many)(session_ids)

    async def ascan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        """See `scan`."""
        return await self._in_thread(self.scan)(cursor, limit, user_id, live_at)

    async def acount(self, now: int, user_id: str | None) -> int:
        """See `count`."""
        return await self._in_thread(self.count)(now, user_id)

    async def areindex(self) -> int | None:
        """See `reindex`."""
        return await self._in_thread(self.reindex)()

    async def arotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Outcome | Taken:
        """See `rotate`."""
        return await self._in_thread(self.rotate)(record, base, tombstone, now)

    async def ain_transaction(self) -> bool:
        """See `in_transaction`. A storage on connections that belong to a thread overrides it."""
        return self.in_transaction()

    async def aafter_commit(self, action: Callable[[], object]) -> Callable[[], bool | None]:
        """See `after_commit`."""
        return await self._in_thread(self.after_commit)(action)

    def _in_thread(self, method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
        # Django's own thread for what must share one.
        return sync_to_async(method) if self.thread_sensitive else in_thread(method)


def rotate_in_two_steps(
    storage: Storage, record: Record, base: Record, tombstone: Record, now: int
) -> Flow[Outcome | Taken]:
    """Create ``record`` and then replace ``base``; a crash between the two loses nothing.

    See `Storage.rotate`.
    """
    created: Updated | Taken = yield Call(storage, "create", (record, now))
    if isinstance(created, Taken):
        return created
    try:
        superseded: Outcome = yield Call(storage, "update", (tombstone, base, now))
    except Exception:
        if not (yield from was_rotated(storage, record, base)):
            yield from _withdraw(storage, record, now)
            raise
        return created
    if isinstance(superseded, Updated):
        return created
    current = superseded.current if isinstance(superseded, Conflict) else None
    if current is not None and (current.state is State.LIVE or current.successor == record.id):
        # Another request may make the same rotation, and has changed the record if it needs it.
        yield from _withdraw(storage, record, now)
    else:
        yield Call(storage, "delete", (record.id,))
    return superseded


def _withdraw(storage: Storage, record: Record, now: int) -> Flow[None]:
    """Remove a record that was just created, unless another request has changed it."""
    tombstone = make_tombstone(record.id, State.ENDED, now=0, seconds=0, of=record)
    yield Call(storage, "update", (tombstone, record, now))


def was_rotated(storage: Storage, record: Record, base: Record) -> Flow[bool]:
    """Return whether a rotation that raised has been done, and only its answer was lost.

    If so, the record must stay under its new id, or the session would be lost. Raises
    `StorageUnavailable` if the storage cannot tell; then both records have to stay.
    """
    current: Record | None = yield Call(storage, "read_latest", (base.id,))
    return current is not None and current.successor == record.id


NAMESPACE: Final = "django_sessionstores:"
"""Keeps sessions apart from other keys in a cache, which adds its own prefix and version."""
SHORT_NAMESPACE: Final = "dss:"
"""The same on Redis. With the default prefix, a key takes no more than 30 bytes, and Redis keeps it
in 32."""
_PROBE: Final = NAMESPACE + "0" * 40


def has_fixed_keys(cache: BaseCache) -> bool:
    """Return whether a cache makes the same key of a name for each request.

    A KEY_FUNCTION, or a KEY_PREFIX that is an object of the project, may tell tenants apart.
    """
    return cache.key_func is default_key_func and isinstance(cache.key_prefix, str)


def prefix_of(make_key: Callable[[str], str]) -> str | None:
    """Return the prefix that a cache's ``make_key`` puts in front of each key.

    Return ``None`` if the result of its KEY_FUNCTION does not end in the key, so that the cache's
    keys do not tell the sessions.
    """
    prefix = make_key("")
    return prefix if make_key(_PROBE) == prefix + _PROBE else None


def place_of_cache(alias: str) -> str:
    """Return the place of the cache with this alias. Two aliases may stand for the same cache."""
    return repr(sorted(caches.settings[alias].items()))


class CacheStorage(Storage):
    """A storage that can also hold copies of another storage's records, as in ``cached_db``."""

    durable = False
    holds_copies: bool = False
    """Whether it holds nothing but copies, which may get lost at any time."""

    def fill(self, record: Record, until: int, now: int) -> None:
        """Store a copy of ``record``, unless there is a tombstone or a newer version.

        The copy counts until ``until``, in milliseconds since the epoch. A copy of the same version
        is replaced. Callers do not need an answer: a copy that was refused must not be stored.
        """
        raise _unwritten(self, "fill")

    def leave_tombstone(self, tombstone: Record, now: int) -> None:
        """Replace whatever is stored under an id by a tombstone, until that expires."""
        raise _unwritten(self, "leave_tombstone")

    def leave_tombstones(self, tombstones: Sequence[Record], now: int) -> None:
        """Do what `leave_tombstone` does for several ids, in one pipeline if the store can."""
        for each in tombstones:
            self.leave_tombstone(each, now)

    async def afill(self, record: Record, until: int, now: int) -> None:
        """See `fill`."""
        await self._in_thread(self.fill)(record, until, now)

    async def aleave_tombstone(self, tombstone: Record, now: int) -> None:
        """See `leave_tombstone`."""
        await self._in_thread(self.leave_tombstone)(tombstone, now)

    async def aleave_tombstones(self, tombstones: Sequence[Record], now: int) -> None:
        """See `leave_tombstones`."""
        await self._in_thread(self.leave_tombstones)(tombstones, now)


def _unwritten(storage: Storage, method: str) -> NotImplementedError:
    kind = type(storage)
    because = ", because its `lists` is true" if method in {"scan", "count"} else ""
    return NotImplementedError(
        f"{kind.__module__}.{kind.__qualname__} must have the method {method}(){because}. See "
        f"{Storage.__module__}.{Storage.__qualname__}.{method}()."
    )
