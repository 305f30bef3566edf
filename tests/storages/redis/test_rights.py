"""The rights that the documentation lists for a user of Redis: enough for all, and all needed."""

from __future__ import annotations

import asyncio
import re
import unittest
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from django.core.cache import caches
from django.test import override_settings
from redis import Redis as Client

from django_sessionstores.core.clock import now
from django_sessionstores.core.records import Record
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.operations.cache_keys import keys_besides_sessions
from django_sessionstores.operations.doctor import ask_stores
from django_sessionstores.storages.redis.client import Server
from django_sessionstores.storages.redis.storage import RedisStorage, from_cache
from django_sessionstores.testing import StorageContract
from tests import ROOT
from tests.services import Redis, RedisCluster, RedisSentinel
from tests.storages.redis.test_storage import ClusterCache

REDIS_CACHE = "django.core.cache.backends.redis.RedisCache"
PAGE = (ROOT / "docs/reference/engines/cache.rst").read_text(encoding="utf-8")
(TO_TELL,) = re.findall(r"^    ACL SETUSER shop (\+publish .*)$", PAGE, re.MULTILINE)
"""The rights to tell which sessions end. Sessions work without them."""
BROAD, NARROW = re.findall(r"^    ACL SETUSER shop on >secret (.*)$", PAGE, re.MULTILINE)
ITS_OWN = {"info", "flushall", "hello", "auth", "select", "ping"}
"""The commands of the test and of the client, besides those that change the configuration."""


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with Redis() as redis:
        yield redis


def user_with(server: Redis, rights: str) -> None:
    said = server.cli("acl", "setuser", "shop", "reset", "on", ">secret", *rights.split())
    assert said == "OK"


def calls(server: Redis) -> dict[str, tuple[int, int]]:
    """Return how often each command ran, also in scripts, and how often it was refused."""
    found = re.findall(
        r"cmdstat_(\S+?):calls=(\d+),.*rejected_calls=(\d+)", server.cli("info", "commandstats")
    )
    return {name: (int(ran), int(refused)) for name, ran, refused in found}


def contract_of(storage: RedisStorage, server: Redis) -> type[unittest.TestCase]:
    """Return each operation of a storage, and those that only Redis has."""

    class Contract(StorageContract, unittest.TestCase):
        def setUp(self) -> None:
            super().setUp()
            server.cli("flushall")
            self.storage = storage

        def test_what_only_redis_has(self) -> None:
            assert storage.write_obstacle() == ""
            assert storage.eviction_policy() == ""
            (store,) = ask_stores(storage, writes=True)
            assert store.is_probed
            for _ in range(20):
                self.create_record()
            assert storage.summarize(now(), 5).live == 5
            assert storage.summarize(now(), 50).live == 20
            client = Client(port=server.port)
            client.delete(*storage._index.builder.directories())
            assert not storage.index_is_complete()
            assert storage.count(now(), None) == 20  # Rebuilt.
            assert storage.reindex() == 20
            assert storage.purge(now(), 100) == 0  # Of an index, as Redis drops the records.

    return Contract


@pytest.mark.parametrize("rights", [BROAD, NARROW], ids=["broad", "narrow"])
def test_the_rights_are_enough_for_all_and_needed(server: Redis, rights: str) -> None:
    user_with(server, rights)
    server.cli("config", "resetstat")
    url = server.url().replace("redis://", "redis://shop:secret@")
    with override_settings(CACHES={"default": {"BACKEND": REDIS_CACHE, "LOCATION": url}}):
        storage = from_cache("default")
        result = unittest.TestResult()
        contract = contract_of(storage, server)
        unittest.defaultTestLoader.loadTestsFromTestCase(contract).run(result)
        storage.close()
    assert [said for _, said in (*result.errors, *result.failures)] == []
    assert result.testsRun > len(result.skipped) + 50
    found = calls(server)
    assert [name for name, (_, refused) in found.items() if refused] == []
    if rights == NARROW:
        given = set(re.findall(r"\+([a-z]+)", NARROW)) - {"info"}
        assert given == {name for name in found if "|" not in name} - ITS_OWN


@pytest.mark.parametrize(
    "right", sorted(set(re.findall(r"\+([a-z]+)", NARROW)) - {"connection", "info"})
)
def test_the_doctor_notices_each_right_that_is_missing(server: Redis, right: str) -> None:
    """Also those that only a rebuild of the index needs, which may be due in a year."""
    user_with(server, f"{NARROW} -{right}")
    server.cli("flushall")
    url = server.url().replace("redis://", "redis://shop:secret@")
    with override_settings(CACHES={"default": {"BACKEND": REDIS_CACHE, "LOCATION": url}}):
        storage = from_cache("default")
        try:
            (store,) = ask_stores(storage)
        finally:
            storage.close()
    assert "ACL SETUSER shop" in store.error or "ACL SETUSER shop" in store.write_obstacle
    assert server.cli("dbsize") == "0"


