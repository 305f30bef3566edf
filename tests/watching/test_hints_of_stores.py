"""Redis and PostgreSQL tell at once which sessions have ended, in whatever process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.db import connections, transaction
from django.test import override_settings

from django_sessionstores import signals
from django_sessionstores.conf.options import settings
from django_sessionstores.inventory import Inventory
from django_sessionstores.watching import UNKNOWN, watching
from tests.services import PostgreSQL, Redis
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

telling = pytest.mark.engines(
    *("cache:django-redis", "cache:redis-cache", "db:postgresql"),
    *("cached_db:redis-cache+postgresql", "cookie:django-redis", "cookie:redis-cache+postgresql"),
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
        request.getfixturevalue("engine")  # Its settings come first.
    monkeypatch.setattr(signals, "observers", _Deaf())
    interval(monkeypatch, HOUR)
    _, *others = django_settings.MIDDLEWARE
    present = getattr(django_settings, "SESSIONSTORES", {})
    telling = {**present, "TELL_ENDS": True}
    with override_settings(MIDDLEWARE=[MIDDLEWARE, *others], SESSIONSTORES=telling):
        yield
    vars(settings).pop("WATCH_INTERVAL", None)


def listeners(engine: Any) -> int:
    """Return how many connections listen to the store of the sessions."""
    if PostgreSQL in engine.servers:
        with connections[engine.database].cursor() as cursor:
            cursor.execute(LISTENERS)
            return int(cursor.fetchone()[0])
    numbers = engine.server(Redis).cli("pubsub", "numsub", CHANNEL).split()
    return int(numbers[-1])


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


@pytest.mark.engines("cache:django-redis", "db:postgresql")
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


@pytest.mark.engines("cache:django-redis", "db:postgresql")
def test_a_listener_can_be_stopped_at_any_moment(engine: Any, user: Any) -> None:
    """Also while it connects: a loop could never end otherwise, nor its server."""
    browser = signed_in(user.username)

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
    asyncio.run(until_heard(engine, 0))


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
