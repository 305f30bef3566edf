"""The contract of a storage. Behaviour stands above it, in ``session``; a storage only stores.

Absent, expired and gone
    A record that is not there reads as ``None``. A storage may still hand out an expired record:
    whoever reads compares `Record.expires` with the clock. It must never hand out less than it
    has: when a store does not answer, every method raises `StorageUnavailable`.

Deleted stays deleted
    Only `Storage.create` and `Storage.rotate` make a record. `update` and `touch` of an absent
    one do nothing and say so.

Time comes in
    A method that writes gets ``now``, in milliseconds since the epoch, and goes by it rather than
    by a clock of its own. A server's own expiry may run besides it.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final, NamedTuple, ParamSpec, TypeVar

from asgiref.sync import sync_to_async

from ..flow import Call, Flow, run
from ..records import Record, State, is_session_id, listed, session_id

P = ParamSpec("P")
T = TypeVar("T")


class Updated(NamedTuple):
    """The write was done. ``record`` is what the store holds now, with a fresh handle."""

    record: Record
    key: str | None = None
    """The session key from now on; ``None`` where it stays as it is. See `holds_in_key`."""
    evicted: tuple[Record, ...] = ()
    """The live sessions that had to make room, where the storage knows."""

    def __repr__(self) -> str:
        # Error reports show local variables.
        return f"<Updated {self.record!r}>"


class Conflict(NamedTuple):
    """Nothing was written: the store holds another version, ``current``, or a tombstone."""

    current: Record


class Gone(NamedTuple):
    """Nothing was written: the store holds no record, or an expired one."""


class Taken(NamedTuple):
    """Nothing was written: there is a record with this id already."""


Outcome = Updated | Conflict | Gone


class Page(NamedTuple):
    """Some of a storage's records, and where the next ones begin."""

    records: list[Record]
    """Without payloads, see `listed`."""
    next: str
    """The cursor of the next page; empty after the last one."""


def no_cursor(cursor: str) -> ValueError:
    return ValueError(f"{cursor!r} is no cursor that a page of sessions has given.")


def after(cursor: str) -> str:
    """The id at which a page of `page_of` ended; empty for the first page.

    Raises ``ValueError`` for a cursor that is none.
    """
    if cursor and not is_session_id(cursor):
        raise no_cursor(cursor)
    return cursor


def page_of(records: Iterable[Record], limit: int) -> Page:
    """A page of the first live-state ones of some records, which come in the order of their ids.

    Takes no more of them than the page needs.
    """
    found: list[Record] = []
    for record in records:
        if record.state is not State.LIVE:
            continue
        if len(found) == limit:
            return Page(found, found[-1].id)
        found.append(listed(record))
    return Page(found, "")


