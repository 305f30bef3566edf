"""The clients of pymongo for event loops, see `LoopClients`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from pymongo.asynchronous.collection import AsyncCollection


class Awaited(NamedTuple):
    """What an event loop has of a server: a collection, which has its client."""

    collection: AsyncCollection[dict[str, Any]]
    topology: Any
    """What has the connections. In a forked process, the client has another one."""


class MongoClients:
    """The `ClientKind` of pymongo."""

    def __init__(self, connect: Callable[[], Awaited | None]) -> None:
        self.connect = connect

    async def close(self, client: Awaited) -> None:
        await client.collection.database.client.close()

    def abandon(self, client: Awaited, *, is_shared: bool) -> None:
        for pool in _pools(client, with_monitors=True):
            for connection in list(pool.conns):
                transport = connection.conn.conn[0]
                # TransportSocket has no close(). Loops in C have another class, and close their
                # sockets themselves.
                socket = getattr(transport.get_extra_info("socket"), "_sock", None)
                if not is_shared:
                    with suppress(RuntimeError):  # The loop is closed.
                        transport.abort()
                if socket is not None:
                    with suppress(OSError):
                        socket.close()

    def is_in_use(self, client: Awaited) -> bool:
        return any(pool.active_sockets for pool in _pools(client, with_monitors=False))


def _pools(client: Awaited, *, with_monitors: bool) -> Iterator[Any]:
    """Yield the pools of a client: one for each server, and those of the monitors."""
    for server in list(getattr(client.topology, "_servers", {}).values()):
        yield server.pool
        if with_monitors:
            monitor = server._monitor
            yield from (monitor._pool, monitor._rtt_monitor._pool)
