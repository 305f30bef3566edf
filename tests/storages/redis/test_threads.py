"""The connections that threads keep: whose they are, when they end, whose answers they bring."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis as Client

from django_sessionstores.core.records import Record
from django_sessionstores.storages.redis import storage as redis
from django_sessionstores.storages.redis.threads import THREAD_TRIAL
from tests.services import Redis, shared_service
from tests.storages.redis import test_storage
from tests.storages.redis.test_storage import NOW, connections_made, record, storage_at

storage, server = test_storage.storage, test_storage.server
OTHER = "b" * 40


class Interrupt(BaseException):
    """What the handler of a signal raises in the middle of a command."""


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """Yield one thread."""
    with ThreadPoolExecutor(1) as thread:
        yield thread


def read_often(storage: redis.RedisStorage) -> Record | None:
    for _ in range(2 * THREAD_TRIAL):
        found = storage.read("a" * 40)
    return found


def kept(storage: redis.RedisStorage) -> int:
    """Return how many connections the threads keep."""
    return len(storage._server._threads._all)


def while_waiting(monkeypatch: pytest.MonkeyPatch, action: Callable[[], Any]) -> None:
    """Do something once, after a command was sent and before its answer is read."""
    parse = Client.parse_response

    def parse_response(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(Client, "parse_response", parse)
        action()
        return parse(*args, **options)

    monkeypatch.setattr(Client, "parse_response", parse_response)


def test_a_thread_that_stays_keeps_one(
    storage: redis.RedisStorage, thread: ThreadPoolExecutor
) -> None:
    storage.create(record(), NOW)
    pool = storage._server.client().connection_pool
    before = connections_made()
    in_use = len(pool._in_use_connections)
    assert thread.submit(storage.read, "a" * 40).result() == record()
    assert len(pool._in_use_connections) == in_use
    assert thread.submit(read_often, storage).result() == record()
    assert len(pool._in_use_connections) == in_use + 1
    assert connections_made() == before


def test_it_ends_with_its_thread(storage: redis.RedisStorage) -> None:
    before = connections_made()
    for _ in range(5):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(read_often, storage).result()
    assert kept(storage) == 0
    assert connections_made() - before <= 1  # Each thread had that of the one before.


@pytest.mark.parametrize("keeps", [True, False], ids=["kept", "pool"])
def test_no_command_gets_the_answer_to_an_interrupted_one(
    storage: redis.RedisStorage,
    thread: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    keeps: bool,
) -> None:
    """A task queue interrupts a task that takes too long, and its thread does the next one."""
    storage.create(record(), NOW)
    storage.create(record(OTHER, user_id="b"), NOW)
    if keeps:
        thread.submit(read_often, storage).result()

    def interrupt() -> None:
        raise Interrupt

    while_waiting(monkeypatch, interrupt)
    with pytest.raises(Interrupt):
        thread.submit(storage.read, OTHER).result()
    for _ in range(2 * THREAD_TRIAL):
        assert thread.submit(storage.read, "a" * 40).result() == record()


def test_a_command_within_a_command(
    storage: redis.RedisStorage, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler of a signal, or the end of an object, may read another session meanwhile."""
    storage.create(record(), NOW)
    storage.create(record(OTHER, user_id="b"), NOW)
    thread.submit(read_often, storage).result()
    inner: list[Record | None] = []
    while_waiting(monkeypatch, lambda: inner.append(storage.read(OTHER)))

    assert thread.submit(storage.read, "a" * 40).result() == record()
    assert inner == [record(OTHER, user_id="b")]
    assert thread.submit(read_often, storage).result() == record()


def test_connections_that_the_server_has_closed_fail_no_request(
    server: Redis, thread: ThreadPoolExecutor
) -> None:
    with storage_at(server.url()) as storage:
        storage.create(record(), NOW)
        for _ in range(3):
            assert thread.submit(read_often, storage).result() == record()
            assert int(server.cli("client", "kill", "type", "normal", "skipme", "yes"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_forked_process_does_not_use_that_of_its_parent(storage: redis.RedisStorage) -> None:
    storage.create(record(), NOW)
    storage.create(record(OTHER, user_id="b"), NOW)
    read_often(storage)
    child = os.fork()
    if child == 0:
        right = False
        try:
            right = all(storage.read(OTHER).user_id == "b" for _ in range(200))
        finally:
            os._exit(0 if right else 1)
    answers = [storage.read("a" * 40) for _ in range(200)]
    _, status = os.waitpid(child, 0)

    assert status == 0
    assert answers == [record()] * 200


@pytest.mark.parametrize("limit", [4, 8])
def test_threads_keep_a_quarter_of_a_pool(limit: int) -> None:
    """The rest is for the others, and for the project's cache if that has the same pool."""
    with storage_at(shared_service(Redis).url(), OPTIONS={"max_connections": limit}) as storage:
        threads = [ThreadPoolExecutor(1) for _ in range(6)]
        for thread in threads:
            thread.submit(read_often, storage).result()
        assert kept(storage) == limit // 4
        for thread in threads:
            thread.shutdown()


def test_pools_of_the_project_are_left_alone(thread: ThreadPoolExecutor) -> None:
    """A pool may look at something each time it gives out a connection."""
    options = {"pool_class": "redis.BlockingConnectionPool"}
    with storage_at(shared_service(Redis).url(), OPTIONS=options) as storage:
        given: list[Any] = []
        pool = storage._server.client().connection_pool
        get = pool.get_connection
        pool.get_connection = lambda *args, **options: (given.append(1), get(*args, **options))[1]
        thread.submit(read_often, storage).result()
        assert len(given) == 2 * THREAD_TRIAL


def test_tracing_sees_each_command(
    storage: redis.RedisStorage, thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenTelemetry and Sentry replace this method of the client's class."""
    seen: list[Any] = []
    execute = Client.execute_command

    def traced(self: Any, *args: Any, **options: Any) -> Any:
        seen.append(args[0])
        return execute(self, *args, **options)

    monkeypatch.setattr(Client, "execute_command", traced)
    thread.submit(read_often, storage).result()
    assert seen == ["GET"] * 2 * THREAD_TRIAL
