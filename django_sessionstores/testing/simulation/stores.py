"""The stores of the simulated site: a wrapper that schedules each call, and a cache.

Stores keep records in dicts and follow the contract in ``storages/base.py``. Their calls take no
time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

from . import internals
from .internals import (
    CacheStorage,
    Codec,
    Conflict,
    Gone,
    Outcome,
    Page,
    Record,
    State,
    Storage,
    StorageFull,
    StorageUnavailable,
    Taken,
    Updated,
    arun,
    core_clock,
    end_one_by_one,
    end_without_key,
    id_of_cursor,
    is_refused,
    page_of,
    rotate_in_two_steps,
    run,
    with_times,
)
from .scheduler import Fault, Scheduler


class Scheduled(CacheStorage):
    """A storage around another one, whose calls are points of the scheduler and can fail."""

    def __init__(
        self, inner: Storage, name: str, scheduler: Scheduler, *, two_steps: bool = False
    ) -> None:
        self.inner: Any = inner
        self.name = name
        self.scheduler = scheduler
        self.is_away = False
        self.cut_off: set[int] = set()
        """The processes that cannot reach the store."""
        self.is_full = False
        self.holds_copies = False
        """Whether another store has the sessions, so that no request fails if this one is full."""
        self._two_steps = two_steps
        for each, value in internals.attributes(inner).items():
            if not isinstance(vars(CacheStorage).get(each, vars(Storage).get(each)), property):
                setattr(self, each, value)

    @property
    def codec(self) -> Codec:
        codec: Codec = self.inner.codec
        return codec

    @property
    def native_async(self) -> bool:
        # Its async twins are plain calls that do not block.
        return True

    def call(self, method: str, args: tuple[Any, ...]) -> Any:
        """Call the inner storage when the scheduler lets the actor go on."""
        subject = args[0] if args else ""
        if isinstance(subject, list):
            subject = subject[0]
        subject = subject.id if isinstance(subject, Record) else subject
        fault = self.scheduler.point(f"{self.name}.{method}({str(subject)[:8]})", can_fail=True)
        is_away = self.is_away or self.scheduler.process in self.cut_off
        if is_away or fault is not None:
            self.scheduler.failed(self.name)
        if is_away or fault is Fault.BEFORE:
            outage = StorageUnavailable(f"The simulated {self.name} does not answer.")
            outage.was_sent = False
            raise outage
        if self.is_full and self._needs_room(method, args[0]):
            if not self.holds_copies:
                self.scheduler.failed(self.name)
            raise StorageFull(f"The simulated {self.name} is full.")
        result = getattr(self.inner, method)(*args)
        if fault is Fault.AFTER:
            raise StorageUnavailable(f"The answer of the simulated {self.name} was lost.")
        return result

    def _needs_room(self, method: str, subject: object) -> bool:
        """Return whether a full store refuses a call. Stores find room for their tombstones, or do
        without them; a full cache may refuse those that another storage leaves in it."""
        if method in {"create", "update", "rotate", "fill"}:
            return isinstance(subject, Record) and subject.state is State.LIVE
        return self.holds_copies and method in {"leave_tombstone", "leave_tombstones"}

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        if self._two_steps:
            return run(rotate_in_two_steps(self, record, base, tombstone, now))
        outcome: Outcome | Taken = self.call("rotate", (record, base, tombstone, now))
        return outcome

    async def arotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Outcome | Taken:
        if self._two_steps:
            return await arun(rotate_in_two_steps(self, record, base, tombstone, now))
        return self.rotate(record, base, tombstone, now)

    def end_many(self, session_ids: Sequence[str]) -> Collection[str]:
        if self._two_steps:
            return run(end_one_by_one(session_ids, partial(end_without_key, self)))
        ended: Collection[str] = self.call("end_many", (session_ids,))
        return ended

    async def aend_many(self, session_ids: Sequence[str]) -> Collection[str]:
        return self.end_many(session_ids)


def _add_methods() -> None:
    def scheduled(name: str) -> tuple[Any, Any]:
        def blocking(self: Scheduled, *args: Any) -> Any:
            return self.call(name, args)

        async def awaited(self: Scheduled, *args: Any) -> Any:
            return self.call(name, args)

        return blocking, awaited

    def forwarded(name: str) -> tuple[Any, Any]:
        def blocking(self: Scheduled, *args: Any) -> Any:
            return getattr(self.inner, name)(*args)

        async def awaited(self: Scheduled, *args: Any) -> Any:
            return getattr(self.inner, name)(*args)

        return blocking, awaited

    for name in internals.methods():
        if name in vars(Scheduled) or name in internals.COMPOSED_CALLS:
            continue
        blocking, awaited = (scheduled if name in internals.STORE_CALLS else forwarded)(name)
        setattr(Scheduled, name, blocking)
        if name in internals.STORE_CALLS | internals.LOCAL_CALLS:
            setattr(Scheduled, f"a{name}", awaited)


_add_methods()


class WorkersStorage:
    """The storage of the process that serves the running request, if processes share stores.

    It also has the class of that storage, because the package checks the class of some storages.
    """

    def __init__(self, of_worker: Callable[[], Storage]) -> None:
        self._of_worker = of_worker

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        return type(self._of_worker())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of_worker(), name)


class SimulatedCache(CacheStorage):
    """A cache of records in a dict, which a program can evict."""

    def __init__(self, *, lists: bool = False) -> None:
        self.lists = self.indexes_users = self.indexes_counts = lists
        self.records: dict[str, Record] = {}

    def describe(self) -> str:
        return "a simulated cache"

    def read(self, locator: str) -> Record | None:
        return self.records.get(locator)

    def create(self, record: Record, now: int) -> Updated | Taken:
        if self._live(record.id, now) is not None:
            return Taken()
        self.records[record.id] = record
        return Updated(record)

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        current = self._live(base.id, now)
        if current is None:
            return Gone()
        if current.version != base.version:
            return Conflict(current)
        self.records[base.id] = record
        return Updated(record)

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        if self._live(record.id, now) is not None:
            return Taken()
        outcome = self.update(tombstone, base, now)
        if not isinstance(outcome, Updated):
            return outcome
        self.records[record.id] = record
        return Updated(record)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        current = self._live(base.id, now)
        if current is None or current.version != base.version:
            return False
        self.records[base.id] = with_times(current, expires, last_activity)
        return True

    def delete(self, session_id: str) -> bool:
        record = self.records.get(session_id)
        if record is None or record.state is not State.LIVE:
            return False
        del self.records[session_id]
        return record.is_live(core_clock.now())

    def purge(self, now: int, batch: int) -> int:
        expired = [each.id for each in self.records.values() if each.expires <= now][:batch]
        for each in expired:
            del self.records[each]
        return len(expired)

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        return page_of_rows(self.records, cursor, limit, user_id)

    def count(self, now: int, user_id: str | None) -> int:
        return sum(
            each.is_live(now) and user_id in {None, each.user_id} for each in self.records.values()
        )

    def fill(self, record: Record, until: int, now: int) -> None:
        stored = self._live(record.id, now)
        if stored is None or not is_refused(record, stored, now):
            self.records[record.id] = record

    def leave_tombstone(self, tombstone: Record, now: int) -> None:
        self.records[tombstone.id] = tombstone

    def _live(self, session_id: str, now: int) -> Record | None:
        record = self.records.get(session_id)
        return None if record is None or record.expires <= now else record


def page_of_rows(records: dict[str, Record], cursor: str, limit: int, user_id: str | None) -> Page:
    """Return the records after a cursor, in the order of their ids."""
    last = id_of_cursor(cursor)
    found = (records[each] for each in sorted(records) if each > last)
    return page_of((each for each in found if user_id in {None, each.user_id}), limit)
