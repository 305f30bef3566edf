"""Listening to the changes of the collection, which a replica set tells: which sessions ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

from bson.errors import BSONError
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from ...core.records import State
from ...exceptions import StorageUnavailable
from ..threads import in_thread
from .client import Server
from .documents import is_record_key

logger: Final = logging.getLogger("django_sessionstores")

_NOT_REPLICATED: Final = 40573
"""The code of a single server, which belongs to no replica set and so has no log of changes."""
_NOT_ALLOWED: Final = 13
_STEP: Final = 1.0
"""Seconds that the server waits for a change at most before it answers that there was none."""
_SILENCE: Final = 20.0
"""Seconds after which a server that has not answered is taken for lost."""
_MAJORITY: Final = ReadConcern("majority")
"""The only one with which a server tells of changes."""
_ENDS: Final[list[dict[str, Any]]] = [
    {
        "$match": {
            "$or": [
                {"operationType": "delete"},
                # A tombstone: the session has another id.
                {"operationType": "replace", "fullDocument.state": {"$ne": State.LIVE.value}},
                # Marked by a call that ends many and may not be able to remove them.
                {"updateDescription.updatedFields.state": {"$exists": True}},
            ]
        }
    },
    {"$project": {"documentKey": 1}},
]
"""The changes by which a session may have ended. Only their ids are sent, and no payload."""

_stopping: Final = set[asyncio.Task[None]]()
"""Tasks that were asked to stop: a loop does not hold them."""


async def hear(server: Server, tell: Callable[[str], object]) -> None:
    """Call ``tell`` with the id of each session that may have ended, until cancelled.

    The server tells what the majority of the replica set has. Takes one connection of the pool.
    Return if the server belongs to no replica set, or does not allow to be listened to. Raises
    `StorageUnavailable` when the connection is lost.
    """
    try:
        await _until_cancelled(server, tell)
    except OperationFailure as error:
        if error.code == _NOT_REPLICATED:
            return
        if error.code != _NOT_ALLOWED:
            raise _lost(server) from None  # The text of an answer quotes the command.
        logger.warning(
            "%s does not tell which sessions end, so open connections close later. Give its user "
            "the right changeStream.",
            server.describe(),
        )
    except (PyMongoError, BSONError, OSError) as error:
        raise _lost(server) from error


async def _until_cancelled(server: Server, tell: Callable[[str], object]) -> None:
    """Listen in a task of its own, which is not cancelled but asked to stop.

    Otherwise the server would keep the cursor for ten minutes. It waits for a change for `_STEP`.
    """
    collection, stop = server.awaited_collection(at_once=True), asyncio.Event()
    if collection is not None:
        listening = asyncio.ensure_future(_hear_awaited(collection, tell, stop))
    else:
        blocking = await in_thread(server.collection)()
        listening = asyncio.ensure_future(_hear_in_threads(blocking, tell, stop))
    try:
        await asyncio.shield(listening)
    finally:
        stop.set()
        _stopping.add(listening)
        listening.add_done_callback(_stopping.discard)


def _lost(server: Server) -> StorageUnavailable:
    return StorageUnavailable(f"{server.describe()} no longer tells which sessions end.")


async def _hear(
    following: Callable[[], Awaitable[Any]], tell: Callable[[str], object], stop: asyncio.Event
) -> None:
    while not stop.is_set():
        async with asyncio.timeout(_SILENCE):
            change = await following()
        if change is not None and is_record_key(key := change["documentKey"]["_id"]):
            tell(key.hex())


async def _hear_awaited(
    collection: Any, tell: Callable[[str], object], stop: asyncio.Event
) -> None:
    certain, step = collection.with_options(read_concern=_MAJORITY), _step_of(collection)
    async with await certain.watch(_ENDS, max_await_time_ms=step) as changes:
        await _hear(changes.try_next, tell, stop)


async def _hear_in_threads(
    collection: Any, tell: Callable[[str], object], stop: asyncio.Event
) -> None:
    """Do the same with a client of the project's, which cannot be awaited."""
    certain, step = collection.with_options(read_concern=_MAJORITY), _step_of(collection)
    changes = await in_thread(certain.watch)(_ENDS, max_await_time_ms=step)
    try:
        await _hear(in_thread(changes.try_next), tell, stop)
    finally:
        await in_thread(changes.close)()


def _step_of(collection: Any) -> int:
    """Return the milliseconds that the server waits: less than the client waits for an answer."""
    options = collection.database.client.options
    limit = options.timeout or options.pool_options.socket_timeout or 2 * _STEP
    return round(1000 * min(_STEP, limit / 2))
