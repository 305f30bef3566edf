"""A cluster and sentinels tell which sessions end, too, to a client that cannot be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from django.test import override_settings

from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Record
from django_sessionstores.exceptions import StorageUnavailable
from tests.services import Redis
from tests.storages.redis.test_storage import (
    _cluster_redis_cache,
    _sentinel_django_redis,
    storage_at,
)

pytestmark = pytest.mark.usefixtures("telling")

LONG = 60
PAUSE = 0.05
ID = "ab" * 20


@pytest.fixture
def telling() -> Iterator[None]:
    with override_settings(SESSIONSTORES={"TELL_ENDS": True}):
        yield


async def told_of_an_end(storage: Any) -> set[str]:
    """Return the ids that a listener hears while a session begins and ends again and again.

    Until it listens, nobody hears of it.
    """
    told = set[str]()
    record = Record(id=ID, expires=now() + 3_600_000, site=storage.sites()[0])
    listening = asyncio.create_task(storage.hear_ends(told.add))
    async with asyncio.timeout(LONG):
        while not told and not listening.done():
            await storage.acreate(record, now())
            assert await storage.adelete(ID)
            await asyncio.sleep(PAUSE)
    assert not listening.done() or listening.result()
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    return told


@pytest.mark.slow
def test_a_cluster_tells() -> None:
    with _cluster_redis_cache() as storage:
        assert asyncio.run(told_of_an_end(storage)) == {ID}


def test_a_server_behind_sentinels_tells() -> None:
    with _sentinel_django_redis() as storage:
        assert not storage.native_async
        assert asyncio.run(told_of_an_end(storage)) == {ID}


def test_a_user_without_the_right_to_listen_waits_for_the_next_check(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A line in the log says so, and sessions can be ended nevertheless."""
    with Redis() as server:
        rights = ("on", ">secret", "+@all", "-@pubsub", "~*")
        assert server.cli("acl", "setuser", "shop", *rights) == "OK"
        url = server.url().replace("redis://", "redis://shop:secret@")
        with storage_at(url) as storage:
            record = Record(id=ID, expires=now() + 60_000)
            storage.create(msgspec.structs.replace(record, site=storage.sites()[0]), now())
            assert storage.delete(ID)
            asyncio.run(asyncio.wait_for(storage.hear_ends(lambda _: None), LONG))
    (line,) = [each.getMessage() for each in caplog.records if "does not tell" in each.msg]
    assert "NoPermissionError" in line


def test_a_server_that_is_gone_is_an_outage() -> None:
    with Redis() as server:
        url = server.url()
    with storage_at(url) as storage:
        listening = asyncio.wait_for(storage.hear_ends(lambda _: None), LONG)
        with pytest.raises(StorageUnavailable, match="no longer tells"):
            asyncio.run(listening)
