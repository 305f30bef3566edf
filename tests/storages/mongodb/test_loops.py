"""MongoDB in event loops, threads and forked processes: each has connections that fit it."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pymongo
import pytest
from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.test import override_settings

from django_sessionstores.storages import loops as client_loops
from django_sessionstores.storages.mongodb import client as mongodb_client
from django_sessionstores.storages.mongodb.storage import MongoDBStorage
from django_sessionstores.testing import StorageContract, Twin, now
from tests.cases import Engine
from tests.services import MongoDB, shared_service
from tests.storages.event_loop import Loop
from tests.storages.mongodb.stores import DATABASE, observer, run_in_mongo, storage_at
from tests.storages.records import ID, make_record

# A client whose loop has ended cannot be closed, and says so when it is collected.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
IDS = [f"{number:040x}" for number in range(4)]


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Let asyncio log here what has happened to the tasks of such a loop, and in no other test."""
    yield
    gc.collect()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what was sent to a thread."""
    sent: list[Any] = []
    in_thread = mongodb_client.in_thread

    def noted(method: Any) -> Any:
        sent.append(method)
        return in_thread(method)

    monkeypatch.setattr(mongodb_client, "in_thread", noted)
    return sent


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust a loop to stay from its first command on."""
    monkeypatch.setattr(client_loops, "LOOP_TRIAL", 0)


@pytest.fixture
def storage(at_once: None, loop: Loop) -> Iterator[MongoDBStorage]:
    server = shared_service(MongoDB)
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    with storage_at(server) as storage:
        yield storage


class TestAwaited(StorageContract):
    """The contract, with all that it asks awaited in one loop."""

    @pytest.fixture(autouse=True)
    def _ready(self, storage: MongoDBStorage, loop: Loop, threads: list[Any]) -> Iterator[None]:
        self.storage = storage
        self.loop = loop
        yield
        assert threads == []

    @property
    def store(self) -> Any:
        return Twin(self.storage, awaited=True, drive=self.loop.drive)


async def _use(storage: MongoDBStorage) -> None:
    for _ in range(3):
        await storage.aread(ID)


def _connected() -> int:
    """Return how many connections the server has."""
    said = run_in_mongo(shared_service(MongoDB), {"serverStatus": 1})
    return int(said["connections"]["current"])


def _at_rest() -> int:
    """Return how many connections the server has when those of earlier tests have ended."""
    before, unchanged = _connected(), 0
    while unchanged < 5:
        time.sleep(0.05)
        current = _connected()
        unchanged = unchanged + 1 if current == before else 0
        before = current
    return before


def _falls_to(most: int) -> bool:
    """Return whether the server soon has no more connections than that."""
    deadline = time.monotonic() + 10
    while _connected() > most:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_tasks_share_the_connections_of_their_loop(
    storage: MongoDBStorage, loop: Loop, threads: list[Any]
) -> None:
    for each in IDS:
        storage.create(make_record(each, user_id=each[-1]), now())

    async def read_all() -> list[Any]:
        return await asyncio.gather(*(storage.aread(IDS[n % 4]) for n in range(300)))

    for _ in range(2):
        found = loop.run(read_all())
        assert [each.user_id for each in found] == [str(n % 4) for n in range(300)]
    assert threads == []


def test_a_request_makes_no_connection(storage: MongoDBStorage, loop: Loop) -> None:
    storage.read(ID)
    loop.run(storage.aread(ID))
    observer.clear()
    for _ in range(20):
        storage.read(ID)
        loop.run(storage.aread(ID))
    assert observer.connections == 0