@pytest.mark.parametrize(
    "rights", ["-zadd -getrange -del", "-@all +eval +evalsha +@connection", "resetkeys ~other"]
)
def test_the_doctor_names_all_commands_that_are_missing(server: Redis, rights: str) -> None:
    """So that nobody has to add them one by one."""
    user_with(server, f"{NARROW} {rights}")
    server.cli("flushall")
    url = server.url().replace("redis://", "redis://shop:secret@")
    with override_settings(CACHES={"default": {"BACKEND": REDIS_CACHE, "LOCATION": url}}):
        storage = from_cache("default")
        try:
            said = storage.write_obstacle()
        finally:
            storage.close()
    found = re.findall(r"[a-z]+", said.partition("may not run: ")[2].partition(".")[0])
    if "resetkeys" in rights:
        assert found == []
    elif "-@all" in rights:
        only_read_by_a_save = {"get", "ping", "scan"}
        assert {*found} == {*re.findall(r"\+([a-z]+)", NARROW)} - only_read_by_a_save - {
            *("eval", "evalsha", "connection", "info")
        }
    else:
        assert sorted(found) == ["del", "getrange", "zadd"]
    assert "ACL SETUSER shop" in said
    assert server.cli("dbsize") == "0"


def test_clearing_the_cache(server: Redis) -> None:
    """It also needs the rights that the documentation names for it."""
    server.cli("flushall")
    user_with(server, f"{NARROW} +unlink ~:1:*")
    url = server.url().replace("redis://", "redis://shop:secret@")
    with override_settings(CACHES={"default": {"BACKEND": REDIS_CACHE, "LOCATION": url}}):
        server.cli("set", ":1:page", "1")
        assert keys_besides_sessions("default").remove_all() == 1


def test_the_line_of_an_error_is_that_of_the_documentation(server: Redis) -> None:
    url = server.url().replace("redis://", "redis://shop:secret@")
    with override_settings(CACHES={"default": {"BACKEND": REDIS_CACHE, "LOCATION": url}}):
        asked = Server("default", caches.create_connection("default"))
        asked.connect()
        assert asked._rights_to_give().endswith(f"'ACL SETUSER shop {BROAD}'.")


def test_the_rights_to_tell_which_sessions_end(server: Redis) -> None:
    """They are all that is needed for it, and another line takes nothing away."""
    user_with(server, f"{NARROW} {TO_TELL}")
    server.cli("flushall")
    server.cli("config", "resetstat")
    url = server.url().replace("redis://", "redis://shop:secret@")
    record = Record(id="a" * 40, expires=now() + 60_000)
    with override_settings(
        CACHES={"default": {"BACKEND": REDIS_CACHE, "LOCATION": url}},
        SESSIONSTORES={"TELL_ENDS": True},
    ):
        storage = from_cache("default")
        record = msgspec.structs.replace(record, site=storage.sites()[0])

        async def scenario() -> list[str]:
            told = list[str]()
            listening = asyncio.create_task(storage.hear_ends(told.append))
            while server.cli("pubsub", "numsub", ":1:dss:ends").split()[-1] != "1":
                await asyncio.sleep(0.01)
            await storage.acreate(record, now())
            assert await storage.adelete(record.id)
            while not told:
                await asyncio.sleep(0.01)
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            return told

        assert asyncio.run(asyncio.wait_for(scenario(), 60)) == [record.id]
        storage.close()
    assert [name for name, (_, refused) in calls(server).items() if refused] == []


# Behind a sentinel, in a cluster -----------------------------------------------------------------

(ON_A_CLUSTER,) = re.findall(r"^On a cluster, it also needs ``(.*?)``", PAGE, re.MULTILINE)
(OF_SENTINELS,) = re.findall(r"the one that the cache names needs ``(.*?)`` there", PAGE)


def refused_of_contract(nodes: Sequence[Redis], rights: str, entry: dict[str, Any]) -> set[str]:
    """Run the contract with these rights only; return the commands that a node has refused."""
    for node in nodes:
        user_with(node, rights)
        node.cli("config", "resetstat")
    with override_settings(CACHES={"default": entry}):
        storage = from_cache("default")

        class Contract(StorageContract, unittest.TestCase):
            def setUp(self) -> None:
                super().setUp()
                for node in nodes:
                    node.cli("flushall")
                self.storage = storage

        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(Contract).run(result)
        assert storage.write_obstacle() == ""
        storage.close()
    assert [said for _, said in (*result.errors, *result.failures)] == []
    return {name for node in nodes for name, (_, refused) in calls(node).items() if refused}


@pytest.mark.slow
def test_the_rights_on_a_cluster() -> None:
    with RedisCluster() as cluster:
        url = cluster.url().replace("redis://", "redis://shop:secret@")
        entry = {"BACKEND": f"{ClusterCache.__module__}.ClusterCache", "LOCATION": url}
        assert refused_of_contract(cluster.members, f"{NARROW} {ON_A_CLUSTER}", entry) == set()
        for node in cluster.members:
            user_with(node, NARROW)
        with override_settings(CACHES={"default": entry}):
            storage = from_cache("default")
            with pytest.raises(StorageUnavailable, match="CLUSTER SLOTS"):
                storage.read("a" * 40)
            storage.close()


def test_the_rights_behind_a_sentinel() -> None:
    with RedisSentinel() as servers:
        for sentinel in servers.sentinels:
            user_with(sentinel, OF_SENTINELS)
            # Nobody else may ask it.
            assert sentinel.cli("acl", "setuser", "default", "-sentinel") == "OK"
        entry = {
            "BACKEND": "django_redis.cache.RedisCache",
            "LOCATION": servers.url(),
            "OPTIONS": {
                "CLIENT_CLASS": "django_redis.client.SentinelClient",
                "CONNECTION_FACTORY": "django_redis.pool.SentinelConnectionFactory",
                "SENTINELS": servers.sentinel_addresses,
                "SENTINEL_KWARGS": {"username": "shop", "password": "secret"},
                "CONNECTION_POOL_KWARGS": {"username": "shop", "password": "secret"},
            },
        }
        assert refused_of_contract([servers.master], NARROW, entry) == set()
