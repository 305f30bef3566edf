"""Redis in an event loop that stays: its connections are the loop's, and no thread is needed."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest import mock

import msgspec
import pytest
from django.core.cache import caches
from django.core.exceptions import ImproperlyConfigured
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from django_sessionstores.core.records import State, make_tombstone
from django_sessionstores.exceptions import SessionConflict, StorageFull, StorageUnavailable
from django_sessionstores.storages import loops as client_loops
from django_sessionstores.storages.base import Taken, Updated
from django_sessionstores.storages.redis import client as redis_client
from django_sessionstores.storages.redis import storage as redis
from django_sessionstores.storages.redis.client import Server
from django_sessionstores.testing import StorageContract, Twin
from tests.services import Redis, refusing_port, shared_service, skip_or_fail
from tests.storages.event_loop import Loop
from tests.storages.redis import test_storage
from tests.storages.redis.test_storage import (
    BOTH,
    DJANGO_REDIS,
    HOST,
    HOUR,
    NOW,
    REDIS_CACHE,
    REDIS_ENGINES,
    _cluster_redis_cache,
    _sentinel_django_redis,
    assert_says_nothing,
    commands,
    connections_made,
    record,
    short_timeouts,
    storage_at,
)

server = test_storage.server
IDS = [f"{number:040x}" for number in range(4)]


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what was sent to a thread since the first command, which makes the blocking client."""
    sent: list[Any] = []
    in_thread = redis_client.in_thread

    def noted(method: Any) -> Any:
        sent.append(method)
        return in_thread(method)

    monkeypatch.setattr(redis_client, "in_thread", noted)
    return sent


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust a loop to stay from its first command on."""
    monkeypatch.setattr(client_loops, "LOOP_TRIAL", 0)


@pytest.fixture(params=[DJANGO_REDIS, REDIS_CACHE], ids=["django-redis", "redis-cache"])
def storage(
    request: pytest.FixtureRequest, at_once: None, loop: Loop
) -> Iterator[redis.RedisStorage]:
    """Yield an empty storage through either adapter, connected."""
    shared_service(Redis).cli("flushall")
    with storage_at(shared_service(Redis).url(), request.param) as storage:
        # In a thread, as it looks at each key of the server.
        storage.reindex()
        yield storage


class TestAwaited(StorageContract):
    """The contract, with all that it asks awaited in one loop."""

    @pytest.fixture(autouse=True)
    def _ready(self, storage: redis.RedisStorage, loop: Loop, threads: list[Any]) -> Iterator[None]:
        self.storage = storage
        self.loop = loop
        yield
        assert threads == []

    @property
    def store(self) -> Any:
        return Twin(self.storage, awaited=True, drive=self.loop.drive)


# Connections --------------------------------------------------------------------------------------


def test_tasks_share_the_connections_of_their_loop(
    storage: redis.RedisStorage, loop: Loop, threads: list[Any]
) -> None:
    """Fifty at most, however many ask; and answers must not get mixed up between them."""
    for session_id in IDS:
        storage.create(record(session_id, user_id=session_id[-1]), NOW)
    before = connections_made()

    async def read_all() -> list[Any]:
        return await asyncio.gather(*(storage.aread(IDS[n % 4]) for n in range(500)))

    found = loop.run(read_all())
    assert [each.user_id for each in found] == [str(n % 4) for n in range(500)]
    assert 0 < connections_made() - before <= 50
    after = connections_made()
    loop.run(read_all())
    assert connections_made() == after
    assert threads == []


def test_a_loop_is_given_connections_when_it_has_stayed_for_a_while(
    loop: Loop, threads: list[Any]
) -> None:
    """Those of ``async_to_sync`` make one call, and would connect for it."""
    with storage_at(shared_service(Redis).url()) as storage:
        for _ in range(client_loops.LOOP_TRIAL + 5):
            loop.run(storage.aread(IDS[0]))
        assert len(threads) == client_loops.LOOP_TRIAL


def test_each_loop_has_connections_of_its_own(storage: redis.RedisStorage, loop: Loop) -> None:
    """A connection of another loop never answers."""
    storage.create(record(), NOW)
    other = Loop()
    try:
        for _ in range(3):
            for each in (loop, other):
                assert each.run(storage.aread("a" * 40)) == record()
    finally:
        other.close()


def test_a_closed_storage_lets_go_of_them(
    storage: redis.RedisStorage, loop: Loop, threads: list[Any]
) -> None:
    """Settings change in tests, and each change makes a storage."""
    loop.run(storage.aread(IDS[0]))
    client = storage._server._loops._entries[loop.loop].client
    assert client is not None
    (connection,) = client.connection_pool._available_connections
    storage.close()
    loop.run(asyncio.sleep(0.05))
    assert not connection.is_connected


def clients_of(storage: redis.RedisStorage) -> int:
    """Return how many connections the server has with the loops of this process."""
    return len(storage._server._loops)


def connected() -> int:
    return int(
        shared_service(Redis).cli("info", "clients").split("connected_clients:")[1].split()[0]
    )


async def _use(storage: redis.RedisStorage) -> None:
    for _ in range(3):
        await storage.aread(IDS[0])


def test_connections_end_with_a_loop_that_is_shut_down(
    storage: redis.RedisStorage, threads: list[Any]
) -> None:
    """Under WSGI each request of an async view has a loop of its own."""
    before = connected()
    for _ in range(20):
        asyncio.run(_use(storage))
        assert clients_of(storage) == 0
    assert connected() <= before + 1
    assert threads == []


def test_connections_end_with_a_loop_that_is_only_closed(
    storage: redis.RedisStorage, threads: list[Any]
) -> None:
    """Nothing tells of its end; the next loop finds out."""
    before, descriptors = connected(), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        ended = asyncio.new_event_loop()
        ended.run_until_complete(_use(storage))
        ended.close()
        assert clients_of(storage) == 1
    assert connected() <= before + 2
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2
    assert threads == []


def test_loops_that_are_neither_closed_nor_running_have_a_bounded_number(
    storage: redis.RedisStorage, threads: list[Any]
) -> None:
    """One whose connections were closed connects anew when it runs again."""
    storage.create(record(), NOW)
    before = connected()
    loops = [asyncio.new_event_loop() for _ in range(25)]
    try:
        for _ in range(2):
            for each in loops:
                assert each.run_until_complete(storage.aread("a" * 40)) == record()
        assert clients_of(storage) <= client_loops.MOST_IDLE_LOOPS + 1
        assert connected() <= before + client_loops.MOST_IDLE_LOOPS + 2
    finally:
        for each in loops:
            each.close()
    assert threads == []


def test_connections_end_with_the_loops_of_threads(
    storage: redis.RedisStorage, loop: Loop, threads: list[Any]
) -> None:
    """Several at a time, beside one that stays."""
    loop.run(_use(storage))
    before = connected()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(asyncio.run, _use(storage)) for _ in range(64)]:
            done.result(30)
    assert clients_of(storage) == 1
    assert connected() <= before + 1
    loop.run(_use(storage))
    assert threads == []


def test_a_server_that_hangs_does_not_hold_up_the_end_of_a_loop(
    server: Redis, at_once: None, threads: list[Any]
) -> None:
    with storage_at(server.url()) as storage:
        storage.read(IDS[0])

        async def use_and_stall() -> None:
            await _use(storage)
            server.pause()

        try:
            started = time.monotonic()
            asyncio.run(use_and_stall())
            assert time.monotonic() - started < 5
        finally:
            server.resume()
        assert clients_of(storage) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork.")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_none_of_the_connections(
    storage: redis.RedisStorage, loop: Loop, threads: list[Any]
) -> None:
    """Two processes on one connection read each other's answers. The parent's connection stays."""
    storage.create(record(), NOW)
    loop.run(_use(storage))
    client = storage._server._loops._entries[loop.loop].client
    assert client is not None
    (connection,) = client.connection_pool._available_connections
    descriptor = connection._writer.get_extra_info("socket").fileno()

    child = os.fork()
    if child == 0:
        code = 1
        try:
            with suppress(OSError):
                os.fstat(descriptor)
                code = 2
                raise ValueError
            gc.collect()
            found = asyncio.run(storage.aread("a" * 40))
            code = 0 if found == record() and len(storage._server._loops) == 0 else 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    before = connections_made()
    assert loop.run(storage.aread("a" * 40)) == record()
    assert connections_made() == before
    assert connection._writer.get_extra_info("socket").fileno() == descriptor
    assert threads == []


@pytest.mark.parametrize("deployment", [_cluster_redis_cache, _sentinel_django_redis])
def test_where_a_thread_has_to_do(
    deployment: Callable[[], Any], at_once: None, loop: Loop, threads: list[Any]
) -> None:
    """Behind sentinels and in a cluster, whose clients find their way by blocking."""
    with deployment() as storage:
        assert not storage.native_async
        storage._server.connect().flushall()
        loop.run(storage.acreate(record(), NOW))
        assert loop.run(storage.aread("a" * 40)) == record()
        assert len(threads) >= 2


def test_what_cannot_be_awaited_is_not_left_out(at_once: None) -> None:
    """A hook of the project's, which selects a user or traces, must not be passed over."""
    with storage_at(shared_service(Redis).url(), OPTIONS={"redis_connect_func": print}) as storage:
        assert not storage.native_async
    with storage_at(shared_service(Redis).url()) as storage:
        assert storage.native_async