@pytest.mark.engines("mongodb:mongodb")
@pytest.mark.django_db
def test_the_commands_of_awaited_requests(
    at_once: None, engine: Engine, loop: Loop, threads: list[Any]
) -> None:
    """As many as those of others: a login over an anonymous session takes two."""

    async def visit() -> str:
        store = engine.SessionStore()
        await store.aset("seen", 1)
        await store.asave()
        return str(store.session_key)

    async def log_in(key: str) -> str:
        visitor = engine.SessionStore(key)
        assert await visitor.aget("seen") == 1
        await visitor.acycle_key()
        await visitor.aset(SESSION_KEY, "7")
        await visitor.aset(HASH_SESSION_KEY, "x")
        await visitor.asave()
        return str(visitor.session_key)

    async def read(key: str) -> None:
        assert await engine.SessionStore(key).aget("seen") == 1

    async def log_out(key: str) -> None:
        session = engine.SessionStore(key)
        await session.aget(SESSION_KEY)
        await session.aflush()

    loop.run(visit())
    key = ""
    for request, commands in (
        (visit, ["insert"]),
        (log_in, ["find", "update"]),
        (read, ["find"]),
        (log_out, ["find", "delete"]),
    ):
        observer.clear()
        key = loop.run(request(*([key] if key else []))) or key
        assert observer.commands == commands
        assert observer.connections == 0
    assert threads == []


def test_a_loop_is_given_connections_when_it_has_stayed_for_a_while(
    loop: Loop, threads: list[Any]
) -> None:
    with storage_at(shared_service(MongoDB)) as storage:
        for _ in range(client_loops.LOOP_TRIAL + 5):
            loop.run(storage.aread(ID))
        assert len(threads) == client_loops.LOOP_TRIAL


def test_each_loop_has_connections_of_its_own(storage: MongoDBStorage, loop: Loop) -> None:
    storage.create(make_record(user_id="7"), now())
    other = Loop()
    try:
        for _ in range(3):
            for each in (loop, other):
                assert each.run(storage.aread(ID)).user_id == "7"
        assert len(storage._server._loops) == 2
    finally:
        other.close()


def test_connections_end_with_a_loop_that_is_shut_down(
    storage: MongoDBStorage, threads: list[Any]
) -> None:
    """Under WSGI each request of an async view has a loop of its own."""
    before = _at_rest()
    for _ in range(10):
        asyncio.run(_use(storage))
        assert len(storage._server._loops) == 0
    assert _falls_to(before)
    assert threads == []


def test_connections_end_with_a_loop_that_is_only_closed(
    storage: MongoDBStorage, threads: list[Any]
) -> None:
    """Nothing tells of its end; the next loop finds out."""
    before, descriptors = _connected(), len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        ended = asyncio.new_event_loop()
        ended.run_until_complete(_use(storage))
        ended.close()
        assert len(storage._server._loops) == 1
    # Those of one client: a connection, and that of its monitor.
    assert _falls_to(before + 2)
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 4
    assert threads == []


def test_loops_that_are_neither_closed_nor_running_have_a_bounded_number(
    storage: MongoDBStorage, threads: list[Any]
) -> None:
    """One whose connections were closed connects anew when it runs again."""
    storage.create(make_record(user_id="7"), now())
    before = _at_rest()
    idle = [asyncio.new_event_loop() for _ in range(15)]
    try:
        for _ in range(2):
            for each in idle:
                assert each.run_until_complete(storage.aread(ID)).user_id == "7"
        most = client_loops.MOST_IDLE_LOOPS + 1
        assert len(storage._server._loops) <= most
        assert _falls_to(before + 2 * most)
    finally:
        for each in idle:
            each.close()
    assert threads == []


def test_connections_end_with_the_loops_of_threads(
    storage: MongoDBStorage, loop: Loop, threads: list[Any]
) -> None:
    """Several at a time, beside one that stays."""
    loop.run(_use(storage))
    before = _at_rest()
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(asyncio.run, _use(storage)) for _ in range(24)]:
            done.result(30)
    assert len(storage._server._loops) == 1
    assert _falls_to(before)
    loop.run(_use(storage))
    assert threads == []


