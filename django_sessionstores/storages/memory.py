"""The storage of records in the memory of this process. They are lost when the process ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
from threading import Lock
from typing import Any, Final, ParamSpec, TypeVar

from django.utils.translation import gettext_noop

from ..core import clock
from ..core.phrases import Phrase
from ..core.records import Record, State, with_times
from .base import (
    Outcome,
    Page,
    Storage,
    Taken,
    Updated,
    id_of_cursor,
    is_removal,
    page_of,
    refusal,
)

P = ParamSpec("P")
T = TypeVar("T")

_NEVER: Final = 2**63


class _Records(OrderedDict[str, Record]):
    """At most ``most`` records by their ids, in the order of their writes.

    When it is full, expired records are removed first, then those with the oldest writes.
    """

    # The simulation copies storages, and a dict is made without arguments to be copied.
    def __init__(self, most: int = 0) -> None:
        super().__init__()
        self._most = most
        # No record expires before this.
        self._earliest = _NEVER

    def put(self, record: Record, now: int) -> tuple[Record, ...]:
        """Add a record, or replace it; return the live sessions that had to make room."""
        removed: tuple[Record, ...] = ()
        if record.id in self:
            self.move_to_end(record.id)
        elif len(self) >= self._most:
            removed = tuple(self._make_room(now))
        self[record.id] = record
        self._earliest = min(self._earliest, record.expires)
        return removed

    def _make_room(self, now: int) -> Iterator[Record]:
        # Without this condition, a full store would be searched for each new session.
        if self._earliest <= now:
            for record in list(self.values()):
                if record.expires <= now:
                    del self[record.id]
            self._earliest = min((each.expires for each in self.values()), default=_NEVER)
        while len(self) >= self._most:
            _, record = self.popitem(last=False)
            if record.is_live(now):
                yield record


class MemoryStorage(Storage):
    """Records in dicts: at most ``max_sessions`` sessions, and as many tombstones.

    A tombstone, such as the lock of a login, never takes the place of a session. The lock is only
    held for operations of the dicts.
    """

    shared = False
    durable = False
    lists = True
    native_async = True  # Nothing blocks, so the twins are plain calls.

    def __init__(self, max_sessions: int) -> None:
        self._sessions = _Records(max_sessions)
        self._tombstones = _Records(max_sessions)
        self._lock = Lock()
        self._max_sessions = max_sessions

    def describe(self) -> str:
        return Phrase(
            gettext_noop("memory of this process, at most %(number)s sessions"),
            number=self._max_sessions,
        )

    def read(self, session_id: str) -> Record | None:
        return self._get(session_id)

    def create(self, record: Record, now: int) -> Updated | Taken:
        with self._lock:
            if self._get(record.id) is not None:
                return Taken()
            evicted = self._put(record, now)
        return Updated(record, evicted=evicted)

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        with self._lock:
            refused = refusal(self._get(base.id), base, now)
            if refused is not None:
                return refused
            if is_removal(record):
                for records in (self._sessions, self._tombstones):
                    records.pop(base.id, None)
            else:
                self._put(record, now)
        return Updated(record)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        with self._lock:
            current = self._get(base.id)
            if current is None or refusal(current, base, now) is not None:
                return False
            self._put(with_times(current, expires, last_activity), now)
        return True

    def delete(self, session_id: str) -> bool:
        with self._lock:
            record = self._sessions.get(session_id)
            if record is None or not self.is_own(record):
                return False
            del self._sessions[session_id]
        return record.expires > clock.now()

    def end_many(self, session_ids: Sequence[str]) -> Collection[str]:
        return [each for each in session_ids if self.delete(each)]

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        with self._lock:
            if self._get(record.id) is not None:
                return Taken()
            refused = refusal(self._get(base.id), base, now)
            if refused is not None:
                return refused
            self._put(tombstone, now)
            evicted = self._put(record, now)
        return Updated(record, evicted=evicted)

    def purge(self, now: int, batch: int) -> int:
        found = 0
        with self._lock:
            for records in (self._sessions, self._tombstones):
                expired = [each.id for each in records.values() if self.may_purge(each, now)]
                for session_id in expired[: batch - found]:
                    del records[session_id]
                    found += 1
        return found

    def scan(self, cursor: str, limit: int, user_id: str | None, live_at: int = 0) -> Page:
        last = id_of_cursor(cursor)
        with self._lock:
            found = sorted(each for each in self._sessions if each > last)
            records = [self._sessions[id_] for id_ in found]
        return page_of(self._wanted(records, user_id), limit)

    def count(self, now: int, user_id: str | None) -> int:
        with self._lock:
            return sum(each.is_live(now) for each in self._wanted(self._sessions.values(), user_id))

    def _wanted(self, records: Iterable[Record], user_id: str | None) -> Iterator[Record]:
        """Yield the records of this site, of one user or of all."""
        for record in self.own(records):
            if user_id in {None, record.user_id}:
                yield record

    def _get(self, session_id: str) -> Record | None:
        return self._sessions.get(session_id) or self._tombstones.get(session_id)

    def _put(self, record: Record, now: int) -> tuple[Record, ...]:
        """Store a record; return the live sessions that had to make room."""
        records, others = self._sessions, self._tombstones
        if record.state is not State.LIVE:
            records, others = others, records
        others.pop(record.id, None)
        return records.put(record, now)

    def _in_thread(self, method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
        # Operations of a dict do not block, so they do not need a thread.
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return method(*args, **kwargs)

        return call
