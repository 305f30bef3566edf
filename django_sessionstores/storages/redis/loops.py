"""The clients of redis-py for event loops, see `LoopClients`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from .pipelining import PipeliningClient


class RedisClients:
    """The `ClientKind` of redis-py."""

    def __init__(self, connect: Callable[[], PipeliningClient | None]) -> None:
        self.connect = connect

    async def close(self, client: PipeliningClient) -> None:
        await client.aclose(True)

    def abandon(self, client: PipeliningClient, *, is_shared: bool) -> None:
        for connection in _connections(client):
            writer = getattr(connection, "_writer", None)
            if writer is None:
                continue
            # So that the garbage collector does not try it again.
            connection._writer = connection._reader = None
            # TransportSocket has no close(). Loops in C, as uvloop's, have another class, and close
            # their sockets themselves.
            socket = getattr(writer.get_extra_info("socket"), "_sock", None)
            if not is_shared:
                with suppress(RuntimeError):  # The loop is closed.
                    writer.transport.abort()
            if socket is not None:
                with suppress(OSError):
                    socket.close()

    def is_in_use(self, client: PipeliningClient) -> bool:
        return bool(getattr(client.connection_pool, "_in_use_connections", ()))


def _connections(client: Any) -> Iterator[Any]:
    pool = client.connection_pool
    yield from list(getattr(pool, "_available_connections", ()))
    yield from list(getattr(pool, "_in_use_connections", ()))
