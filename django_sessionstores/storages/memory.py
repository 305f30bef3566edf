"""The storage of records in the memory of this process. They are lost when the process ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from threading import Lock
from typing import Any, Final

from django.utils.translation import gettext_noop

from ..core.phrases import Phrase
from ..core.records import Record, State, with_times
from .base import Outcome, P, Page, Storage, T, Taken, Updated, id_of_cursor, page_of, refusal

_NEVER: Final = 2**63


class MemoryStorage(Storage):
    """Records in a dict, at most ``max_sessions`` of them.

    When the dict is full, expired records are removed first, then those with the oldest writes. The
    lock is only held for operations of the dict.
    """

    shared = False
    durable = False
    lists = True
    native_async = True  # Nothing blocks, so the twins are plain calls.

    def __init__(self, max_sessions: int) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._lock = Lock()
        self._max_sessions = max_sessions
        # No record expires before this.
        self._earliest = _NEVER

    def describe(self) -> str:
        return Phrase(
            gettext_noop("memory of this process, at most %(number)s sessions"),
            number=self._max_sessions,
        )

    def read(self, session_id: str) -> Record | None:
        return self._records.get(session_id)

    def create(self, record: Record, now: int) -> Updated | Taken:
        with self._lock:
            if record.id in self._records:
                return Taken()
            evicted = tuple(self._make_room(now))
            self._put(record)
        return Updated(record, evicted=evicted)

    def update(self, record: Record, base: Record, now: int) -> Outcome:
        with self._lock:
            refused = refusal(self._records.get(base.id), base, now)
            if refused is not None:
                return refused
            self._put(record)
        return Updated(record)

    def touch(self, base: Record, expires: int, last_activity: int, now: int) -> bool:
        with self._lock:
            current = self._records.get(base.id)
            if current is None or refusal(current, base, now) is not None:
                return False
            self._put(with_times(current, expires, last_activity))
        return True

    def delete(self, session_id: str) -> bool:
        with self._lock:
            record = self._records.get(session_id)
            if record is None or record.state is not State.LIVE:
                return False
            del self._records[session_id]
        return True

    def rotate(self, record: Record, base: Record, tombstone: Record, now: int) -> Outcome | Taken:
        with self._lock:
            if record.id in self._records:
                return Taken()
            refused = refusal(self._records.get(base.id), base, now)
            if refused is not None:
                return refused
            self._put(tombstone)
            evicted = tuple(self._make_room(now))
            self._put(record)
        return Updated(record, evicted=evicted)

    def purge(self, now: int, batch: int) -> int:
        with self._lock:
            expired = [record.id for record in self._records.values() if record.expires <= now]
            for session_id in expired[:batch]:
                del self._records[session_id]
        return len(expired[:batch])

    def scan(self, cursor: str, limit: int, user_id: str | None) -> Page:
        last = id_of_cursor(cursor)
        with self._lock:
            found = sorted(each for each in self._records if each > last)
            records = [self._records[id_] for id_ in found]
        return page_of((record for record in records if user_id in {None, record.user_id}), limit)

    def count(self, now: int, user_id: str | None) -> int:
        with self._lock:
            return sum(
                record.is_live(now) and user_id in {None, record.user_id}
                for record in self._records.values()
            )

    def _put(self, record: Record) -> None:
        self._records[record.id] = record
        self._records.move_to_end(record.id)
        if record.expires < self._earliest:
            self._earliest = record.expires

    def _make_room(self, now: int) -> Iterator[Record]:
        """Remove records until there is room for one more, and yield the live sessions of them."""
        if len(self._records) < self._max_sessions:
            return
        # Without this condition, a full store would be searched for each new session.
        if self._earliest <= now:
            for record in list(self._records.values()):
                if record.expires <= now:
                    del self._records[record.id]
            self._earliest = min((r.expires for r in self._records.values()), default=_NEVER)
        while len(self._records) >= self._max_sessions:
            _, record = self._records.popitem(last=False)
            if record.is_live(now):
                yield record

    def _in_thread(self, method: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
        # Operations of a dict do not block, so they do not need a thread.
        async def call(*args: P.args, **kwargs: P.kwargs) -> T:
            return method(*args, **kwargs)

        return call
