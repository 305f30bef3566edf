"""Redis, PostgreSQL and MongoDB tell at once which sessions have ended, in whatever process."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pymongo
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.db import connections, transaction
from django.test import override_settings

from django_sessionstores import signals
from django_sessionstores.conf.options import settings
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.inventory import Inventory
from django_sessionstores.testing import now
from django_sessionstores.watching import UNKNOWN, watching
from tests.services import MongoDB, PostgreSQL, Redis, shared_service, wait_until
from tests.storages.mongodb.stores import failing, run_in_mongo, storage_at
from tests.storages.records import ID, make_record
from tests.watching import test_watching
from tests.watching.test_watching import interval, session_of, signed_in

# Fixture.
options = test_watching.options

MIDDLEWARE = "django_sessionstores.middleware.SessionMiddleware"
SHORT = 0.1
LONG = 20
QUIET = 0.5
HOUR = 3600
CHANNEL = ":1:dss:ends"
LISTENERS = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"

left_over = set[int]()
"""The cursors of loops that ended before they could close them. The server does it later."""

telling = pytest.mark.engines(
    *("cache:django-redis", "cache:redis-cache", "db:postgresql"),
    *("cached_db:redis-cache+postgresql", "cookie:django-redis", "cookie:redis-cache+postgresql"),
    *("mongodb:mongodb", "cached_db:locmem+mongodb", "cookie:mongodb"),
)
redis = pytest.mark.engines("cache:django-redis")
postgresql = pytest.mark.engines("db:postgresql")


class _Deaf(list[Any]):
    """The observers of signals, to which nobody is added."""

    def append(self, observer: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def elsewhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sessions end as if another process had ended them, and the re-check is an hour away."""
    if "engine" in request.fixturenames:
        engine = request.getfixturevalue("engine")  # Its settings come first.
        if MongoDB in engine.servers:
            left_over.update(change_streams(engine.server(MongoDB)))
    monkeypatch.setattr(signals, "observers", _Deaf())
    interval(monkeypatch, HOUR)
    _, *others = django_settings.MIDDLEWARE
    present = getattr(django_settings, "SESSIONSTORES", {})
    telling = {**present, "TELL_ENDS": True}
    with override_settings(MIDDLEWARE=[MIDDLEWARE, *others], SESSIONSTORES=telling):
        yield
    vars(settings).pop("WATCH_INTERVAL", None)


def change_streams(server: MongoDB) -> set[int]:
    """Return the numbers of the cursors through which clients are told of changes."""
    stages = [{"$currentOp": {"allUsers": True, "idleCursors": True}}]
    found = run_in_mongo(server, {"aggregate": 1, "pipeline": stages, "cursor": {}})
    operations = found["cursor"]["firstBatch"]
    cursors = [each["cursor"] for each in operations if each.get("cursor")]
    return {each["cursorId"] for each in cursors if "$changeStream" in str(each)}


def listeners(engine: Any) -> int:
    """Return how many connections listen to the store of the sessions."""
    if PostgreSQL in engine.servers:
        with connections[engine.database].cursor() as cursor:
            cursor.execute(LISTENERS)
            return int(cursor.fetchone()[0])
    if MongoDB in engine.servers:
        return len(change_streams(engine.server(MongoDB)) - left_over)
    numbers = engine.server(Redis).cli("pubsub", "numsub", CHANNEL).split()
    return int(numbers[-1])


def connections_to(engine: Any) -> int:
    """Return how many connections to the store of the sessions there are because of listeners.

    MongoDB keeps a cursor whose client is gone for some time, so its connections are counted.
    """
    if MongoDB in engine.servers:
        status = run_in_mongo(engine.server(MongoDB), {"serverStatus": 1})
        return int(status["connections"]["current"])
    return listeners(engine)


async def until_heard(engine: Any, number: int = 1) -> None:
    async with asyncio.timeout(LONG):
        while await sync_to_async(listeners)(engine) != number:
            await asyncio.sleep(SHORT)


async def ended(watch: Any) -> str:
    async with asyncio.timeout(LONG):
        return str(await watch.wait())


