"""The server has closed the connections between two requests: no error, nothing lost or done twice.

It does so with those that were idle for longer than it allows, and with all of them when it is
restarted. Each of the steps below begins with connections that have just been closed.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.db import Error, connections, transaction
from django.test import override_settings

from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.signals import session_created, session_ended
from django_sessionstores.storages import loops as client_loops
from django_sessionstores.storages.base import Updated
from django_sessionstores.storages.memcached.storage import MemcachedStorage
from django_sessionstores.storages.sql import liveness
from django_sessionstores.storages.sql.rows import key_of
from django_sessionstores.testing import Twin
from tests import cases
from tests.cases import Engine
from tests.services import (
    MariaDB,
    Memcached,
    PostgreSQL,
    Redis,
    RedisCluster,
    RedisSentinel,
    Service,
    shared_service,
    wait_until,
)
from tests.storages.redis import test_storage as redis_tests
from tests.storages.sql.test_storage import NOW, TABLE, execute, next_version, stored
from tests.test_outages import stalled

ROWS = [
    cases.Case("db", database=cases.POSTGRESQL),
    cases.Case("db", database=cases.MARIADB),
    cases.Case("cache", cases.DJANGO_REDIS),
    cases.Case("cache", cases.REDIS_CACHE),
    cases.Case("cache", cases.MEMCACHED),
    cases.Case("cache", cases.DATABASE_CACHE, cases.POSTGRESQL),
    cases.Case("cache", cases.DATABASE_CACHE, cases.MARIADB),
    cases.Case("cached_db", cases.REDIS_CACHE, cases.POSTGRESQL),
    cases.Case("cached_db", cases.MEMCACHED, cases.MARIADB),
    cases.Case("cookie", cases.REDIS_CACHE, cases.POSTGRESQL),
    cases.Case("cookie", cases.DJANGO_REDIS),
]


@pytest.fixture(params=ROWS, ids=lambda case: case.id)
def site(
    request: pytest.FixtureRequest, django_db_setup: None, django_db_blocker: Any
) -> Iterator[Engine]:
    with django_db_blocker.unblock(), cases.activate(request.param) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _no_closed_connections(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """Leave none to the next test, whose first question is Django's, in any thread."""
    yield
    with django_db_blocker.unblock():
        connections.close_all()
        # All tests share the thread in which ``sync_to_async()`` runs.
        SyncToAsync.single_thread_executor.submit(connections.close_all).result()


@contextmanager
def ended_and_created() -> Iterator[dict[str, list[str]]]:
    """Yield the ids of the sessions that have begun or ended in the block, as signals tell it."""
    told: dict[str, list[str]] = {"created": [], "ended": []}

    def created(session_id: str, **_: Any) -> None:
        told["created"].append(session_id)

    def ended(session_id: str, **_: Any) -> None:
        told["ended"].append(session_id)

    session_created.connect(created)
    session_ended.connect(ended)
    yield told
    session_created.disconnect(created)
    session_ended.disconnect(ended)


# How connections end ------------------------------------------------------------------------------


def end_connections(engine: Engine) -> None:
    """Let each server end all connections but the one through which it is told so."""
    for kind, server in engine.servers.items():
        _ENDS[kind](engine, server)


def _end_of_redis(engine: Engine, server: Any) -> None:
    server.cli("client", "kill", "type", "normal", "skipme", "yes")


def _end_of_memcached(engine: Engine, server: Any) -> None:
    # It has no command for that. So the other end is shut, which looks the same from here.
    for storage in (engine.storage, *engine.storage.parts()):
        if isinstance(storage, MemcachedStorage):
            for client in storage._nodes.clients.values():
                for each in client.client_pool.free:
                    with suppress(OSError, AttributeError):
                        each.sock.shutdown(socket.SHUT_RDWR)


def _end_of_database(engine: Engine, server: Any) -> None:
    other = connections[engine.database].copy()
    try:
        with other.cursor() as cursor:
            if other.vendor == "postgresql":
                cursor.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
                return
            cursor.execute("SELECT connection_id()")
            (own,) = cursor.fetchone()
            cursor.execute("SHOW PROCESSLIST")
            for number, user, *_ in cursor.fetchall():
                if number != own and user == server.USER:
                    with suppress(Error):
                        cursor.execute(f"KILL {number}")
    finally:
        other.close()


_ENDS: dict[type[Service], Callable[[Engine, Any], None]] = {
    Redis: _end_of_redis,
    Memcached: _end_of_memcached,
    PostgreSQL: _end_of_database,
    MariaDB: _end_of_database,
}

# What requests do ---------------------------------------------------------------------------------


