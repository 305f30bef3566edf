"""The clients of event loops: a bounded number of connections, however many loops end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary, WeakSet

C = TypeVar("C")

LOOP_TRIAL: Final = 10
"""Commands of an event loop that go through a thread, before it gets connections of its own.

Connections belong to a loop. ``async_to_sync`` makes a loop for a single call, under WSGI for each
request of an async view, and would connect again each time.
"""
MOST_IDLE_LOOPS: Final = 8
"""Loops that are neither running nor closed, and may keep their connections."""
_CLOSE_SECONDS: Final = 1.0
"""How long a loop that ends waits for its connections to close in an orderly way."""


def stop_if_cancelled() -> None:
    """Raise ``CancelledError`` if the running task was cancelled, and what it awaited has not.

    ``asyncio.wait_for()`` before Python 3.12 returns a result that came at the same moment.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class ClientKind(Protocol[C]):
    """What `LoopClients` does with the clients of one library."""

    def connect(self) -> C | None:
        """Return a client for the running loop; ``None`` as long as there cannot be one."""

    async def close(self, client: C) -> None:
        """Close a client in its own loop."""

    def abandon(self, client: C, *, is_shared: bool) -> None:
        """Close the sockets of a client whose loop does not run, and so cannot do it.

        With ``is_shared`` another process uses the same connections, and possibly the same
        selector: neither must be told.
        """

    def is_in_use(self, client: C) -> bool:
        """Return whether a call of the client has not returned yet."""


@dataclass
class _Entry(Generic[C]):
    """What an event loop has of a server."""

    asked: int = 0
    client: C | None = None
    watcher: AsyncGenerator[None, None] | None = None
    """Is closed when the loop shuts down."""

    def take_client(self) -> C | None:
        """Return the client, which the caller must close, and forget it."""
        client, self.client = self.client, None
        return client


class LoopClients(Generic[C]):
    """One client for each running event loop that has sent enough commands to be worth it.

    The connections of a loop keep it alive, so a weak reference to the loop does not tell when it
    has gone. A client is closed as follows:

    * A loop that is shut down, as ``asyncio.run()`` and ``async_to_sync()`` do, closes its
      asynchronous generators. One of them belongs to the client, and closes it.
    * A loop that was closed without that is found when the next loop asks.
    * Of the loops that were neither closed nor are running, `MOST_IDLE_LOOPS` keep a client.
    * A process that was forked closes its copies of the sockets at once. Those of its parent stay
      as they are.
    """

    def __init__(self, kind: ClientKind[C]) -> None:
        self._kind = kind
        self._forget()
        _of_process.add(self)

    def _forget(self) -> None:
        self._entries: WeakKeyDictionary[asyncio.AbstractEventLoop, _Entry[C]]
        self._entries = WeakKeyDictionary()
        # Another thread may have held it when the process was forked.
        self._lock = Lock()

    def __len__(self) -> int:
        return sum(entry.client is not None for entry in self._entries.values())

    def client_of_running_loop(self, *, at_once: bool = False) -> C | None:
        """Return the client of the running loop, or ``None`` if a thread must do the work.

        With ``at_once``, the loop is worth a client although it has sent few commands so far.
        """
        loop = asyncio.get_running_loop()
        entry = self._entries.get(loop)
        if entry is None:
            with self._lock:
                self._close_ended()
                entry = self._entries[loop] = _Entry()
        if entry.client is None and (at_once or entry.asked >= LOOP_TRIAL):
            entry.client = self._kind.connect()
            if entry.client is not None:
                entry.watcher = self._watch(loop, entry)
                _start(entry.watcher)
        entry.asked += 1
        return entry.client

    def close(self) -> None:
        """Close all clients. A loop that runs closes its client itself, soon after this call."""
        with self._lock:
            entries = dict(self._entries)
            self._entries.clear()
        for loop, entry in entries.items():
            client = entry.take_client()
            if client is not None and loop.is_running():
                asyncio.run_coroutine_threadsafe(self._close(client), loop)
            elif client is not None:
                self._kind.abandon(client, is_shared=False)

    def close_after_fork(self) -> None:
        """Close the sockets that a forked process has in common with its parent."""
        for entry in list(self._entries.values()):
            client = entry.take_client()
            if client is not None:
                self._kind.abandon(client, is_shared=True)
        self._forget()

    def _close_ended(self) -> None:
        """Close the clients of closed loops, and of all but `MOST_IDLE_LOOPS` that do not run.

        Loops that end as they should have closed their clients already.
        """
        entries = [
            (loop, entry) for loop, entry in self._entries.items() if entry.client is not None
        ]
        idle = [
            (loop, entry)
            for loop, entry in entries
            if not (loop.is_running() or loop.is_closed())
            and not (entry.client is not None and self._kind.is_in_use(entry.client))
        ]
        excess = idle[: max(0, len(idle) - MOST_IDLE_LOOPS)]
        closed = [(loop, entry) for loop, entry in entries if loop.is_closed()]
        for loop, entry in (*closed, *excess):
            del self._entries[loop]
            client = entry.take_client()
            if client is not None:
                self._kind.abandon(client, is_shared=False)

    async def _watch(
        self, loop: asyncio.AbstractEventLoop, entry: _Entry[C]
    ) -> AsyncGenerator[None, None]:
        """Close the client of a loop when the loop closes its asynchronous generators."""
        try:
            yield
        finally:
            client = entry.take_client()
            if client is not None:
                with self._lock:
                    if self._entries.get(loop) is entry:
                        del self._entries[loop]
                await self._close(client)

    async def _close(self, client: C) -> None:
        """Close a client in its own loop. A server that does not answer must not hold that up."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._kind.close(client)
        except Exception:  # noqa: BLE001 - nobody is left who could use it.
            self._kind.abandon(client, is_shared=False)


_of_process: Final[WeakSet[LoopClients[Any]]] = WeakSet()


def _close_after_fork() -> None:
    for clients in list(_of_process):
        clients.close_after_fork()


if hasattr(os, "register_at_fork"):  # Not on Windows, which cannot fork.
    os.register_at_fork(after_in_child=_close_after_fork)


def _start(generator: AsyncGenerator[None, None]) -> None:
    """Run a generator to its first ``yield``, where nothing is awaited."""
    with suppress(StopIteration):
        generator.__anext__().__await__().__next__()