@pytest.mark.parametrize("error", [ImproperlyConfigured, RedisConnectionError])
def test_a_client_that_cannot_be_made_is_not_awaited(error: type[Exception]) -> None:
    """That of a cluster asks a node when it is made."""
    with storage_at(shared_service(Redis).url()) as storage:
        server = Server("default", caches["default"])
        with mock.patch.object(Server, "connect", side_effect=error):
            assert not server.is_native
        assert storage.native_async


def test_the_settings_of_the_cache_hold(
    server: Redis, loop: Loop, at_once: None, threads: list[Any]
) -> None:
    """Password, user, database, timeouts and retries: those of the blocking connections."""
    options = {
        "socket_timeout": 3,
        "health_check_interval": 7,
        "retry": Retry(ConstantBackoff(0), 5),
        "client_name": "site",
    }
    server.cli("config", "set", "requirepass", "secret")
    location = f"redis://default:secret@{HOST}:{server.port}/4"
    with storage_at(location, OPTIONS=options) as storage:
        storage.create(record(), NOW)
        assert loop.run(storage.aread("a" * 40)) == record()
        client = storage._server._loops._entries[loop.loop].client
        assert client is not None
        (connection,) = client.connection_pool._available_connections
        assert connection.db == 4
        assert connection.client_name == "site"
        assert connection.socket_timeout == 3
        assert connection.health_check_interval == 7
        assert connection.retry._retries == 5
    assert threads == []