class Storage:
    """Keeps records. Subclasses write the six methods below, all atomic per record.

    Each has an async twin, which runs it in a thread unless a storage with an async driver
    overrides it; `flows.FlowStorage` is for those. ``handle`` of a record is the storage's own: it
    gets back what it put there.

    Indexes (by user, by expiry) are kept in the trip of the write that they follow: every method
    that writes is told what it needs to know for that, the record before and after.
    """

    thread_sensitive: bool = False
    """Whether the twins must share one thread, as database connections ask for."""
    shared: bool = True
    """Whether all processes of a site see the same records."""
    durable: bool = True
    """Whether records outlive the store's restart and are never evicted."""
    self_expiring: bool = False
    """Whether the store drops expired records by itself, so that `purge` has nothing to do."""
    max_payload: int | None = None
    """Bytes that a payload may have; ``None`` where memory is the limit."""

    authoritative: bool = True
    """Whether the store says what the session is now, not who presents a key: whether a session
    can be ended, and none of two requests' changes is lost."""
    holds_in_key: bool = False
    """Whether the record is in the session key itself, so that each write makes another key."""
    lists: bool = False
    """Whether `scan` and `count` can tell which sessions there are."""
    deletes_blindly: bool = False
    """Whether `delete` cannot tell a tombstone, and calls it a record."""
    indexes_users: bool = False
    """Whether a user's sessions, and all counts, come from an index: where not, `scan` for a user
    and `count` read all that is stored."""
    keeps_client: bool = True
    """Whether IP address and user agent come back as they were stored."""
    keeps_changes: bool = False
    """Whether writes are to bring along what they changed, in `Record.changes`."""

    @property
    def native_async(self) -> bool:
        """Whether the async twins talk to the store without a thread."""
        return False

    def describe(self) -> str:
        """One line for checks and pages: which store, through which adapter. No secret.

        A `Phrase` is translated on pages.
        """
        raise NotImplementedError

    def identify(self, key: str) -> str | None:
        """The session id of a well-formed key; ``None`` for one that was never handed out."""
        return session_id(key)

    def locate(self, key: str) -> str:
        """What `read` finds the record of a well-formed key by."""
        return session_id(key)

    def mark(self, record: Record) -> bytes:
        """What tells a record from another one of the same id and version, where it
        `holds_in_key`: keys may be made whose save then fails."""
        return b""

    def is_outdated(self, record: Record) -> bool:
        """Whether a live record should be stored anew although nothing in it has changed."""
        return False

    def read(self, locator: str) -> Record | None:
        """The record or tombstone that `locate` leads to. One trip. Damaged bytes read as a
        record whose payload is unreadable, or raise `UnreadablePayload`."""
        raise NotImplementedError

    def create(self, record: Record, now: int) -> Updated | Taken:
        """Store a new record, unless there is one with its id. One trip."""
        raise NotImplementedError

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        """Store ``record`` in place of ``base`` if the store still holds that version. One trip.

        ``record`` is the next version, or a tombstone. A `Conflict` brings the current record,
        in the same trip where the store can do that. Raises `PayloadTooLarge`.
        """
        raise NotImplementedError

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        """Move the times of a record without rewriting its payload; whether it did. One trip.

        Nothing happens unless the store still holds the version of ``base``: who saved since
        has set the times too, and a shorter lifetime must not be undone.
        """
        raise NotImplementedError

    def delete(self, session_id: str) -> bool:
        """Remove the record with this id; whether there was one that is no tombstone. One trip.

        A tombstone may stay: it ends by itself.
        """
        raise NotImplementedError

    def purge(self, now: int, batch: int) -> int:
        """Remove up to ``batch`` records that expired before ``now``; how many were removed.

        Callers repeat until it returns 0. No statement locks more than a batch, and a record
        that is touched meanwhile stays.
        """
        raise NotImplementedError

    def lookup(self, session_id: str) -> Record | None:
        """The record or tombstone with this id, as far as it is known without the key. One trip.
        Its payload is empty where only the key has it."""
        return self.read(session_id)

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        """A page of up to ``limit`` records, of one user or of all, in an order of the storage's.

        Begins after ``cursor``, or at the start where that is empty. No tombstones; expired
        records may be among them, and so may be what was changed since the page before. In
        bounded memory and time at any number of sessions. Only where it `lists`. Raises
        ``ValueError`` for a cursor that no page has given.
        """
        raise NotImplementedError

    def first_expired(self, now: int) -> str:
        """The cursor of a scan that leaves out what is live, where the order allows one; empty
        otherwise. Asks no store."""
        return ""

    def count(self, now: int, user_id: str | None) -> int:
        """How many sessions are live, of one user or of all. Only where it `lists`."""
        raise NotImplementedError

    def reindex(self) -> int | None:
        """Make the index anew from the records, while others write; how many it has then.

        ``None`` where there is no index beside the records.
        """
        return None

    def index_is_complete(self) -> bool | None:
        """Whether the index has all that is stored; ``None`` where there is none.

        Asks the store.
        """
        return None

    def eviction_policy(self) -> str:
        """By which policy the store drops sessions in use when it is full, in its own words; empty
        where it does not, or does not tell. Asks the store."""
        return ""

    def rotate(self, record: Record, base: Record, grave: Record, now: int) -> Outcome | Taken:
        """Store ``record`` under its new id and put the tombstone ``grave`` in place of ``base``.

        Both or nothing, as far as anyone can see: ``record`` has a key that nobody knows yet.
        For stores that can do no better it is `in_two_steps`.
        """
        return run(in_two_steps(self, record, base, grave, now))

    def in_transaction(self) -> bool:
        """Whether what was just written is still the caller's to commit or roll back."""
        return False

    def after_commit(self, action: Callable[[], object]) -> None:
        """Call ``action`` when the caller's transaction commits. Only if `in_transaction`."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of connections. The storage is not used afterwards."""

    async def aread(self, locator: str) -> Record | None:
        """See `read`."""
        return await self._in_thread(self.read)(locator)

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

    async def apurge(self, now: int, batch: int) -> int:
        """See `purge`."""
        return await self._in_thread(self.purge)(now, batch)

    async def alookup(self, session_id: str) -> Record | None:
        """See `lookup`."""
        return await self._in_thread(self.lookup)(session_id)

    async def ascan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        """See `scan`."""
        return await self._in_thread(self.scan)(cursor, limit, user_id)

    async def acount(self, now: int, user_id: str | None) -> int:
        """See `count`."""
        return await self._in_thread(self.count)(now, user_id)

    async def areindex(self) -> int | None:
        """See `reindex`."""
        return await self._in_thread(self.reindex)()

    async def arotate(
        self, record: Record, base: Record, grave: Record, now: int
    ) -> Outcome | Taken:
        """See `rotate`."""
        return await self._in_thread(self.rotate)(record, base, grave, now)

    async def ain_transaction(self) -> bool:
        """See `in_transaction`."""
        return False

    async def aafter_commit(self, action: Callable[[], object]) -> None:
        """See `after_commit`."""
        await self._in_thread(self.after_commit)(action)

    def _in_thread(self, method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
        return sync_to_async(method, thread_sensitive=self.thread_sensitive)


def in_two_steps(
    storage: Storage, record: Record, base: Record, grave: Record, now: int
) -> Flow[Outcome | Taken]:
    """Rotate by creating and then superseding, so that a crash between the two loses nothing."""
    created: Updated | Taken = yield Call(storage, "create", (record, now))
    if isinstance(created, Taken):
        return created
    try:
        superseded: Outcome = yield Call(storage, "update", (grave, base, now))
    except Exception:
        yield Call(storage, "delete", (record.id,))
        raise
    if isinstance(superseded, Updated):
        return created
    yield Call(storage, "delete", (record.id,))
    return superseded


NAMESPACE: Final = "django_sessionstores:"
"""Keeps sessions apart from what else is in a cache, which adds its own prefix and version."""
_PROBE: Final = NAMESPACE + "0" * 40


def prefix_of(make_key: Callable[[str], str]) -> str | None:
    """What a cache puts in front of each key, as its ``make_key`` tells.

    ``None`` where its KEY_FUNCTION does not leave a key as it is at the end, so that nobody can
    tell from the cache's keys which sessions they are of.
    """
    prefix = make_key("")
    return prefix if make_key(_PROBE) == prefix + _PROBE else None


class CacheStorage(Storage):
    """A storage that can also stand in front of another one, as ``cached_db`` uses it."""

    durable = False

    def fill(self, record: Record, until: int, now: int) -> None:
        """Keep a copy of ``record`` until then, unless there is a tombstone or a newer version.

        A copy of the same version is replaced. Callers need no answer: a copy that was refused
        is one that must not be there.
        """
        raise NotImplementedError

    def bury(self, grave: Record, now: int) -> None:
        """Put a tombstone in place of whatever there is, for as long as it says."""
        raise NotImplementedError

    async def afill(self, record: Record, until: int, now: int) -> None:
        """See `fill`."""
        await self._in_thread(self.fill)(record, until, now)

    async def abury(self, grave: Record, now: int) -> None:
        """See `bury`."""
        await self._in_thread(self.bury)(grave, now)
