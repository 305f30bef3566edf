"""The storage of ``cached_db``: a cache in front of another storage, the authority."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
from django.utils.translation import gettext_noop

from ..core import clock
from ..core.flow import Call, Flow, run
from ..core.phrases import Phrase
from ..core.records import Record, State, make_tombstone, with_times
from ..exceptions import PayloadTooLarge, StorageFull, StorageUnavailable, UnreadablePayload
from .base import CacheStorage, Conflict, Gone, Outcome, Storage, Taken, Updated
from .composed import ComposedStorage
from .copies import CopyTrust, is_refused, make_copy, make_mark, never, read_copy, read_mark
from .outage_log import OutageLog
from .tombstones import extend_until
from .uncommitted import UncommittedWrites


class LayeredStorage(ComposedStorage):
    """Reads from ``cache`` if it has a copy, and writes to ``authority``.

    Only the authority decides, because versions are compared there: an outdated copy costs a merge,
    and never a change. A copy counts for ``lease`` seconds from the moment at which the authority
    was asked, however late it reaches the cache. That limits how long a session can be used after a
    logout that did not reach the cache.

    An error of the cache does not fail a request. After an error, the cache is not asked for
    ``retry`` seconds, so that an unreachable cache does not cost each request a timeout.
    `CopyTrust` says which copies count afterwards, and what ``process_began`` is.
    """

    def __init__(
        self,
        cache: CacheStorage,
        authority: Storage,
        *,
        lease: float,
        retry: float,
        process_began: Callable[[], int] = never,
    ) -> None:
        super().__init__(listing=authority)
        self.cache = cache
        cache.marked_by = authority
        cache.holds_copies = True
        self.authority = authority
        self._lease = lease
        self._retry = retry
        # For caches that keep no log of their own.
        self._outages = OutageLog(cache.describe)
        self._trust = CopyTrust(lease=lease, retry=retry, process_began=process_began)
        # By the monotonic clock.
        self._left_alone_until = 0.0
        self._uncommitted = UncommittedWrites()
        self.max_payload = authority.max_payload
        self.shared = authority.shared
        self.self_expiring = authority.self_expiring and cache.self_expiring

    def describe(self) -> str:
        return Phrase(
            gettext_noop("%(cache)s in front of %(database)s"),
            cache=self.cache.describe(),
            database=self.authority.describe(),
        )

    def _read(self, locator: str) -> Flow[Record | None]:
        distrusted = self._trust.is_suspect(locator)
        stored: Record | None = None
        fallback: Record | None = None
        # A write reaches the cache when it is committed; others may fill the cache until then.
        if not distrusted and locator not in self._uncommitted:
            stored = yield from self._ask_cache("read", locator)
            # Its expiry may lag behind the authority's.
            if stored is not None and stored.expires > (now := clock.now()):
                if stored.state in {State.SUPERSEDED, State.ROTATED}:
                    return stored
                if stored.state is State.LIVE:
                    oldest, distrusted = self._trust.oldest(now), True
                    if (copy := read_copy(stored, oldest)) is not None:
                        return copy
                    fallback = read_mark(stored, oldest)
        asked = clock.now()
        try:
            record: Record | None = yield Call(self.authority, "read", (locator,))
        except StorageUnavailable:
            if fallback is None:
                raise
            return fallback
        if record is not None and record.state is State.LIVE:
            if stored is None or not is_refused(record, stored, clock.now()):
                yield from self._keep_copy(record, asked)
        elif record is None and distrusted:
            # The cache keeps a tombstone, so that no late reader fills it.
            yield from self._tell_cache(locator, "delete", locator, is_news=False)
        return record

    def _create(self, record: Record, now: int) -> Flow[Updated | Taken]:
        asked = clock.now()
        with self._trust.distrust_on_error(record.id):
            outcome: Updated | Taken = yield Call(self.authority, "create", (record, now))
            if isinstance(outcome, Updated):
                yield from self._publish(record.id, record, asked)
        return outcome

    def _update(self, record: Record, base: Record, now: int) -> Flow[Outcome]:
        outcome: Outcome
        if record.state is not State.LIVE:
            outcome = yield from self._end((base.id,), "update", record, base, now)
            return outcome
        asked = clock.now()
        with self._trust.distrust_on_error(base.id):
            outcome = yield Call(self.authority, "update", (record, base, now))
            if (yield Call(self.authority, "in_transaction", ())):
                # First, because the process may die between the commit and what follows it.
                yield from self._mark(base)
            yield from self._publish(base.id, _record_after(outcome), asked)
        return outcome

    def _rotate(
        self, record: Record, base: Record, tombstone: Record, now: int
    ) -> Flow[Outcome | Taken]:
        with self._trust.distrust_on_error(base.id):
            # Before the write: a request with the new key may end the session as soon as it is
            # done, and no copy under the old key must show the session then.
            yield from self._mark(base)
            asked = clock.now()
            outcome: Outcome | Taken = yield Call(
                self.authority, "rotate", (record, base, tombstone, now)
            )
            if isinstance(outcome, Updated):
                yield from self._publish(base.id, tombstone, asked)
                yield from self._publish(record.id, record, asked)
            elif not isinstance(outcome, Taken):
                yield from self._publish(base.id, _record_after(outcome), asked)
        return outcome

    def _touch(self, base: Record, expires: int, last_activity: int, now: int) -> Flow[bool]:
        asked, times = clock.now(), (expires, last_activity)
        # After an error, the copy may only lag behind: times never move back. If it were suspect, a
        # request that only reads would fail while the authority does not answer.
        touched: bool = yield Call(self.authority, "touch", (base, *times, now))
        if touched:
            yield from self._publish(base.id, with_times(base, *times), asked)
        return touched

    def _delete(self, session_id: str) -> Flow[bool]:
        deleted: bool = yield from self._end((session_id,), "delete", session_id)
        return deleted

    def _end_many(self, session_ids: Sequence[str]) -> Flow[Collection[str]]:
        ended: Collection[str] = yield from self._end(session_ids, "end_many", session_ids)
        return frozenset(ended)

    def _end(self, ids: Sequence[str], name: str, *args: Any) -> Flow[Any]:
        """Return the answer of the authority to a call that may end these sessions.

        Their copies are removed before it: when the sessions have ended, another request that ends
        them finds nothing, and is answered, although the cache has heard nothing from it.
        """
        with self._trust.distrust_on_error(*ids):
            began = clock.now()
            is_told = yield from self._leave_tombstones(ids)
            try:
                answer = yield Call(self.authority, name, args)
            except StorageUnavailable as error:
                if error.was_sent and not is_told:
                    yield from self._leave_tombstones(ids)
                raise
            if not is_told or clock.now() - began > self._lease * 1000:
                yield from self._leave_tombstones(ids)
            if (yield Call(self.authority, "in_transaction", ())):
                has_committed = yield from self._after_commit(partial(self._leave_tombstones, ids))
                for each in ids:
                    self._uncommitted.add(each, has_committed)
        return answer

    def _purge(self, now: int, batch: int) -> Flow[int]:
        removed: int = yield Call(self.authority, "purge", (now, batch))
        # Copies are not counted, but they must not accumulate.
        while not (removed or self.cache.self_expiring):
            if not (yield from self._ask_cache("purge", now, batch)):
                break
        return removed

    def parts(self) -> tuple[Storage, ...]:
        return self.cache, self.authority

    def read_latest(self, session_id: str) -> Record | None:
        return self.authority.read_latest(session_id)

    async def aread_latest(self, session_id: str) -> Record | None:
        return await self.authority.aread_latest(session_id)

    def follow(self, base: Record, successor: str) -> Record | None:
        return self.authority.follow(base, successor)

    async def afollow(self, base: Record, successor: str) -> Record | None:
        return await self.authority.afollow(base, successor)

    # --- Writing to the cache -----------------------------------------------------------------

    def _publish(self, session_id: str, record: Record | None, asked: int) -> Flow[None]:
        """Store in the cache what the authority has under an id after a write, or ``None``.

        ``asked`` is when it was asked for the write, in milliseconds since the epoch.
        """
        if not (yield Call(self.authority, "in_transaction", ())):
            yield from self._put(session_id, record, asked)
            return
        # A write that reached the cache before the commit would stay there after a rollback.
        has_committed = yield from self._after_commit(lambda: self._put(session_id, record, asked))
        self._uncommitted.add(session_id, has_committed)

    def _after_commit(self, step: Callable[[], Flow[object]]) -> Flow[Callable[[], bool | None]]:
        has_committed: Callable[[], bool | None]
        has_committed = yield Call(self.authority, "after_commit", (lambda: run(step()),))
        return has_committed

    def _keep_copy(self, record: Record, asked: int) -> Flow[None]:
        """Store a copy of a record that was read from the authority.

        A record that was read in a transaction may be as old as the beginning of the transaction,
        and the session may have ended since. So the record is read again when the transaction has
        committed, which costs one more round trip for a session that was not in the cache.
        """
        if not (yield Call(self.authority, "in_transaction", ())):
            yield from self._fill(record, asked, is_news=False)
        elif record.id not in self._uncommitted:
            yield from self._after_commit(lambda: self._copy_again(record.id))

    def _copy_again(self, session_id: str) -> Flow[None]:
        # The request has been answered, so an error concerns nobody.
        with suppress(StorageUnavailable, UnreadablePayload):
            if (yield Call(self.authority, "in_transaction", ())):
                return
            asked = clock.now()
            record: Record | None = yield Call(self.authority, "read", (session_id,))
            if record is not None and record.state is State.LIVE:
                yield from self._fill(record, asked, is_news=False)

    def _put(self, session_id: str, record: Record | None, asked: int) -> Flow[None]:
        if record is None:
            yield from self._leave_tombstones((session_id,))
        elif record.state is State.LIVE:
            yield from self._fill(record, asked)
        else:
            # Not shorter than a lease, because it must outlive every copy of the session.
            until = clock.now() + int(self._lease * 1000)
            yield from self._leave([extend_until(record, until)])

    def _fill(self, record: Record, asked: int, is_news: bool = True) -> Flow[None]:
        """Store a copy of what the authority had when it was asked.

        The tombstone of a logout refuses it for two leases. Later, its own lease has ended.
        """
        now = clock.now()
        until = min(record.expires, asked + int(self._lease * 1000))
        if record.expires <= now:
            # Otherwise a copy from before a shorter lifetime was set would still be used.
            yield from self._leave_tombstones((record.id,))
            return
        try:
            if until > now:
                copy = make_copy(record, asked)
                yield from self._tell_cache(record.id, "fill", copy, until, now, is_news=is_news)
            elif is_news:
                yield from self._tell_cache(record.id, "delete", record.id)
        except PayloadTooLarge:
            # An older copy must neither stay in place of a new one that does not fit, nor come.
            yield from self._mark(msgspec.structs.replace(record, handle=None))
        except StorageFull:
            yield from self._tell_cache(record.id, "delete", record.id)

    def _mark(self, base: Record) -> Flow[None]:
        """Replace the copies of a version, and older ones, by a mark that only newer ones replace.

        Requests that meet it ask the authority. It stays for two leases: one for the write that
        follows, one for the copies of what was read before.
        """
        now = clock.now()
        until = now + 2 * int(self._lease * 1000)
        try:
            yield from self._tell_cache(base.id, "fill", make_mark(base), until, now)
        except (PayloadTooLarge, StorageFull):
            yield from self._tell_cache(base.id, "delete", base.id)

    def _leave_tombstones(self, session_ids: Sequence[str]) -> Flow[bool]:
        """Let no copy count for two leases, see `_mark`; return whether the cache does so."""
        now, seconds = clock.now(), 2 * self._lease
        left = [make_tombstone(each, State.ENDED, now=now, seconds=seconds) for each in session_ids]
        return not left or (yield from self._leave(left))

    def _leave(self, left: Sequence[Record]) -> Flow[bool]:
        ids, now = [each.id for each in left], clock.now()
        name, what = ("leave_tombstone", left[0]) if len(ids) == 1 else ("leave_tombstones", left)
        try:
            return (yield from self._tell_cache(ids, name, what, now))
        except StorageFull:
            yield from self._tell_cache(ids, "end_many", ids)
            return False

    # --- Errors of the cache ------------------------------------------------------------------

    def _ask_cache(self, name: str, *args: Any) -> Flow[Any]:
        """Return the answer of the cache; ``None`` if it does not answer, or must not be asked."""
        if self._is_left_alone():
            return None
        try:
            answer = yield Call(self.cache, name, args)
        except UnreadablePayload:
            answer = None
        except StorageUnavailable as error:
            self._leave_alone(error)
            return None
        self._note_answer()
        return answer

    def _tell_cache(
        self, session_ids: str | Sequence[str], name: str, *args: Any, is_news: bool = True
    ) -> Flow[bool]:
        """Change what the cache has of a session, or of several; return whether it has heard.

        If ``is_news`` and the change does not reach the cache, they become suspect. Raises
        `PayloadTooLarge` and `StorageFull`, because deleting the copy may still work then.
        """
        heard = False
        try:
            if not self._is_left_alone():
                yield Call(self.cache, name, args)
                self._note_answer()
                heard = True
        except (PayloadTooLarge, StorageFull):
            if name not in {"delete", "end_many"}:
                heard = True
                raise
        except StorageUnavailable as error:
            self._leave_alone(error)
        finally:
            if is_news and not heard:
                ids = (session_ids,) if isinstance(session_ids, str) else session_ids
                self._trust.distrust(*ids)
        return heard

    def _is_left_alone(self) -> bool:
        now = clock.monotonic()
        if now < self._left_alone_until:
            return True
        if self._left_alone_until:
            # One request tries whether the cache answers again; the others continue without it.
            self._left_alone_until = now + self._retry
        return False

    def _leave_alone(self, error: StorageUnavailable) -> None:
        self._outages.failed(error)
        self._left_alone_until = clock.monotonic() + self._retry

    def forget_outage(self) -> None:
        """Ask the cache again at once, after an outage that was made for a test."""
        self._left_alone_until = 0.0
        self._note_answer()

    def _note_answer(self) -> None:
        if self._left_alone_until:
            self._left_alone_until = 0.0
            self._trust.begin_again()
        if self._outages.is_open:
            self._outages.succeeded()


def _record_after(outcome: Outcome) -> Record | None:
    """Return the record that the authority has after a write, as far as the outcome shows it."""
    if isinstance(outcome, Gone):
        return None
    return outcome.current if isinstance(outcome, Conflict) else outcome.record