def test_a_unix_socket(tmp_path: Any, loop: Loop, at_once: None, threads: list[Any]) -> None:
    """The fastest way to a server on the same machine."""
    path = tmp_path / "redis"
    with Redis(unixsocket=str(path)), storage_at(f"unix://{path}?db=1") as storage:
        storage.create(record(), NOW)
        assert loop.run(storage.aread("a" * 40)) == record()
    assert threads == []


# Trouble ------------------------------------------------------------------------------------------


def operations(storage: redis.RedisStorage) -> list[Callable[[], Any]]:
    return [
        partial(storage.aread, "a" * 40),
        partial(storage.acreate, record("b" * 40), NOW),
        partial(storage.aupdate, record(version=2), record(), NOW),
        partial(storage.atouch, record(), NOW + HOUR, NOW, NOW),
        partial(storage.adelete, "a" * 40),
        partial(storage.ascan, "", 10, None),
    ]


@BOTH
def test_a_refused_connection_is_an_outage_and_ends(
    backend: str,
    server: Redis,
    loop: Loop,
    at_once: None,
    threads: list[Any],
) -> None:
    """Nobody is logged out, and the broken connections fail no request after the restart."""
    with storage_at(server.url(), backend) as storage:
        storage.create(record(), NOW)
        loop.run(storage.aread("a" * 40))
        server.kill()
        for operation in operations(storage):
            with pytest.raises(StorageUnavailable) as caught:
                loop.run(operation())
            assert_says_nothing(caught)
        server.restart()
        assert loop.run(storage.aread("a" * 40)) == record()
    assert threads == []


