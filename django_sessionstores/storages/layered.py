"""A cache in front of an authority: fast as the one, true as the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Final

import msgspec
from django.utils.translation import gettext_noop

from ..exceptions import (
    PayloadTooLarge,
    StorageFull,
    StorageUnavailable,
    UnreadablePayload,
)
from ..flow import Call, Flow, run
from ..records import Record, State, moved, tombstone
from ..words import Phrase
from .base import CacheStorage, Conflict, Gone, Outcome, Storage, Taken, Updated
from .composed import ComposedStorage
from .copies import leased, read_copy

logger: Final = logging.getLogger("django_sessionstores")

_MOST_SUSPECTS: Final = 10_000
"""How many sessions are remembered one by one whose news the cache has missed; with more, all of
them are suspect. About two megabytes."""


class Layered(ComposedStorage):
    """Reads come from ``cache`` where it has a copy, writes go to ``authority`` first.

    The authority alone decides: versions are compared there, and a copy that is behind
    costs a merge, never a change. A copy counts for ``lease`` seconds from when the authority was
    asked, however late the cache hears of it, which bounds how long a logout can go unnoticed that
    the cache did not hear of.

    Trouble with the cache fails no request. After an error it is left alone for ``retry``
    seconds, so that a dead cache does not cost each request a timeout.
    """

    def __init__(
        self, cache: CacheStorage, authority: Storage, *, lease: float, retry: float
    ) -> None:
        super().__init__(listing=authority)
        self.cache = cache
        self.authority = authority
        self._lease = lease
        self._retry = retry
        # Moments of the monotonic clock.
        self._left_alone_until = 0.0
        self._distrusted_until = 0.0
        # Sessions whose copies may be out of date, until when; the oldest first.
        self._suspects: dict[str, float] = {}
        self._suspects_lock = Lock()
        self.max_payload = authority.max_payload
        self.shared = authority.shared

    def describe(self) -> str:
        return Phrase(
            gettext_noop("%(cache)s in front of %(database)s"),
            cache=self.cache.describe(),
            database=self.authority.describe(),
        )

    def _read(self, locator: str) -> Flow[Record | None]:
        distrusted = self._is_suspect(locator)
        if not distrusted:
            stored: Record | None = yield from self._ask_cache("read", locator)
            # Its expiry may lag behind the authority's.
            if stored is not None and stored.expires > (now := _now()):
                if stored.state is State.ENDED:
                    return None
                copy = read_copy(stored, now) if stored.state is State.LIVE else stored
                if copy is not None:
                    return copy
        asked = _now()
        record: Record | None = yield Call(self.authority, "read", (locator,))
        if record is not None and record.state is State.LIVE:
            yield from self._once_committed(lambda: self._fill(record, asked, is_news=False))
        elif record is None and distrusted:
            # No tombstone: the session may yet come, from an engine that was in use before.
            yield from self._tell_cache(locator, "delete", locator, is_news=False)
        return record

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        asked = _now()
        with self._or_distrust(record.id):
            outcome: Updated | Taken = yield Call(self.authority, "create", (record, now))
            if isinstance(outcome, Updated):
                yield from self._publish(record.id, record, asked)
        return outcome

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        asked = _now()
        with self._or_distrust(base.id):
            outcome: Outcome = yield Call(self.authority, "update", (record, base, now))
            yield from self._publish(base.id, _found(outcome), asked)
        return outcome

    def _rotate(
        self, record: Record, base: Record, grave: Record, now: int
    ) -> Flow[Outcome | Taken]:
        asked = _now()
        with self._or_distrust(base.id):
            outcome: Outcome | Taken = yield Call(
                self.authority, "rotate", (record, base, grave, now)
            )
            if isinstance(outcome, Updated):
                yield from self._publish(base.id, grave, asked)
                yield from self._publish(record.id, record, asked)
            elif not isinstance(outcome, Taken):
                yield from self._publish(base.id, _found(outcome), asked)
        return outcome

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        asked = _now()
        with self._or_distrust(base.id):
            times = (expires, last_activity)
            touched: bool = yield Call(self.authority, "touch", (base, *times, now))
            if touched:
                yield from self._publish(base.id, moved(base, *times), asked)
        return touched

    def _delete(self, session_id: str) -> Flow[bool]:
        with self._or_distrust(session_id):
            deleted: bool = yield Call(self.authority, "delete", (session_id,))
            yield from self._publish(session_id, None, _now())
        return deleted

    def _purge(self, now: int, batch: int) -> Flow[int]:
        removed: int = yield Call(self.authority, "purge", (now, batch))
        # Copies count for nobody; they only must not pile up.
        while not (removed or self.cache.self_expiring):
            if not (yield from self._ask_cache("purge", now, batch)):
                break
        return removed

    def close(self) -> None:
        self.cache.close()
        self.authority.close()

    # --- What the cache is told ---------------------------------------------------------------

    def _publish(self, session_id: str, record: Record | None, asked: int) -> Flow[None]:
        """Tell the cache what the authority holds under an id after a write, which it was asked
        for at that moment."""
        if (yield Call(self.authority, "in_transaction", ())):
            # So that the transaction reads its own write.
            yield from self._tell_cache(session_id, "delete", session_id)
        yield from self._once_committed(lambda: self._put(session_id, record, asked))

    def _once_committed(self, step: Callable[[], Flow[None]]) -> Flow[None]:
        """Take a step now, or when the transaction commits that is open.

        A cache that hears of a write before that keeps it when the write is rolled back.
        """
        if (yield Call(self.authority, "in_transaction", ())):
            yield Call(self.authority, "after_commit", (lambda: run(step()),))
        else:
            yield from step()

    def _put(self, session_id: str, record: Record | None, asked: int) -> Flow[None]:
        if record is None:
            yield from self._bury(session_id)
        elif record.state is State.LIVE:
            yield from self._fill(record, asked)
        else:
            yield from self._put_grave(record)

    def _fill(self, record: Record, asked: int, is_news: bool = True) -> Flow[None]:
        """Copy what the authority held when it was asked.

        A logout after that puts a tombstone into the cache, which refuses the copy and stays for a
        lease. So no copy counts that comes when the tombstone has gone: its lease is over, too.
        """
        now = _now()
        until = min(record.expires, asked + int(self._lease * 1000))
        if record.expires <= now:
            # A copy from before a shorter lifetime was set would go on being served.
            yield from self._bury(record.id)
            return
        try:
            if until > now:
                copy = leased(record, until)
                yield from self._tell_cache(record.id, "fill", copy, until, now, is_news=is_news)
            elif is_news:
                yield from self._tell_cache(record.id, "delete", record.id)
        except (PayloadTooLarge, StorageFull):
            # An older copy must not stay in place of the one that does not fit.
            yield from self._tell_cache(record.id, "delete", record.id)

    def _bury(self, session_id: str) -> Flow[None]:
        yield from self._put_grave(
            tombstone(session_id, State.ENDED, now=_now(), seconds=self._lease)
        )

    def _put_grave(self, grave: Record) -> Flow[None]:
        # Not shorter than a lease: it has to outlive every copy of the session.
        now = _now()
        grave = msgspec.structs.replace(
            grave, expires=max(grave.expires, now + int(self._lease * 1000))
        )
        try:
            yield from self._tell_cache(grave.id, "bury", grave, now)
        except StorageFull:
            yield from self._tell_cache(grave.id, "delete", grave.id)

    # --- Trouble with the cache ---------------------------------------------------------------

    def _ask_cache(self, name: str, *args: Any) -> Flow[Any]:
        """What the cache answers; ``None`` if it does not, or should be left alone."""
        if self._is_left_alone():
            return None
        try:
            answer = yield Call(self.cache, name, args)
        except UnreadablePayload:
            answer = None
        except StorageUnavailable as error:
            self._leave_alone(error)
            return None
        self._left_alone_until = 0.0
        return answer

    def _tell_cache(
        self, session_id: str, name: str, *args: Any, is_news: bool = True
    ) -> Flow[None]:
        """Change what the cache has of a session. News that it did not hear of make that suspect.

        Raises `PayloadTooLarge` and `StorageFull`, where deleting a copy may still work.
        """
        heard = False
        try:
            if not self._is_left_alone():
                yield Call(self.cache, name, args)
                self._left_alone_until = 0.0
                heard = True
        except (PayloadTooLarge, StorageFull):
            if name != "delete":
                heard = True
                raise
        except StorageUnavailable as error:
            self._leave_alone(error)
        finally:
            if is_news and not heard:
                self._distrust(session_id)

    def _is_left_alone(self) -> bool:
        now = time.monotonic()
        if now < self._left_alone_until:
            return True
        if self._left_alone_until:
            # One request tries whether the cache is back; the others go on without it.
            self._left_alone_until = now + self._retry
        return False

    def _leave_alone(self, error: StorageUnavailable) -> None:
        if not self._left_alone_until:
            logger.error(
                "The session cache is out of reach; sessions come from behind it: %s",
                error,
            )
        self._left_alone_until = time.monotonic() + self._retry

    @contextmanager
    def _or_distrust(self, session_id: str) -> Generator[None]:
        """For a write that may not get to its end: the authority did not answer, though it may
        have written, or the task was cancelled before the cache was told."""
        try:
            yield
        except BaseException:
            self._distrust(session_id)
            raise

    def _distrust(self, session_id: str) -> None:
        """Ask the authority for this session until every copy from before now has ended."""
        now = time.monotonic()
        with self._suspects_lock:
            self._suspects.pop(session_id, None)
            self._suspects[session_id] = now + self._lease
            while self._suspects and next(iter(self._suspects.values())) <= now:
                del self._suspects[next(iter(self._suspects))]
            if len(self._suspects) > _MOST_SUSPECTS:
                self._suspects.clear()
                self._distrusted_until = now + self._lease

    def _is_suspect(self, session_id: str) -> bool:
        until = max(self._distrusted_until, self._suspects.get(session_id, 0.0))
        return time.monotonic() < until


def _found(outcome: Outcome) -> Record | None:
    """What the authority holds after a write."""
    if isinstance(outcome, Gone):
        return None
    return outcome.current if isinstance(outcome, Conflict) else outcome.record


def _now() -> int:
    # Only for how long the cache keeps a copy; what is expired is decided elsewhere.
    return time.time_ns() // 1_000_000
