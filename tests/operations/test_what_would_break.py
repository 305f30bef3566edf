"""The faults of stores, on real servers: each is found, named, and makes the exit code 1."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connections
from django.test import override_settings
from redis.sentinel import Sentinel as SentinelManager

from django_sessionstores.conf import session_store
from django_sessionstores.operations.doctor import diagnose
from tests import ROOT
from tests.cases import CACHE_ALIAS, Engine
from tests.disks import tiny_disk
from tests.management.test_sessions import document_of_failure
from tests.services import (
    Memcached,
    MemcachedNodes,
    PostgreSQL,
    Redis,
    RedisCluster,
    RedisSentinel,
    Sentinel,
    wait_until,
)
from tests.test_outages import full, full_memcached, read_only_transactions, replica

OURS: Final = "django_sessionstores.backends"
OPTIONS: Final = getattr(settings, "SESSIONSTORES", {})
REDIS_CACHE: Final = "django.core.cache.backends.redis.RedisCache"
CLUSTER_CACHE: Final = "tests.storages.redis.test_storage.ClusterCache"
SECONDS: Final = 0.4
"""The timeout of clients."""
UNUSABLE: Final = "Every request that uses one of these sessions fails."
READABLE_COPIES: Final = (
    "Logins, logouts and changes of these sessions fail. A session can be read for as long as the "
    "cache has a copy of it."
)
UNWRITABLE: Final = (
    "Logins, logouts and changes of these sessions fail. Requests that only read go on."
)
NOT_MIGRATED: Final = (
    "Every request fails whose session has not been migrated yet, and so does every logout."
)
FULL: Final = "Logins and changes of these sessions fail. Reading and logging out go on."


@pytest.fixture(autouse=True)
def _no_other_findings() -> Iterator[None]:
    with override_settings(
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_AGE=3600,
        MIDDLEWARE=["django_sessionstores.middleware.SessionMiddleware"],
    ):
        yield


def fault() -> tuple[str, str, str]:
    """Return the id of the only problem, what it breaks, and the rest of its text.

    The command says the same, and its exit code is 1.
    """
    (finding,) = problems()
    output = io.StringIO()
    with pytest.raises(CommandError, match="1 problem found"):
        call_command("sessions", "doctor", stdout=output)
    said = output.getvalue()
    assert ("\nWhat would break\n" in said) is bool(finding.breaks)
    assert f"{finding.level.upper()} {finding.id}\n  {finding.breaks or finding.message}" in said
    return finding.id, finding.breaks, f"{finding.message} {finding.hint}"


def problems() -> list[Any]:
    """Return the problems that the command finds."""
    store = session_store(settings.SESSION_ENGINE)
    assert store is not None
    found = diagnose(store.own_storage(), writes=True)
    return [each for each in found.findings if each.is_wrong]


# Memcached and Redis ------------------------------------------------------------------------------


@pytest.mark.engines("cache:memcached-nodes")
@pytest.mark.private_servers
@pytest.mark.parametrize("how", ["kill", "pause"])
def test_one_node_of_three(engine: Engine, how: str) -> None:
    """Whatever ids are drawn, the node is asked."""
    server: MemcachedNodes = engine.server()
    getattr(server.members[1], how)()
    with _impatient():
        for _ in range(3):
            id_, breaks, text = fault()
            assert id_ == "sessionstores.E022"
            assert breaks == "Every request that uses one of these sessions fails."
            assert f"node {server.addresses[1]} of memcached at" in text
        stores = document_of_failure("doctor")["stores"]
    assert {each["node"]: bool(each["error"]) for each in stores} == {
        address: address == server.addresses[1] for address in server.addresses
    }


@contextmanager
def _impatient() -> Iterator[None]:
    """Give the client of the cache a timeout."""
    entry = dict(settings.CACHES[CACHE_ALIAS])
    if "redis" in entry["BACKEND"]:
        entry["LOCATION"] += f"?socket_timeout={SECONDS}&socket_connect_timeout={SECONDS}"
    else:
        entry["OPTIONS"] = {"timeout": SECONDS, "connect_timeout": SECONDS}
    with override_settings(CACHES={**settings.CACHES, CACHE_ALIAS: entry}):
        yield


UNWRITABLE: Final = (
    "Logins, logouts and changes of these sessions fail. Requests that only read go on."
)
NOT_MIGRATED: Final = (
    "Every request fails whose session has not been migrated yet, and so does every logout."
)
FULL: Final = "Logins and changes of these sessions fail. Reading and logging out go on."


@pytest.mark.engines("cache:redis-cache", "cache:django-redis")
@pytest.mark.private_servers
def test_a_replica_of_redis(engine: Engine) -> None:
    output = io.StringIO()
    with replica(engine):
        id_, breaks, text = fault()
        with suppress(CommandError):
            call_command("sessions", "doctor", stdout=output)
    assert (id_, breaks) == ("sessionstores.E026", UNWRITABLE)
    assert f"Put the address of the primary first in CACHES['{CACHE_ALIAS}']['LOCATION']" in text
    if engine.id == "cache:redis-cache":
        page = (ROOT / "docs/howto/sessions_command.rst").read_text(encoding="utf-8")
        example = page.partition("What would break\n\n    ERROR")[2].partition(".. list-table")[0]
        assert " ".join(example.split()) in " ".join(output.getvalue().split())


@pytest.mark.engines("cache:redis-cache")
@pytest.mark.private_servers
def test_a_full_redis(engine: Engine) -> None:
    with full(engine):
        id_, breaks, _ = fault()
    assert (id_, breaks) == ("sessionstores.E026", FULL)


@pytest.mark.engines("cache:redis-cache")
@pytest.mark.private_servers
def test_a_redis_that_drops_sessions(engine: Engine) -> None:
    engine.server().cli("config", "set", "maxmemory-policy", "volatile-ttl")
    engine.server().cli("config", "set", "maxmemory", "100mb")
    id_, breaks, text = fault()
    assert id_ == "sessionstores.W026"
    assert breaks == "When the store is full, users are logged out before their sessions expire."
    assert "volatile-ttl" in text


@pytest.mark.engines("cache:memcached")
@pytest.mark.private_servers({Memcached: partial(Memcached, "-M", "-m", "2")})
def test_a_full_memcached(engine: Engine) -> None:
    with full_memcached(engine):
        id_, breaks, text = fault()
    assert (id_, breaks) == ("sessionstores.E026", FULL)
    assert "Give it more with -m" in text


@pytest.mark.engines("cached_db:redis-cache+postgresql")
@pytest.mark.private_servers
def test_a_database_behind_a_cache(engine: Engine) -> None:
    """Requests that only read go on while the cache has a copy, unless it has stopped as well."""
    engine.server(PostgreSQL).kill()
    connections[engine.database].close()
    id_, breaks, text = fault()
    assert (id_, breaks) == ("sessionstores.E022", READABLE_COPIES)
    assert text.startswith("Sessions are in table")
    engine.server(Redis).kill()
    cache, database = sorted(problems(), key=lambda each: each.message)
    assert (cache.id, cache.breaks) == ("sessionstores.E022", "")
    assert cache.message.startswith("Copies of sessions are in Redis")
    assert (database.id, database.breaks) == ("sessionstores.E022", UNUSABLE)


@pytest.mark.engines("cached_db:redis-cache+postgresql")
@pytest.mark.private_servers
def test_a_full_cache_in_front_of_a_database(engine: Engine) -> None:
    with full(engine):
        found = problems()
    assert [(each.id, each.breaks) for each in found] == [("sessionstores.E026", "")]
    assert found[0].message.startswith("Copies of sessions are in Redis")
    assert found[0].hint.endswith(" Requests go on without this cache, and take longer.")


@pytest.mark.engines("cache:memcached")
@pytest.mark.private_servers({Memcached: partial(Memcached, "-C")})
def test_a_memcached_without_compare_and_set(engine: Engine) -> None:
    # It also drops what is stored in the second after its cache was emptied.
    wait_until(lambda: engine.cache.set("a", 1) or bool(engine.cache.get("a")), "it keeps items")
    id_, breaks, text = fault()
    assert (id_, breaks) == ("sessionstores.E026", UNWRITABLE)
    assert "Start it without -C" in text


@pytest.mark.engines("cache:memcached")
@pytest.mark.private_servers(
    {Memcached: partial(Memcached, "-I", "8k", "-o", "slab_chunk_max=8192")}
)
def test_a_memcached_for_small_items(engine: Engine) -> None:
    id_, breaks, text = fault()
    assert (id_, breaks) == (
        "sessionstores.W038",
        "Requests that store that much in a session fail.",
    )
    assert "a larger -I" in text


@pytest.mark.engines("db:sqlite", "db:postgresql", "db:mariadb")
def test_a_database_that_is_read_only(engine: Engine) -> None:
    with read_only_transactions(engine):
        id_, breaks, _ = fault()
    assert (id_, breaks) == ("sessionstores.E026", UNWRITABLE)


READ_ONLY: Final = "SET GLOBAL read_only = 1"


class Standby(PostgreSQL):
    """Can be restarted as a hot standby, which serves reads only."""

    def answers(self) -> bool:
        return (
            super().answers()
            or "ready to accept read-only connections"
            in (self.log().rpartition("starting PostgreSQL")[2])
        )


@pytest.mark.engines("db:postgresql", "cached_db:redis-cache+postgresql")
@pytest.mark.private_servers({PostgreSQL: Standby})
def test_a_hot_standby(engine: Engine) -> None:
    server = engine.server(PostgreSQL)
    (server.folder / "data" / "standby.signal").touch()
    server.restart()
    connections[engine.database].close()
    id_, breaks, _ = fault()
    assert (id_, breaks) == ("sessionstores.E026", UNWRITABLE)


@pytest.mark.engines("db:mariadb")
@pytest.mark.private_servers
@pytest.mark.parametrize(
    "lack", ["SET GLOBAL read_only = 1", "REVOKE INSERT ON sessions.* FROM shop"]
)
def test_a_user_of_mariadb(engine: Engine, lack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is read-only for users without a right of administrators."""
    with connections[engine.database].cursor() as cursor:
        for each in (
            "CREATE USER shop",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON sessions.* TO shop",
            lack,
        ):
            cursor.execute(each)
    connections[engine.database].close()
    monkeypatch.setitem(connections[engine.database].settings_dict, "USER", "shop")
    id_, breaks, _ = fault()
    assert (id_, breaks) == ("sessionstores.E026", UNWRITABLE)


