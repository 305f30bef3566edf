"""A watch: what an open connection knows of the end of its session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final, TypeVar

from django.contrib.auth import SESSION_KEY

from ..core.records import Record
from ..sessions import SessionStore
from .watcher import UNKNOWN, watcher_of

__all__ = ["UNKNOWN", "Watch", "watching"]

T = TypeVar("T")

_NOTHING: Final = object()


class Watch:
    """Tells when a session ends, in whatever process that happens. See `watching`.

    It belongs to the event loop in which it was made.
    """

    def __init__(self, session: SessionStore, *, counts_as_activity: bool = False) -> None:
        self.session = session
        self.counts_as_activity = counts_as_activity
        self.reason: str | None = None
        """Why the session has ended; ``None`` while it lives, or if there is none.

        It is one of ``END_REASONS``, or `UNKNOWN` if another process has ended the session and the
        store does not tell why.
        """
        self.is_active = False
        """Whether the connection was used since that was last stored."""
        self.id = ""
        """The id under which the session is watched."""
        self.own_id = ""
        """The id that the session object itself knew when the id was set."""
        self.key: str | None = None
        """A key by which the session can be read, to store its activity."""
        self.has_old_key = False
        """Whether the session has another key by now, to which this one leads for a while."""
        self._end = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Watch {'of a live session' if self.reason is None else self.reason}>"

    @property
    def has_ended(self) -> bool:
        """Whether the session has ended."""
        return self.reason is not None

    async def wait(self) -> str:
        """Wait until the session has ended; return the reason."""
        await self._end.wait()
        return self.reason or UNKNOWN

    def note_activity(self) -> None:
        """Note that the user has used the connection.

        With ``counts_as_activity``, that moves the idle timeout of the session.
        """
        self.is_active = self.counts_as_activity

    async def until_end(self, items: AsyncIterable[T]) -> AsyncGenerator[T]:
        """Yield the items until there are no more, or until the session has ended.

        ``items`` is cancelled then, even if it waits for the next one.
        """
        iterator = aiter(items)
        end = asyncio.ensure_future(self.wait())
        following: asyncio.Future[Any] | None = None
        try:
            while not end.done():
                following = asyncio.ensure_future(_next(iterator))
                await asyncio.wait({end, following}, return_when=asyncio.FIRST_COMPLETED)
                if end.done() or (item := following.result()) is _NOTHING:
                    break
                yield item
        finally:
            for each in filter(None, (end, following)):
                each.cancel()
                with suppress(asyncio.CancelledError):
                    await each
            if isinstance(iterator, AsyncGenerator):
                await iterator.aclose()

    def follow(self, record: Record) -> None:
        """Note the id and the key of a session that goes on. Called by the `Watcher`."""
        own = self.session.known_record
        if own is not None and own.id == record.id:
            self.key, self.has_old_key = self.session.session_key, False
        else:
            self.has_old_key = True
        self.own_id = own.id if own is not None else ""

    def end(self, reason: str) -> None:
        """Wake what waits for the end. Called by the `Watcher`."""
        self.reason = reason
        self._end.set()


async def _next(iterator: AsyncIterator[Any]) -> Any:
    return await anext(iterator, _NOTHING)


@asynccontextmanager
async def watching(session: Any, *, counts_as_activity: bool = False) -> AsyncIterator[Watch]:
    """Watch a session as long as the block runs; yield the `Watch`.

    ``session`` is ``request.session``, or ``scope["session"]`` of a consumer. It is loaded if that
    has not been done: one round trip, and none of its own after that. A visitor without a session
    is never told of an end.

    With ``counts_as_activity``, the use of the connection keeps the session from being idle: call
    `Watch.note_activity` for each message of the user. That is stored once in
    ``ACTIVITY_INTERVAL`` at most. With ``IDLE_TIMEOUT``, it is stored as often as for requests that
    read.

    Raises `StorageUnavailable` if the session must be loaded and the store does not answer. Later
    outages end nothing. Raises ``TypeError`` for a session of another package's engine.
    """
    # A session of Channels is a lazy object, for which isinstance() tests the wrapped session.
    if not isinstance(session, SessionStore):
        raise TypeError(
            f"A session of {type(session).__module__} cannot be watched. Set SESSION_ENGINE to an "
            "engine of django_sessionstores."
        )
    await session.aget(SESSION_KEY)  # Reading any key loads the session.
    watch = Watch(session, counts_as_activity=counts_as_activity)
    with watched(watch):
        yield watch


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Watch for the block what the session object of a watch knows. Does not load it."""
    record = watch.session.known_record
    if record is None:
        yield
        return
    watcher = watcher_of(watch.session.__class__)
    watcher.add(watch, record)
    try:
        yield
    finally:
        watcher.remove(watch)