@telling
@pytest.mark.parametrize("how", ["logout", "end", "end_all"])
def test_the_store_tells_of_an_end_in_another_process(engine: Any, user: Any, how: str) -> None:
    browser, other = signed_in(user.username), signed_in(user.username)

    async def scenario() -> None:
        async with (
            watching(session_of(engine, browser)) as watch,
            watching(session_of(engine, other)) as another,
        ):
            await until_heard(engine)
            if how == "logout":
                await sync_to_async(browser.get)("/logout/")
            elif how == "end":
                assert await Inventory().aend(watch.id)
            else:
                await Inventory().aend_all(user, but=another.id)
            assert await ended(watch) == UNKNOWN
            assert not another.has_ended
        await until_heard(engine, 0)

    asyncio.run(scenario())


@telling
def test_one_connection_listens_for_all(engine: Any, user: Any) -> None:
    """It is closed with the last of them."""
    browsers = [signed_in(user.username) for _ in range(3)]

    async def scenario() -> None:
        async with ExitStackOf(watching(session_of(engine, each)) for each in browsers):
            await until_heard(engine)
            await asyncio.sleep(QUIET)
            assert await sync_to_async(listeners)(engine) == 1
        await until_heard(engine, 0)

    asyncio.run(scenario())


class ExitStackOf:
    """Several asynchronous contexts at once."""

    def __init__(self, managers: Any) -> None:
        self._managers = list(managers)

    async def __aenter__(self) -> list[Any]:
        return [await each.__aenter__() for each in self._managers]

    async def __aexit__(self, *error: object) -> None:
        for each in self._managers:
            await each.__aexit__(None, None, None)


@postgresql
def test_the_end_is_told_when_it_is_certain(engine: Any, user: Any) -> None:
    """At the commit of the caller's transaction. What is rolled back is told to nobody."""
    browser = signed_in(user.username)

    def end_and_roll_back() -> None:
        with transaction.atomic(engine.database):
            assert Inventory().end_all(user) == 1
            transaction.set_rollback(True, engine.database)

    def end_and_commit() -> float:
        with transaction.atomic(engine.database):
            assert Inventory().end_all(user) == 1
            time.sleep(QUIET)
            return time.monotonic()

    async def scenario() -> None:
        async with watching(session_of(engine, browser)) as watch:
            await until_heard(engine)
            await sync_to_async(end_and_roll_back)()
            await asyncio.sleep(QUIET)
            assert not watch.has_ended
            certain = asyncio.ensure_future(sync_to_async(end_and_commit, thread_sensitive=False)())
            await ended(watch)
            assert time.monotonic() >= await certain

    asyncio.run(scenario())


@telling
def test_nothing_is_told_if_the_project_says_so(
    engine: Any, user: Any, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the re-check finds out. Nobody listens."""
    options(TELL_ENDS=False)
    interval(monkeypatch, 1)
    browser = signed_in(user.username)

    async def scenario() -> None:
        async with watching(session_of(engine, browser)) as watch:
            await asyncio.sleep(QUIET)
            assert await sync_to_async(listeners)(engine) == 0
            await Inventory().aend_all(user)
            await ended(watch)

    asyncio.run(scenario())


@pytest.mark.engines("cache:django-redis", "db:postgresql", "mongodb:mongodb")
@pytest.mark.private_servers
def test_a_connection_that_is_lost_is_made_again(
    engine: Any, user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was told meanwhile is found by the re-check."""
    interval(monkeypatch, 1)
    browser, other = signed_in(user.username), signed_in(user.username)

    def cut_off() -> None:
        if PostgreSQL in engine.servers:
            with connections[engine.database].cursor() as cursor:
                cursor.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE 'LISTEN%'"
                )
        elif MongoDB in engine.servers:
            server = engine.server(MongoDB)
            server.restart()
        else:
            engine.server(Redis).cli("client", "kill", "type", "pubsub")

    async def scenario() -> None:
        async with (
            watching(session_of(engine, browser)) as watch,
            watching(session_of(engine, other)) as another,
        ):
            await until_heard(engine)
            await sync_to_async(cut_off)()
            await sync_to_async(browser.get)("/logout/")
            await ended(watch)
            await until_heard(engine)
            interval(monkeypatch, HOUR)
            await asyncio.sleep(2)  # The re-check that was due is over.
            await sync_to_async(other.get)("/logout/")
            await ended(another)

    asyncio.run(scenario())


