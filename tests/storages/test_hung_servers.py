"""A server that hangs: one call at a time waits for it, and what it does not concern goes on.

What is counted is the calls that reach the client. Each of them costs a request the timeout.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from time import monotonic
from typing import Any, NoReturn

import pytest
from django.conf import settings as django_settings
from django.db import close_old_connections, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import override_settings
from pymemcache.exceptions import MemcacheServerError
from redis import asyncio as awaited
from redis.client import Redis as BlockingRedis
from redis.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MaxConnectionsError, OutOfMemoryError, ResponseError

from django_sessionstores.core import clock
from django_sessionstores.core.records import State, make_tombstone, session_id
from django_sessionstores.exceptions import StorageUnavailable, UnreadablePayload
from django_sessionstores.storages import loops as client_loops
from django_sessionstores.storages.breaker import Breaker
from django_sessionstores.storages.memcached import nodes as memcached_nodes
from django_sessionstores.storages.sql.deadline import breaker_of
from django_sessionstores.storages.sql.rows import key_of
from django_sessionstores.testing import now
from tests import test_outages
from tests.cases import Engine
from tests.services import Redis, Service, wait_until
from tests.services import RedisCluster as RedisNodes
from tests.storages.records import make_record
from tests.storages.redis.test_storage import BOTH, NOW, ClusterCache, record, storage_at
from tests.storages.redis.test_storage import short_timeouts as redis_timeouts
from tests.storages.sql.test_storage import a_record, next_version, other_connection, stored

RETRY = 1000
"""Seconds: no test takes as long, so a call that may try the server does so because of the test."""
TIMEOUT = 0.3


@contextmanager
def settings(**options: Any) -> Iterator[None]:
    present = getattr(django_settings, "SESSIONSTORES", {})
    with override_settings(SESSIONSTORES={**present, **options}):
        yield


@pytest.fixture
def impatient(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clients that do not wait long, and a breaker that stays open."""
    with ExitStack() as stack:
        if engine.case.cache is not None:
            stack.enter_context(test_outages.short_timeouts())
        options = connections[engine.database].settings_dict.get("OPTIONS", {})
        vendor = connections[engine.database].vendor
        if name := {"postgresql": "connect_timeout", "mysql": "read_timeout"}.get(vendor):
            monkeypatch.setitem(options, name, test_outages.CONNECT_TIMEOUT)
        stack.enter_context(settings(DATABASE_TIMEOUT=TIMEOUT, STORE_RETRY=RETRY))
        yield


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the calls that have reached a client, by the names of its methods."""
    reached: list[str] = []

    def count(owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            reached.append(name)
            return method(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    count(BlockingRedis, "execute_command")
    count(awaited.Redis, "execute_command")
    count(RedisCluster, "execute_command")
    count(memcached_nodes, "_ask")
    count(BaseDatabaseWrapper, "cursor")
    return reached


@contextmanager
def later(times: int = 1) -> Iterator[None]:
    """Move the clock to when a server that hangs may be tried again, or a second time."""
    with clock.use(monotonic=lambda: monotonic() + times * RETRY):
        yield


def fails(ask: Callable[[], object]) -> str:
    with pytest.raises(StorageUnavailable) as failure:
        ask()
    return str(failure.value)


def saved(engine: Engine) -> Callable[[], Any]:
    """Save a session, and return a function that reads its color."""
    session = engine.SessionStore()
    session["color"] = "blue"
    session.save()
    key = session.session_key
    return lambda: engine.SessionStore(key)["color"]


def assert_one_at_a_time(ask: Callable[[], Any], calls: list[str]) -> None:
    """Of a server that hangs since ``ask`` was last answered."""
    calls.clear()
    fails(ask)
    assert len(calls) == 1
    # It may have waited for something else. So the next one tries, and the others do not wait.
    fails(ask)
    assert len(calls) == 2
    for _ in range(20):
        assert "STORE_RETRY" in fails(ask)
    assert len(calls) == 2
    with later():
        trial = threading.Thread(target=fails, args=[ask])
        trial.start()
        wait_until(lambda: len(calls) == 3, "the server is tried")
        for _ in range(20):
            assert "STORE_RETRY" in fails(ask)
        trial.join()
    assert len(calls) == 3


@pytest.mark.engines(
    *("cache:django-redis", "cache:redis-cache", "cache:memcached", "cookie:django-redis"),
    *("db:postgresql", "db:mariadb"),
)
@pytest.mark.private_servers
@pytest.mark.usefixtures("impatient")
def test_one_call_at_a_time_waits(engine: Engine, calls: list[str]) -> None:
    """The others are answered at once, so that threads are left for pages without a session."""
    ask = saved(engine)
    assert ask() == "blue"
    engine.server().pause()
    try:
        assert_one_at_a_time(ask, calls)
    finally:
        engine.server().resume()
    close_old_connections()
    with later(times=3):
        assert [ask() for _ in range(3)] == ["blue"] * 3


@pytest.mark.engines("db:postgresql", "db:mariadb")
@pytest.mark.private_servers
@pytest.mark.usefixtures("impatient")
def test_one_write_at_a_time_waits(engine: Engine, calls: list[str]) -> None:
    """A site whose visitors all begin a session would have all its threads waiting, at each try.

    A write that is late on an open connection may wait for a row, so one that reads tries as well.
    """
    ask, storage = saved(engine), engine.storage

    def create() -> None:
        storage.create(a_record(), NOW)

    engine.server().pause()
    try:
        for _ in range(2):  # The first one has a connection.
            fails(create)
        assert_one_of_a_kind_tries(create, calls)
        with later():
            assert_one_of_a_kind_tries(create, calls)
            assert_one_of_a_kind_tries(ask, calls)
    finally:
        engine.server().resume()


def assert_one_of_a_kind_tries(ask: Callable[[], Any], calls: list[str]) -> None:
    """Make one call in another thread, and others while it waits."""
    calls.clear()
    trial = threading.Thread(target=fails, args=[ask])
    trial.start()
    wait_until(lambda: len(calls) == 1, "the server is tried")
    for _ in range(20):
        assert "STORE_RETRY" in fails(ask)
    trial.join()
    assert "STORE_RETRY" in fails(ask)
    assert len(calls) == 1


@pytest.mark.engines("cached_db:redis-cache+postgresql")
@pytest.mark.private_servers
@pytest.mark.usefixtures("impatient")
def test_the_database_of_cached_db(engine: Engine, calls: list[str]) -> None:
    """What is not in the cache is asked for in the database, one call at a time."""
    ask = saved(engine)
    (database,) = [one for kind, one in engine.servers.items() if kind is not Redis]
    engine.empty_cache()
    database.pause()
    calls.clear()
    try:
        for _ in range(20):
            fails(ask)
        assert calls.count("cursor") == 2
    finally:
        database.resume()
    close_old_connections()
    with later():
        assert [ask() for _ in range(3)] == ["blue"] * 3


# Redis under ASGI -----------------------------------------------------------------------------


@BOTH
def test_one_awaited_command_at_a_time_waits(
    backend: str, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop would have fifty of them waiting, and as many requests behind these."""
    monkeypatch.setattr(client_loops, "LOOP_TRIAL", 0)

    async def ask(number: int) -> list[Any]:
        reads = [storage.aread("a" * 40) for _ in range(number)]
        return await asyncio.gather(*reads, return_exceptions=True)

    async def ask_while_it_hangs() -> list[Any]:
        await ask(1)  # In a thread.
        calls.clear()
        assert await ask(1) == [record()]
        server.pause()
        failed = [await ask(1), await ask(1), await ask(20)]
        assert len(calls) == 3
        with later():
            failed.append(await ask(20))
            assert len(calls) == 4
        server.resume()
        with later(times=3):
            assert await ask(1) == [record()]
            assert await ask(3) == [record()] * 3
        return [each for some in failed for each in some]

    with (
        Redis() as server,
        settings(STORE_RETRY=RETRY),
        storage_at(server.url(), backend, OPTIONS=redis_timeouts(backend)) as storage,
    ):
        storage.create(record(), NOW)
        failed = asyncio.run(ask_while_it_hangs())
    assert {type(each) for each in failed} == {StorageUnavailable}