@pytest.mark.engines("db:postgresql")
@pytest.mark.private_servers
@pytest.mark.parametrize("right", ["INSERT", "UPDATE", "DELETE"])
def test_a_user_of_postgresql(engine: Engine, right: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would fail before the first login, save or logout."""
    table = "django_sessionstores_storedsession"
    with connections[engine.database].cursor() as cursor:
        cursor.execute(
            "CREATE ROLE shop LOGIN; GRANT USAGE ON SCHEMA public TO shop; "
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO shop; "
            f"REVOKE {right} ON {table} FROM shop"
        )
    connections[engine.database].close()
    monkeypatch.setitem(connections[engine.database].settings_dict, "USER", "shop")
    id_, breaks, _ = fault()
    assert (id_, breaks) == ("sessionstores.E026", UNWRITABLE)


# Disks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["full", "ro"])
def test_a_disk(tmp_path: Path, how: str) -> None:
    """A full one, and one that was mounted read-only after an error."""
    disk = tmp_path / "disk"
    with (
        tiny_disk(disk) as remount,
        override_settings(
            SESSION_ENGINE="django_sessionstores.backends.file", SESSION_FILE_PATH=disk
        ),
    ):
        session = session_store(settings.SESSION_ENGINE)()  # type: ignore[misc]
        session["a"] = 1
        session.save()
        if how == "full":
            with pytest.raises(OSError, match="No space"):
                (disk / "filler").write_bytes(b"x" * 100_000)
        else:
            remount("ro")
        id_, breaks, text = fault()
        remount("rw")
    assert (id_, breaks) == ("sessionstores.E026", FULL if how == "full" else UNWRITABLE)
    assert "SESSION_FILE_PATH" in text or "Mount its disk for writing" in text


# Clusters and sentinels ---------------------------------------------------------------------------


def cache(backend: str, location: Any, **options: Any) -> AbstractContextManager[None]:
    """Put sessions into a cache."""
    entry = {"BACKEND": backend, "LOCATION": location, "OPTIONS": options}
    return override_settings(
        SESSION_ENGINE="django_sessionstores.backends.cache",
        SESSION_CACHE_ALIAS=CACHE_ALIAS,
        CACHES={CACHE_ALIAS: entry},
    )


@pytest.mark.parametrize("how", [RedisCluster.kill, RedisCluster.pause])
def test_a_node_of_a_cluster(how: Callable[[Redis], None]) -> None:
    with RedisCluster() as cluster, cache(CLUSTER_CACHE, cluster.url() + _quick()):
        store: Any = session_store(settings.SESSION_ENGINE)
        storage = store.own_storage()
        sound = {each.node: each for each in diagnose(storage, writes=True).stores}
        assert sorted(sound) == sorted(cluster.addresses)
        assert all(each.is_probed for each in sound.values())
        assert all(node.cli("dbsize") == "0" for node in cluster.members)
        getattr(cluster.members[2], how.__name__)()
        found = problems()
    assert f"node {cluster.addresses[2]} of " in " ".join(each.message for each in found)
    assert {each.breaks for each in found} <= {UNUSABLE, UNWRITABLE}


def _quick() -> str:
    return f"?socket_timeout={SECONDS}&socket_connect_timeout={SECONDS}"


def test_sentinels_without_a_primary() -> None:
    with RedisSentinel() as service:
        manager = SentinelManager(service.sentinel_addresses, socket_timeout=SECONDS)
        with cache(
            REDIS_CACHE,
            service.url(),
            pool_class="redis.sentinel.SentinelConnectionPool",
            service_name=Sentinel.MASTER,
            sentinel_manager=manager,
            socket_timeout=SECONDS,
        ):
            assert problems() == []
            service.replica.kill()
            service.master.kill()
            id_, breaks, _ = fault()
    assert (id_, breaks) == ("sessionstores.E022", UNUSABLE)


# Previous backends --------------------------------------------------------------------------------


@pytest.mark.engines("db:sqlite")
@pytest.mark.parametrize("engine_path", ["django.contrib.sessions.backends.cache", OURS + ".cache"])
def test_a_previous_backend(engine: Engine, engine_path: str) -> None:
    """A request with a session that is not in the new store asks it."""
    with Redis() as server:
        old = {"BACKEND": REDIS_CACHE, "LOCATION": server.url()}
        options = {"MIGRATE_FROM": [(engine_path, {"SESSION_CACHE_ALIAS": "old"})]}
        with override_settings(
            CACHES={**settings.CACHES, "old": old}, SESSIONSTORES={**OPTIONS, **options}
        ):
            assert problems() == []
            server.kill()
            id_, breaks, text = fault()
    assert id_ == "sessionstores.E022"
    assert breaks == NOT_MIGRATED
    assert "CACHES['old']" in text