@BOTH
def test_a_stalled_server_is_an_outage_for_all_who_wait(
    backend: str,
    server: Redis,
    loop: Loop,
    at_once: None,
) -> None:
    """Also for those who wait for a connection; and answers that come late are nobody's."""
    with storage_at(server.url(), backend, OPTIONS=short_timeouts(backend)) as storage:
        storage.create(record(), NOW)
        storage.create(record("b" * 40, user_id="b"), NOW)
        loop.run(storage.aread("a" * 40))
        server.pause()

        async def wait() -> list[Any]:
            tasks = [storage.aread("b" * 40) for _ in range(120)]
            return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)

        assert {type(each) for each in loop.run(wait())} == {StorageUnavailable}
        server.resume()
        for _ in range(60):
            assert loop.run(storage.aread("a" * 40)) == record()


def test_an_answer_that_nobody_waits_for_is_nobody_elses(
    server: Redis,
    loop: Loop,
    at_once: None,
) -> None:
    """The client goes away and its request is cancelled: the next one on that connection would
    get another visitor's session."""
    with storage_at(server.url()) as storage:
        storage.create(record(), NOW)
        storage.create(record("b" * 40, user_id="b"), NOW)
        loop.run(storage.aread("a" * 40))

        async def cancelled() -> None:
            task = asyncio.ensure_future(storage.aread("b" * 40))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        for _ in range(3):
            server.pause()
            loop.run(cancelled())
            server.resume()
            assert loop.run(storage.aread("a" * 40)) == record()


def test_a_full_server_is_told_from_an_outage(
    server: Redis,
    loop: Loop,
    at_once: None,
) -> None:
    """The old session stays, and can be deleted."""
    with storage_at(server.url()) as storage:
        storage.create(record(), NOW)
        server.cli("config", "set", "maxmemory-policy", "noeviction")
        server.cli("config", "set", "maxmemory", "1")
        with pytest.raises(StorageFull):
            loop.run(storage.aupdate(record(version=2), record(), NOW))
        assert loop.run(storage.aread("a" * 40)) == record()
        assert loop.run(storage.adelete("a" * 40))


def test_a_server_that_forgets_its_scripts_is_told_again(
    storage: redis.RedisStorage, loop: Loop, threads: list[Any]
) -> None:
    storage.create(record(), NOW)
    loop.run(storage.aread("a" * 40))
    shared_service(Redis).cli("script", "flush")
    with commands() as sent:
        assert isinstance(loop.run(storage.aupdate(record(version=2), record(), NOW)), Updated)
    assert sent == ["EVALSHA", "EVAL"]
    assert threads == []


@BOTH
def test_connections_that_the_server_has_closed_fail_no_request(
    backend: str, server: Redis, loop: Loop, at_once: None, threads: list[Any]
) -> None:
    """It closes those that were idle for its ``timeout``, and all of them when it restarts."""
    with storage_at(server.url(), backend) as storage:
        storage.create(record(), NOW)

        async def read() -> list[Any]:
            return await asyncio.gather(*[storage.aread("a" * 40) for _ in range(20)])

        loop.run(read())
        assert int(server.cli("client", "kill", "type", "normal", "skipme", "yes"))
        assert loop.run(read()) == [record()] * 20
        server.cli("client", "kill", "type", "normal", "skipme", "yes")
        written = [storage.acreate(record(f"{number:040x}"), NOW) for number in range(20)]
        outcomes = loop.run(gather(*written))
        assert {type(each) for each in outcomes} == {Updated}
    assert threads == []


