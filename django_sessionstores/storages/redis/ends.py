"""Listening to the channel on which the script `DELETE` tells which sessions have ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from redis import asyncio as awaited
from redis.exceptions import RedisError, ResponseError

from ...core.records import ID_SIZE
from ...exceptions import StorageUnavailable
from ..loops import stop_if_cancelled
from ..threads import in_thread
from .client import Server, awaiting_pool

logger: Final = logging.getLogger("django_sessionstores")

_SILENCE: Final = 20.0
"""Seconds without a message after which the server must show that it still answers."""
_STEP: Final = 1.0
"""Seconds for which a thread waits for a message at most, so that it can be stopped."""


def channel_of(prefix: bytes) -> bytes:
    """Return the channel for the ids of sessions that end, by the prefix of the keys."""
    return prefix + b"ends"


async def hear(server: Server, tell: Callable[[str], object]) -> None:
    """Call ``tell`` with the id of each session that ends, until cancelled.

    Takes one connection. Return if the server refuses to be listened to. Raises
    `StorageUnavailable` when the connection is lost.
    """
    client = await in_thread(server.client)()
    channel = channel_of(server.prefix)
    pool = awaiting_pool(client)
    try:
        if pool is not None:
            await _hear_awaited(pool, channel, tell)
        else:
            await _hear_in_threads(client, channel, tell)
    except ResponseError as error:
        logger.warning(
            "%s does not tell which sessions end, so open connections close later: %s",
            server.describe(),
            type(error).__name__,
        )
    except (RedisError, OSError) as error:
        raise StorageUnavailable(
            f"{server.describe()} no longer tells which sessions end."
        ) from error


async def _hear_awaited(
    pool: awaited.ConnectionPool, channel: bytes, tell: Callable[[str], object]
) -> None:
    client = awaited.Redis(connection_pool=pool)
    listener = client.pubsub()
    is_waited_for = False
    try:
        await listener.subscribe(channel)
        while True:
            stop_if_cancelled()
            message = await listener.get_message(timeout=_SILENCE)
            if message is None and is_waited_for:
                raise TimeoutError("no answer to a ping")
            is_waited_for = message is None
            if message is None:
                await listener.ping()
            else:
                _tell_id(message, tell)
    finally:
        await listener.aclose()  # type: ignore[no-untyped-call]
        await pool.disconnect()


async def _hear_in_threads(client: Any, channel: bytes, tell: Callable[[str], object]) -> None:
    """Do the same with a client that cannot be awaited, as that of a cluster or of sentinels."""
    listener = client.pubsub()
    try:
        await in_thread(listener.subscribe)(channel)
        while True:
            stop_if_cancelled()
            message = await in_thread(listener.get_message)(timeout=_STEP)
            if message is not None:
                _tell_id(message, tell)
    finally:
        listener.close()


def _tell_id(message: dict[str, Any], tell: Callable[[str], object]) -> None:
    content = message["data"]
    if message["type"] == "message" and isinstance(content, bytes) and len(content) == ID_SIZE:
        tell(content.hex())