def test_a_server_that_hangs_does_not_hold_up_the_end_of_a_loop(
    at_once: None, threads: list[Any]
) -> None:
    with MongoDB() as server, storage_at(server) as storage:

        async def use_and_stall() -> None:
            await _use(storage)
            server.pause()

        try:
            started = time.monotonic()
            asyncio.run(use_and_stall())
            assert time.monotonic() - started < 5
        finally:
            server.resume()
        assert len(storage._server._loops) == 0


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the clients that are made. One that nobody has would close itself."""
    clients: list[Any] = []

    class Kept(pymongo.MongoClient[Any]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            clients.append(self)

    monkeypatch.setattr(mongodb_client, "MongoClient", Kept)
    return clients


def test_a_closed_storage_lets_go_of_its_connections(
    storage: MongoDBStorage, loop: Loop, made: list[Any]
) -> None:
    before = _at_rest()
    with storage_at(shared_service(MongoDB)) as other:
        other.read(ID)
        loop.run(other.aread(ID))
        assert _connected() > before
    assert _falls_to(before)
    (client,) = made
    with pytest.raises(pymongo.errors.InvalidOperation):
        client.admin.command("ping")


@pytest.mark.engines("mongodb:mongodb", "cookie:mongodb", "cached_db:locmem+mongodb")
@pytest.mark.django_db
def test_changed_settings_let_go_of_the_connections(made: list[Any], engine: Engine) -> None:
    """Settings change in tests, and each change makes a storage."""
    for collection in ("one", "two"):
        made_before = len(made)
        options = {**settings.SESSIONSTORES, "MONGODB_COLLECTION": collection}
        with override_settings(SESSIONSTORES=options):
            store = engine.SessionStore()
            store["seen"] = 1
            store.save()
            clients = made[made_before:]
            assert clients
            for client in clients:
                client.admin.command("ping")
        for client in clients:
            with pytest.raises(pymongo.errors.InvalidOperation):
                client.admin.command("ping")


def test_threads_share_the_connections_of_the_process(storage: MongoDBStorage) -> None:
    storage.create(make_record(user_id="7"), now())
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(storage.read, [ID] * 200))
    assert {each.user_id for each in found if each} == {"7"}
    assert len(found) == 200


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows cannot fork.")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_process_has_none_of_the_connections(
    storage: MongoDBStorage, loop: Loop, threads: list[Any]
) -> None:
    """Two processes on one connection read each other's answers. The parent's connections stay."""
    storage.create(make_record(user_id="7"), now())
    storage.read(ID)
    loop.run(_use(storage))
    awaited = storage._server._loops._entries[loop.loop].client
    assert awaited is not None
    (server,) = awaited.topology._servers.values()
    descriptors = [each.conn.sock.fileno() for each in server.pool.conns]
    blocking = storage._server._clients.blocking()

    child = os.fork()
    if child == 0:
        code = 1
        try:
            for each in descriptors:
                with suppress(OSError):
                    os.fstat(each)
                    code = 2
                    raise ValueError
            gc.collect()
            code = 3
            assert storage._server._clients.blocking() is not blocking
            code = 4
            assert storage.read(ID).user_id == "7"  # type: ignore[union-attr]
            code = 5
            assert asyncio.run(storage.aread(ID)).user_id == "7"  # type: ignore[union-attr]
            code = 0 if len(storage._server._loops) == 0 else 6
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    observer.clear()
    assert loop.run(storage.aread(ID)).user_id == "7"
    assert storage.read(ID).user_id == "7"  # type: ignore[union-attr]
    assert observer.connections == 0
    assert threads == []


# A client of the project --------------------------------------------------------------------------

CLIENTS: dict[str, Any] = {}


def make_client() -> Any:
    return CLIENTS["own"]


def test_the_client_of_the_project(at_once: None, loop: Loop, threads: list[Any]) -> None:
    """It is called in threads under ASGI, and stays open."""
    server = shared_service(MongoDB)
    with pymongo.MongoClient(server.url(), w=1, readPreference="secondary") as client:
        CLIENTS["own"] = client
        path = {"MONGODB_URI": "", "MONGODB_CLIENT": f"{__name__}.make_client"}
        with storage_at(server, **path) as storage:
            record = make_record("c" * 40, user_id="7")
            storage.create(record, now())
            assert loop.run(storage.aread(record.id)).user_id == "7"
            assert len(threads) == 1
            assert not storage.native_async
            options = storage._server.collection()
            assert options.write_concern.document == {"w": "majority"}
            assert options.read_preference == pymongo.ReadPreference.PRIMARY
        assert client.admin.command("ping")["ok"]