@pytest.mark.parametrize("state", [State.LIVE, State.ENDED])
def test_a_session_that_is_created_twice_by_a_client_that_retries(
    storage: redis.RedisStorage, state: State
) -> None:
    """Its first command was carried out, and the answer was lost. Tombstones may be equal."""
    created = msgspec.structs.replace(record(), state=state)
    assert isinstance(storage.create(created, NOW), Updated)
    again = storage.create(created, NOW)
    assert isinstance(again, Updated if state is State.LIVE else Taken)
    other = msgspec.structs.replace(created, version=created.version + 1)
    assert isinstance(storage.create(other, NOW), Taken)


async def gather(*coroutines: Any) -> list[Any]:
    return await asyncio.gather(*coroutines)


def test_a_server_that_is_unreachable_when_the_site_starts(loop: Loop, at_once: None) -> None:
    with storage_at(f"redis://{HOST}:{refusing_port()}") as storage:
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                loop.run(storage.aread("a" * 40))


# Sessions -----------------------------------------------------------------------------------------


@REDIS_ENGINES
def test_no_call_blocks_the_loop(
    engine: Any, loop: Loop, at_once: None, threads: list[Any]
) -> None:
    """One that does holds up every other request of the process."""
    if find_spec("blockbuster") is None:
        skip_or_fail("blockbuster is not installed. Install it with: uv sync --group tests")
    import blockbuster

    engine.storage.read(IDS[0])
    loop.run(engine.storage.aread(IDS[0]))  # To connect, the client looks for its own version.

    async def live() -> str:
        session = engine.SessionStore()
        await session.aset("x", 1)
        await session.asave()
        await session.acycle_key()
        await session.asave()
        again = engine.SessionStore(session.session_key)
        assert await again.aget("x") == 1
        await again.aflush()
        return str(session.session_id)

    with blockbuster.blockbuster_ctx():
        session_id = loop.run(live())
    tombstone = engine.storage.read(session_id)
    assert tombstone is None or tombstone.state is not State.LIVE
    assert threads == []


@REDIS_ENGINES
def test_nothing_is_lost_between_tasks(
    engine: Any, loop: Loop, at_once: None, threads: list[Any]
) -> None:
    """Eight of them, twenty saves each, on one session."""
    session = engine.SessionStore()
    session["start"] = "kept"
    session.save()

    async def write(writer: int) -> list[str]:
        saved = []
        for number in range(20):
            name = f"{writer}-{number}"
            for _ in range(100):
                mine = engine.SessionStore(session.session_key)
                await mine.aset(name, number)
                try:
                    await mine.asave()
                except SessionConflict:
                    continue
                saved.append(name)
                break
        return saved

    async def write_all() -> list[list[str]]:
        return await asyncio.gather(*(write(writer) for writer in range(8)))

    saved = {name for names in loop.run(write_all()) for name in names}
    assert len(saved) == 8 * 20
    assert saved <= set(engine.SessionStore(session.session_key).keys())
    assert threads == []


def test_a_rotation_is_one_step(
    storage: redis.RedisStorage, loop: Loop, threads: list[Any]
) -> None:
    ids = iter(IDS)

    async def rotate() -> None:
        base = record(next(ids))
        await storage.acreate(base, NOW)
        tombstone = make_tombstone(base.id, State.SUPERSEDED, now=NOW, seconds=60)
        await storage.arotate(record(next(ids)), base, tombstone, NOW)

    loop.run(rotate())  # The server knows the scripts.
    with commands() as sent:
        loop.run(rotate())
    assert sent == ["EVALSHA", "EVALSHA"]
    assert threads == []