def test_no_request_notices(site: Engine) -> None:
    end, store = partial(end_connections, site), site.SessionStore
    with ended_and_created() as told:
        session = store()
        session["color"] = "blue"
        end()
        session.save()
        guest = store()
        guest["color"] = "red"
        end()
        guest.save()
        end()
        assert store(session.session_key)["color"] == "blue"
        session = store(session.session_key)
        end()
        assert session["color"] == "blue"
        end()
        session["shape"] = "round"
        session.save()
        end()
        # A login.
        session.cycle_key()
        end()
        session.save()
        end()
        assert dict(store(session.session_key).items()) == {"color": "blue", "shape": "round"}
        if site.storage.lists:
            end()
            assert Inventory().count() == 2
            end()
            assert len(Inventory().list().sessions) == 2
        end()
        # A logout.
        key = session.session_key
        session.flush()
        end()
        assert dict(store(key).items()) == {}
        end()
        assert store(guest.session_key)["color"] == "red"
        if site.storage.lists:
            end()
            assert Inventory().end_everything() == 1
            assert Inventory().count() == 0
    assert len(told["created"]) == len(set(told["created"]))
    assert len(told["ended"]) == len(set(told["ended"])) == 1 + site.storage.lists


def test_no_awaited_request_notices(site: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_loops, "LOOP_TRIAL", 0)
    end, store = sync_to_async(partial(end_connections, site)), site.SessionStore

    async def requests() -> None:
        session = store()
        await session.aset("color", "blue")
        await end()
        await session.asave()
        for _ in range(3):
            await end()
            reads = [store(session.session_key).aget("color") for _ in range(10)]
            assert await asyncio.gather(*reads) == ["blue"] * 10
        await end()
        await session.aset("shape", "round")
        await session.asave()
        await end()
        await session.acycle_key()
        await end()
        await session.asave()
        await end()
        key = session.session_key
        assert dict(await store(key).aitems()) == {"color": "blue", "shape": "round"}
        await end()
        await session.aflush()
        await end()
        assert dict(await store(key).aitems()) == {}

    with ended_and_created() as told:
        asyncio.run(requests())
    assert len(told["ended"]) == 1


