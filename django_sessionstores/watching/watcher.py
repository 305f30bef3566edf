"""The watcher: it finds out which of the watched sessions have ended, for all of them at once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from asgiref.sync import SyncToAsync, sync_to_async
from django.db import close_old_connections
from django.dispatch import Signal

from .. import signals
from ..conf import settings
from ..core import clock
from ..core.flow import arun
from ..core.lifetime import touch_step
from ..core.records import Record, State
from ..exceptions import SessionConflict, SessionEnded, StorageUnavailable
from ..sessions import SessionStore
from ..sessions.state import RequestPolicy
from ..storages.base import MOST_AT_ONCE, Storage
from ..storages.loops import stop_if_cancelled
from .findings import UNKNOWN, Finding, find_out

if TYPE_CHECKING:
    from .watch import Watch

__all__ = ["UNKNOWN", "Watcher", "watcher_of"]

logger: Final = logging.getLogger("django_sessionstores")

_GATHERING: Final = 0.02
"""Seconds that hints are gathered for, so that the end of many sessions is one question."""
_RETRY: Final = 5.0
"""Seconds at most until a store that did not answer is asked again."""
_MOST_TOUCHED: Final = 100
"""How many sessions are touched at most after each re-check. The others wait for the next one."""


class WatchedSession:
    """A session that is watched, and the watches of it."""

    def __init__(self, record: Record) -> None:
        self.record = record
        """The record as it was last seen."""
        self.watches: set[Watch] = set()
        self.tried = 0
        """When its activity was last stored, in milliseconds since the epoch."""


class Watcher:
    """Watches the sessions of one engine for the connections of one event loop.

    As long as there are any, a task asks the store for all of them once in ``WATCH_INTERVAL``: one
    call for `MOST_AT_ONCE` sessions, however many connections they have. Hints bring that forward
    for single sessions: from this process, and from the store if `Storage.hear_ends` gives any. A
    hint ends nothing, so that it may be late, lost or wrong.
    """

    def __init__(self, kind: type[SessionStore]) -> None:
        self._kind = kind
        self._sessions: dict[str, WatchedSession] = {}
        self._hints: dict[str, str] = {}
        """The ids of sessions that are said to have ended, with the reasons."""
        self._hinted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.checks = 0
        """How often all of the sessions were looked for."""

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, session_id: str) -> bool:
        return session_id in self._sessions

    def add(self, watch: Watch, record: Record) -> None:
        """Watch the session with this record for a watch."""
        if record.state is not State.LIVE:
            watch.end("replaced")
            return
        watch.follow(record)
        self._move(watch, record)
        if not self._tasks:
            loop = asyncio.get_running_loop()
            # In the context of this connection: it may tell the tenant.
            self._tasks = [
                loop.create_task(each, context=copy_context())
                for each in (self._run(), self._listen())
            ]

    def remove(self, watch: Watch) -> None:
        """Forget a watch. With the last one, the task ends."""
        session = self._sessions.get(watch.id)
        if session is not None:
            session.watches.discard(watch)
            if not session.watches:
                del self._sessions[watch.id]
        if not self._sessions:
            for task in self._tasks:
                task.cancel()
            self._tasks = []

    def hint(self, session_id: str, reason: str) -> None:
        """Ask soon whether a session has ended, or has got another id. ``reason`` may be empty."""
        if session_id in self._sessions:
            self._hints[session_id] = reason or self._hints.get(session_id, "")
            self._hinted.set()

    # --- The tasks -------------------------------------------------------------------------

    async def _run(self) -> None:
        # The thread of a request ends with the request.
        SyncToAsync.thread_sensitive_context.set(None)  # type: ignore[arg-type]
        loop, due = asyncio.get_running_loop(), self._next_check()
        while True:
            stop_if_cancelled()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._hinted.wait()
                    await asyncio.sleep(_GATHERING)
            self._hinted.clear()
            hints, self._hints = self._hints, {}
            is_recheck, longest = loop.time() >= due, float("inf")
            try:
                await self._check(list(self._sessions) if is_recheck else list(hints), hints)
                if is_recheck:
                    self.checks += 1
                    await self._store_activity()
            except StorageUnavailable:
                self._hints = hints | self._hints  # For the reasons, at the next check.
                longest = _RETRY
            except Exception:
                logger.exception("Sessions with open connections cannot be watched.")
            if is_recheck:
                # As Django does after a request: a connection that is broken would be used again.
                await sync_to_async(close_old_connections)()
                due = self._next_check()
            due = min(due, loop.time() + longest)

    async def _listen(self) -> None:
        """Take the hints of the store, if it gives any. What is lost is found by the re-check."""
        SyncToAsync.thread_sensitive_context.set(None)  # type: ignore[arg-type]
        while True:
            stop_if_cancelled()
            try:
                await self._kind.storage().hear_ends(lambda each: self.hint(each, ""))
            except StorageUnavailable:
                # Not all processes at the same moment.
                pause = min(settings.WATCH_INTERVAL, _RETRY)
                await asyncio.sleep(pause * (0.5 + random.random()))  # noqa: S311
            except Exception:
                logger.exception("Ends of sessions are noticed later, by the re-check.")
                return
            else:
                return  # The store gives none.

    def _next_check(self) -> float:
        interval, idle = settings.WATCH_INTERVAL, settings.IDLE_TIMEOUT
        # Activity must be stored before the idle timeout.
        pause = min(interval, idle / 4) if idle else interval
        return asyncio.get_running_loop().time() + pause

    async def _check(self, session_ids: Sequence[str], hints: Mapping[str, str]) -> None:
        """Find out which of the sessions have ended, and tell their watches."""
        storage = self._kind.storage()
        for start in range(0, len(session_ids), MOST_AT_ONCE):
            batch = session_ids[start : start + MOST_AT_ONCE]
            known = {
                each: session.record
                for each in batch
                if (session := self._sessions.get(each)) is not None
            }
            for session_id, finding in (await arun(find_out(storage, known))).items():
                if session_id in self._sessions:
                    await self._apply(session_id, finding, hints.get(session_id, ""))

    async def _apply(self, session_id: str, finding: Finding, hint: str) -> None:
        session = self._sessions[session_id]
        if isinstance(finding, Record) and finding.id == session_id:
            session.record = finding
            return
        # Nothing is awaited until all watches have their place: a connection may close meanwhile.
        del self._sessions[session_id]
        ended_by_itself: list[SessionStore] = []
        for watch in session.watches:
            own = watch.session.known_record
            if isinstance(finding, Record):
                watch.follow(finding)
                self._move(watch, finding)
            elif own is None:
                # What holds the connection has ended the session itself.
                ended_by_itself.append(watch.session)
            elif own.id != watch.own_id and own.state is State.LIVE:
                # It has given the session another key, or has begun another session.
                watch.follow(own)
                self._move(watch, own)
            else:
                watch.end(hint if finding == UNKNOWN and hint else finding)
        for each in ended_by_itself:
            await each.asettle()

    def _move(self, watch: Watch, record: Record) -> None:
        """Let a watch go on with the session that has this record."""
        watch.id = record.id
        self._sessions.setdefault(record.id, WatchedSession(record)).watches.add(watch)

    # --- Activity --------------------------------------------------------------------------

    async def _store_activity(self) -> None:
        """Store the activity of those sessions whose connections were used, if it is due."""
        storage, now = self._kind.storage(), clock.now()
        due = [
            (session, watch)
            for session in self._sessions.values()
            if (watch := _next_to_store(session, now)) is not None
        ]
        due.sort(key=lambda each: each[0].record.expires)
        for session, watch in due[:_MOST_TOUCHED]:
            await self._touch(storage, session, watch)

    async def _touch(self, storage: Storage, session: WatchedSession, watch: Watch) -> None:
        stored = self._kind(watch.key)
        stored.policy = RequestPolicy(sends_key=False)
        await stored.aload()
        watch.key, watch.has_old_key = stored.session_key, False
        if watch.is_active and stored.is_stored:
            for each in session.watches:
                each.is_active = False
            session.tried = clock.now()
            # No cookie can be sent, so a save must not need one.
            if settings.IDLE_TIMEOUT and not storage.holds_in_key:
                # Who keeps writing moves the expiry as well.
                with suppress(SessionEnded, SessionConflict):
                    await stored.asave()
            elif stored.is_activity_due:
                await stored.arecord_activity()
        record = stored.known_record
        if record is not None and record.id == session.record.id:
            session.record = record


def _next_to_store(session: WatchedSession, now: int) -> Watch | None:
    """Return a watch of the session whose activity should be stored now, or whose key has changed.

    A key that was rotated leads to the next one for a grace period only.
    """
    for watch in session.watches:
        if watch.has_old_key and watch.counts_as_activity:
            return watch
    step = _activity_step()
    since = max(session.record.last_activity, session.tried)
    if not step or now - since < step:
        return None
    return next((each for each in session.watches if each.is_active), None)


def _activity_step() -> float:
    """Return how old the stored activity may become, in milliseconds; 0 if it is not stored."""
    if settings.IDLE_TIMEOUT:
        return touch_step(settings.timeouts.idle, settings.TOUCH_INTERVAL)
    return settings.ACTIVITY_INTERVAL * 1000


# The watchers of this process ----------------------------------------------------------------

_Place: TypeAlias = tuple[type[SessionStore], object]
"""An engine, and what tells its tenants apart."""
_watchers: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Place, Watcher]]] = (
    WeakKeyDictionary()
)


def watcher_of(kind: type[SessionStore]) -> Watcher:
    """Return the watcher of an engine for the running event loop, and for the tenant if any."""
    if _hear not in signals.observers:
        signals.observers.append(_hear)
    storage = kind.storage()
    place = kind, (storage.namespace(), storage.sites(), storage.database())
    of_loop = _watchers.setdefault(asyncio.get_running_loop(), {})
    return of_loop.setdefault(place, Watcher(kind))


def _hear(signal: Signal, sender: type[Any], facts: Mapping[str, Any]) -> None:
    """Give a hint to the watchers of this process, in whatever thread a session has ended."""
    if signal is signals.session_ended:
        session_id, reason = facts["session_id"], facts["reason"]
    elif signal is signals.session_rotated:
        session_id, reason = facts["previous_id"], ""
    else:
        return
    for loop, of_loop in list(_watchers.items()):
        for watcher in list(of_loop.values()):
            if session_id in watcher:
                with suppress(RuntimeError):  # The loop has ended meanwhile.
                    loop.call_soon_threadsafe(watcher.hint, session_id, reason)