@pytest.mark.engines("cache:django-redis", "db:postgresql", "mongodb:mongodb")
def test_a_listener_can_be_stopped_at_any_moment(engine: Any, user: Any) -> None:
    """Also while it connects: a loop could never end otherwise, nor its server."""
    browser = signed_in(user.username)
    before = connections_to(engine)

    async def scenario(seconds: float) -> None:
        async with watching(session_of(engine, browser)):
            await asyncio.sleep(seconds)

    def run() -> None:
        for number in range(60):
            asyncio.run(scenario(number % 30 / 1000))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(6 * LONG)
    assert not thread.is_alive()
    # Nor may a connection stay: there would be one more for each loop.
    gc.collect()  # One that a loop was about to open as it ended.
    wait_until(lambda: connections_to(engine) <= before, "the connections are closed", LONG)


@redis
def test_only_ids_are_told(engine: Any, user: Any) -> None:
    """Anybody who may read the channel must not be able to use a session."""
    browser = signed_in(user.username)
    session_id = session_of(engine, browser).session_id
    from redis import Redis as Client_

    client = Client_(port=engine.server(Redis).port)
    listener = client.pubsub()
    listener.subscribe(CHANNEL)
    assert listener.get_message(timeout=LONG)
    browser.get("/logout/")
    message = listener.get_message(timeout=LONG)
    listener.close()
    client.close()
    assert message is not None
    assert message["data"] == bytes.fromhex(session_id)


def test_a_single_server_of_mongodb_tells_nothing() -> None:
    """It has no log of changes. The re-check finds out."""
    with MongoDB(replica_set="") as server, storage_at(server, TELL_ENDS=True) as storage:
        asyncio.run(asyncio.wait_for(storage.hear_ends(lambda _: None), LONG))


@pytest.mark.parametrize("code", [13, 286], ids=["not allowed", "any other"])
def test_mongodb_refuses_to_tell(code: int, caplog: pytest.LogCaptureFixture) -> None:
    """A right that is missing is named once. Anything else may be over soon."""
    server = shared_service(MongoDB)
    with storage_at(server, TELL_ENDS=True) as storage:
        hearing = asyncio.wait_for(storage.hear_ends(lambda _: None), LONG)
        with failing(server, 1, failCommands=["aggregate"], errorCode=code):
            if code == 13:
                asyncio.run(hearing)
                assert "Give its user the right changeStream" in caplog.text
            else:
                with pytest.raises(StorageUnavailable, match="no longer tells"):
                    asyncio.run(hearing)
                assert caplog.text == ""


@pytest.mark.parametrize("option", ["timeoutMS=900", "socketTimeoutMS=900"])
@pytest.mark.parametrize("is_given", [False, True], ids=["own client", "client of the project"])
def test_mongodb_tells_with_any_timeout(option: str, is_given: bool) -> None:
    server = shared_service(MongoDB)
    options = {"MONGODB_URI": f"{server.url()}&{option}"}
    if is_given:
        GIVEN[:] = [pymongo.MongoClient(options["MONGODB_URI"])]
        options = {"MONGODB_URI": "", "MONGODB_CLIENT": f"{__name__}.given"}
    with storage_at(server, TELL_ENDS=True, **options) as storage:
        told = list[str]()

        async def scenario() -> None:
            listening = asyncio.create_task(storage.hear_ends(told.append))
            async with asyncio.timeout(LONG):
                while not told:
                    await storage.acreate(make_record(), now())
                    await storage.adelete(ID)
                    await asyncio.sleep(SHORT)
            assert not listening.done()
            listening.cancel()

        asyncio.run(scenario())
        assert set(told) == {ID}
    for each in GIVEN:
        each.close()
    GIVEN.clear()


GIVEN: list[Any] = []


def given() -> Any:
    return GIVEN[0]