def test_a_command_that_was_cancelled_does_not_keep_the_server_from_being_tried(
    calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user has gone while the request tried the server: its task ends without any answer."""
    monkeypatch.setattr(client_loops, "LOOP_TRIAL", 0)

    async def ask() -> list[Any]:
        await storage.aread("a" * 40)
        server.pause()
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await storage.aread("a" * 40)
        with later():
            calls.clear()
            trial = asyncio.create_task(storage.aread("a" * 40))
            while not calls:
                await asyncio.sleep(0)
            trial.cancel()
            server.resume()
            with pytest.raises(StorageUnavailable, match="STORE_RETRY"):
                await storage.aread("a" * 40)
        with later(times=3):
            return [await storage.aread("a" * 40) for _ in range(2)]

    with (
        Redis() as server,
        settings(STORE_RETRY=RETRY),
        storage_at(server.url(), OPTIONS=redis_timeouts("")) as storage,
    ):
        storage.create(record(), NOW)
        assert asyncio.run(ask()) == [record()] * 2


# A call that ends in another way ------------------------------------------------------------------


def assert_interrupted(breaker: Breaker, *asks: Callable[[], Any]) -> None:
    """Make calls that try the server and are interrupted. They must not count as under way."""
    opened(breaker)
    for number, ask in enumerate(asks):
        with later(times=number), pytest.raises(KeyboardInterrupt):
            ask()
        assert breaker.is_open
        assert [attempts._under_way for attempts in breaker._attempts] == [[], []]


def interrupt(*args: Any, **options: Any) -> NoReturn:
    raise KeyboardInterrupt


def test_redis_is_tried_again_after_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is interrupted is not answered, and nobody else would be for a minute."""
    monkeypatch.setattr(BlockingRedis, "execute_command", interrupt)
    monkeypatch.setattr(BlockingRedis, "pipeline", interrupt)
    with settings(STORE_RETRY=RETRY), storage_at("redis://127.0.0.1:1") as storage:
        server = storage._server
        assert_interrupted(
            server._breaker,
            lambda: server.ask("GET", "a"),
            lambda: server.ask_all([("GET", "a")]),
        )


def test_redis_is_tried_again_after_a_task_was_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same under ASGI."""
    monkeypatch.setattr(client_loops.LoopClients, "client_of_running_loop", lambda self: Client())

    class Client:
        ask = pipeline = interrupt

    with settings(STORE_RETRY=RETRY), storage_at("redis://127.0.0.1:1") as storage:
        server = storage._server
        assert_interrupted(
            server._breaker,
            lambda: asyncio.run(server.aask("GET", "a")),
            lambda: asyncio.run(server.aask_all([("GET", "a")])),
        )


@pytest.mark.engines("cache:memcached")
@pytest.mark.usefixtures("impatient")
def test_a_node_is_tried_again_after_an_interrupt(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memcached_nodes, "_ask", interrupt)
    (breaker,) = engine.storage._nodes._breakers.values()
    assert_interrupted(breaker, lambda: engine.storage.read("a" * 40))


@pytest.mark.engines("db:postgresql")
@pytest.mark.usefixtures("impatient")
def test_a_database_is_tried_again_after_an_interrupt(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connections[engine.database]
    monkeypatch.setattr(connection, "cursor", interrupt)
    read, delete = (
        partial(each, "a" * 40) for each in (engine.storage.read, engine.storage.delete)
    )
    assert_interrupted(breaker_of(connection), read, delete)


# One of several nodes -------------------------------------------------------------------------


@pytest.mark.engines("cache:memcached-nodes")
@pytest.mark.private_servers
@pytest.mark.usefixtures("impatient")
def test_one_node_of_memcached(engine: Engine, calls: list[str]) -> None:
    """Its sessions fail at once, and those of the other nodes do not notice."""
    assert_one_node_at_a_time(engine.server().members[0], [saved(engine) for _ in range(30)], calls)


def assert_one_node_at_a_time(
    hung: Service,
    asks: list[Callable[[], Any]],
    calls: list[str],
    ask_all: Callable[[], Any] | None = None,
) -> list[Callable[[], Any]]:
    """Of sessions that are spread over nodes, one of which hangs. Returns those that are read.

    ``ask_all`` asks all nodes at once.
    """
    up, down = [], []
    hung.pause()
    try:
        for _ in range(2 if ask_all else 0):
            assert "STORE_RETRY" not in fails(ask_all)
        for ask in asks:
            try:
                ask()
                up.append(ask)
            except StorageUnavailable:
                down.append(ask)
        assert len(up) > 3
        assert len(down) > 3
        calls.clear()
        for ask in [*down, ask_all] if ask_all else down:
            assert "STORE_RETRY" in fails(ask)
        assert calls == []
        for ask in up:
            ask()
        assert len(calls) == len(up)
    finally:
        hung.resume()
    return up


class ImpatientCluster(ClusterCache):
    """A cluster whose clients do not wait long for a node."""

    def __init__(self, server: Any, params: dict[str, Any]) -> None:
        # The client of a cluster tries again several times.
        address = f"{server}?socket_timeout=0.1&socket_connect_timeout=0.1"
        super().__init__(address, params)


@pytest.mark.slow
def test_one_node_of_a_cluster_of_redis(calls: list[str]) -> None:
    """Its sessions fail at once, and those of the other nodes do not notice."""
    with (
        RedisNodes() as cluster,
        settings(STORE_RETRY=RETRY),
        storage_at(cluster.url(), f"{__name__}.ImpatientCluster") as storage,
    ):
        for node in cluster.members:
            # If the other nodes called it dead, they would refuse all commands.
            node.cli("config", "set", "cluster-node-timeout", "60000")
        ids = [session_id(str(number)) for number in range(30)]
        for each in ids:
            storage.create(record(each), NOW)
        asks = [partial(storage.read, each) for each in ids]
        server = storage._server
        gets = [("GET", server.key(each)) for each in ids]
        # The first of several commands is for a node that answers.
        port = server.connect().get_node_from_key(gets[0][1]).port
        hung = next(node for node in cluster.members if node.port != port)
        up = assert_one_node_at_a_time(hung, asks, calls, partial(server.ask_all, gets))
        assert asks[0] in up


@pytest.mark.engines("db:postgresql", "db:mariadb")
@pytest.mark.usefixtures("impatient")
def test_a_locked_row_does_not_concern_other_sessions(engine: Engine) -> None:
    """A transaction has it, for as long as it likes. Who waits for that must neither be taken for
    an outage nor for the one who tries whether that is over."""
    locked, other = stored(engine), stored(engine)
    storage = engine.storage
    with other_connection(engine) as holder:
        holder.set_autocommit(False)
        with holder.cursor() as cursor:
            cursor.execute(
                "SELECT id FROM django_sessionstores_storedsession WHERE id = %s FOR UPDATE",
                [key_of(locked.id)],
            )
        for _ in range(3):
            message = fails(lambda: storage.update(next_version(locked), locked, NOW))
            assert "DATABASE_TIMEOUT" in message
            assert "STORE_RETRY" not in message
        assert storage.read(other.id) == other
        assert storage.read(locked.id) == locked
        storage.update(next_version(other), other, NOW)
        holder.rollback()
    storage.update(next_version(locked), locked, NOW)
    assert storage.read(locked.id) == next_version(locked)
    assert storage.read(other.id) == next_version(other)


# What counts as an answer -----------------------------------------------------------------------


@pytest.mark.engines("db:postgresql", "db:mariadb")
@pytest.mark.private_servers
@pytest.mark.usefixtures("impatient")
def test_a_call_that_is_refused_does_not_harm_the_callers_transaction(engine: Engine) -> None:
    """Nothing was sent, so the caller can do without the session and commit the rest."""
    ask, record = saved(engine), stored(engine)
    engine.server().pause()
    for _ in range(2):
        fails(ask)
    engine.server().resume()
    connection = connections[engine.database]
    connection.close()
    with transaction.atomic(engine.database):
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM django_sessionstores_storedsession WHERE id = %s", [key_of(record.id)]
            )
        assert "STORE_RETRY" in fails(ask)
    with later(times=2):
        assert engine.storage.read(record.id) is None
        assert ask() == "blue"


def opened(breaker: Breaker) -> Breaker:
    """Open a breaker, for as long as nobody says that the server has answered."""
    breaker.failed(breaker.begin() - 1, "It did not answer.")
    assert breaker.is_open
    return breaker


@pytest.mark.parametrize(
    ("error", "closes"),
    [
        (ResponseError("WRONGTYPE Operation against a key"), True),
        (OutOfMemoryError("command not allowed"), True),
        (RedisConnectionError("Connection refused"), True),
        (MaxConnectionsError("Too many connections"), False),
    ],
)
def test_errors_of_redis(error: Exception, closes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool that is used up, by calls that wait, says nothing about the server."""

    def fail(*args: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(BlockingRedis, "execute_command", fail)
    with settings(STORE_RETRY=RETRY), storage_at("redis://127.0.0.1:1") as storage:
        breaker = opened(storage._server._breaker)
        with pytest.raises((StorageUnavailable, UnreadablePayload)):
            storage.read("a" * 40)
        assert breaker.is_open is not closes


@pytest.mark.parametrize(
    ("error", "closes"),
    [
        (MemcacheServerError(b"out of memory"), True),
        (ConnectionRefusedError(), True),
        (RuntimeError("Too many objects"), False),
    ],
)
@pytest.mark.engines("cache:memcached")
@pytest.mark.usefixtures("impatient")
def test_errors_of_memcached(
    engine: Engine, error: Exception, closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pool that is used up, by calls that wait, says nothing about the node."""

    def fail(*args: Any) -> NoReturn:
        raise error

    monkeypatch.setattr(memcached_nodes, "_ask", fail)
    (breaker,) = engine.storage._nodes._breakers.values()
    opened(breaker)
    fails(lambda: engine.storage.read("a" * 40))
    assert breaker.is_open is not closes


@pytest.mark.engines("cache:memcached")
@pytest.mark.private_servers
@pytest.mark.usefixtures("impatient")
def test_a_node_that_hangs_during_a_rotation(engine: Engine, calls: list[str]) -> None:
    """Both commands of a rotation are sent past the client's methods, and count like these."""
    ask, storage = saved(engine), engine.storage
    base = make_record(expires=now() + 60_000)
    storage.create(base, now())
    base = storage.read(base.id)
    calls.clear()
    engine.server().pause()
    rotated = make_record("b" * 40, expires=base.expires)
    tombstone = make_tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60)
    fails(lambda: storage.rotate(rotated, base, tombstone, now()))
    fails(ask)
    assert len(calls) == 1
    assert "STORE_RETRY" in fails(ask)
    assert len(calls) == 1
    engine.server().resume()