@pytest.mark.engines(
    *("db:postgresql", "db:mariadb", "cache:django-redis", "cache:redis-cache", "cache:memcached"),
    "cached_db:redis-cache+postgresql",
)
@pytest.mark.private_servers({Redis: partial(Redis, appendonly="yes", appendfsync="always")})
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_restart_between_two_requests(
    engine: Engine, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is back before anybody asks for a session."""
    monkeypatch.setattr(client_loops, "LOOP_TRIAL", 0)
    store = engine.SessionStore

    def restart() -> None:
        for server in engine.servers.values():
            server.restart()

    async def requests() -> dict[str, Any]:
        session = store()
        await session.aset("color", "blue")
        await session.asave()
        await sync_to_async(restart)()
        found = await asyncio.gather(*(store(session.session_key).aitems() for _ in range(10)))
        return dict(found[0])

    if is_async:
        found = asyncio.run(requests())
    else:
        session = store()
        session["color"] = "blue"
        session.save()
        restart()
        found = dict(store(session.session_key).items())
    # memcached keeps nothing, and says so.
    assert found == ({} if engine.case.cache is cases.MEMCACHED else {"color": "blue"})


# Databases ----------------------------------------------------------------------------------------


@pytest.fixture
def questions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the aliases of the connections that were asked whether they work."""
    asked: list[str] = []
    for alias in connections:
        kind = type(connections[alias])
        original = kind.is_usable

        def is_usable(self: Any, original: Any = original) -> bool:
            asked.append(self.alias)
            return bool(original(self))

        monkeypatch.setattr(kind, "is_usable", is_usable)
    return asked


@pytest.mark.engines("db:postgresql", "db:mariadb")
def test_a_connection_that_works_is_not_asked(engine: Engine, questions: list[str]) -> None:
    """Django's own check costs each request a round trip."""
    record = stored(engine)
    for _ in range(3):
        engine.storage.read(record.id)
        engine.storage.touch(record, record.expires, NOW, NOW)
        engine.storage.scan("", 10, None)
        engine.storage.end_many([record.id])
    assert questions == []
    end_connections(engine)
    for _ in range(3):
        assert engine.storage.read(record.id) is None
    assert len(questions) == 1


@pytest.mark.engines("db:postgresql", "db:mariadb")
def test_a_connection_is_asked_once_after_an_error(engine: Engine, questions: list[str]) -> None:
    """An error that is not about the connection does not make each statement ask."""
    with pytest.raises(Error):
        execute(engine, "SELECT nothing FROM nowhere")
    for _ in range(3):
        engine.storage.read("a" * 40)
    assert len(questions) == 1


@pytest.mark.engines("db:postgresql", "db:mariadb")
def test_a_transaction_does_not_go_on_without_its_beginning(engine: Engine) -> None:
    """On a new connection, its last statements would be stored, and not those before."""
    first, second = stored(engine), stored(engine)

    def delete_and_update() -> None:
        with transaction.atomic(engine.database):
            execute(engine, f"DELETE FROM {TABLE} WHERE id = %s", key_of(first.id))
            end_connections(engine)
            engine.storage.update(next_version(second), second, NOW)

    with pytest.raises(StorageUnavailable):
        delete_and_update()
    assert engine.storage.read(first.id) == first
    assert engine.storage.read(second.id) == second


@pytest.mark.engines("db:postgresql", "db:mariadb")
def test_a_transaction_that_the_caller_began_by_hand_does_not_go_on_either(engine: Engine) -> None:
    record, connection = stored(engine), connections[engine.database]
    connection.set_autocommit(False)
    try:
        assert engine.storage.read(record.id) == record
        end_connections(engine)
        with pytest.raises(StorageUnavailable):
            engine.storage.read(record.id)
    finally:
        connection.close()
    assert engine.storage.read(record.id) == record


@pytest.mark.engines("db:postgresql", "db:mariadb")
def test_a_connection_of_which_only_a_statement_tells_that_it_is_gone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall has forgotten it. What only reads is sent again. A write might have been made, so
    its request fails, and the next one is well."""
    record = stored(engine)
    monkeypatch.setattr(liveness, "_has_news", lambda number: False)
    end_connections(engine)
    assert engine.storage.read(record.id) == record
    end_connections(engine)
    with pytest.raises(StorageUnavailable):
        engine.storage.update(next_version(record), record, NOW)
    assert engine.storage.read(record.id) == record


# A pool of connections ----------------------------------------------------------------------------


@contextmanager
def pool_of(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, *, checks: bool, **pool: Any
) -> Iterator[Any]:
    """Put connections of psycopg's pool in place of those of Django's, which are persistent."""
    connection = connections[engine.database]
    connection.close()
    with monkeypatch.context() as patch:
        patch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)
        patch.setitem(connection.settings_dict, "CONN_HEALTH_CHECKS", checks)
        options = {**connection.settings_dict["OPTIONS"], "pool": pool}
        patch.setitem(connection.settings_dict, "OPTIONS", options)
        try:
            yield connection
        finally:
            connection.close()
            connection.close_pool()


@pytest.mark.engines("db:postgresql")
@pytest.mark.parametrize("checks", [False, True], ids=["unchecked", "checked"])
def test_the_connections_of_a_pool_that_the_server_has_closed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, checks: bool
) -> None:
    record = stored(engine)
    with pool_of(engine, monkeypatch, checks=checks, min_size=3, max_size=3) as connection:
        for _ in range(3):
            # As at the end of a request, which gives it back.
            connection.close()
            connection.pool.open(wait=True)
            end_connections(engine)
            assert engine.storage.read(record.id) == record
            assert engine.storage.scan("", 10, None).records


@pytest.mark.engines("db:postgresql")
@pytest.mark.private_servers
@pytest.mark.parametrize("checks", [False, True], ids=["unchecked", "checked"])
def test_a_pool_whose_server_hangs(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, checks: bool
) -> None:
    """With CONN_HEALTH_CHECKS, the pool asks a connection, and would wait for ever."""
    server, record = engine.server(), stored(engine)
    options = {"DATABASE_TIMEOUT": 0.3, "STORE_RETRY": 0}
    with (
        override_settings(SESSIONSTORES=options),
        pool_of(
            engine, monkeypatch, checks=checks, min_size=2, max_size=2, timeout=1
        ) as connection,
    ):
        assert engine.storage.read(record.id) == record
        connection.close()
        with stalled(server):
            for _ in range(3):
                with pytest.raises(StorageUnavailable):
                    engine.storage.read(record.id)
                connection.close()
            assert server._paused  # Nobody has waited until it was let go on.
        wait_until(lambda: reads(engine, record), "the pool has connections again")


def reads(engine: Engine, record: Any) -> bool:
    try:
        return bool(engine.storage.read(record.id) == record)
    except StorageUnavailable:
        connections[engine.database].close()
        return False


# A cluster and a sentinel of Redis ----------------------------------------------------------------


@pytest.mark.parametrize(
    "deployment",
    [
        redis_tests._cluster_redis_cache,
        redis_tests._cluster_django_redis,
        redis_tests._sentinel_redis_cache,
        redis_tests._sentinel_django_redis,
    ],
    ids=lambda deployment: deployment.__name__.strip("_"),
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_the_nodes_of_redis_have_closed_the_connections(
    deployment: Callable[[], Any], is_async: bool
) -> None:
    kind = RedisCluster if "cluster" in deployment.__name__ else RedisSentinel

    def end() -> None:
        for node in shared_service(kind).members:
            node.cli("client", "kill", "type", "normal", "skipme", "yes")

    with deployment() as storage:
        storage._server.connect().flushall()
        asked = Twin(storage, awaited=is_async)
        for number in range(20):
            record = redis_tests.record(f"{number:040x}", user_id="7")
            end()
            assert isinstance(asked.create(record, NOW), Updated)
            end()
            assert asked.read(record.id) == record
            end()
            assert isinstance(asked.update(next_version(record), record, NOW), Updated)
        end()
        assert asked.count(NOW, "7") == 20
        end()
        assert len(asked.scan("", 30, "7").records) == 20
        end()
        assert len(asked.end_many([f"{number:040x}" for number in range(20)])) == 20
