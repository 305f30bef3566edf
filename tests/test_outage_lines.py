"""What is logged while a store fails: under either middleware, and from sync and async views.

When an outage begins, a line says why; when it is over, another one says how long it was. The lines
of an outage that goes on are in `tests.storages.test_outage_log`, where the clock is the test's.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.testing import WebsocketCommunicator
from django.conf import settings as django_settings
from django.test import AsyncClient, Client, override_settings

from django_sessionstores.channels import SessionMiddlewareStack
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.logs import IgnoreOutages
from django_sessionstores.storages import loops as client_loops
from django_sessionstores.storages.files import storage as files
from django_sessionstores.testing import now, observed
from tests import test_outages
from tests.cases import Engine
from tests.services import Redis
from tests.storages.caches.test_portable import OTHER, OtherCache, storage_of
from tests.storages.records import make_record
from tests.storages.redis.test_storage import REDIS_CACHE, storage_at
from tests.test_outages import CACHED, CACHES, COOKIE, DATABASES, back, cache_server, kill, pause
from tests.test_outages import _short_database_timeouts as _short_database_timeouts
from tests.test_outages import _short_timeouts as _short_timeouts

pytestmark = pytest.mark.usefixtures("middleware", "outages_end_at_once")

MANY = 12


class Log(logging.Handler):
    """Collects the lines of the package and of Django, as a project with defaults would."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def lines(self, logger: str = "django_sessionstores") -> list[str]:
        """Return the levels and texts that a logger has written."""
        return [
            f"{each.levelname} {each.getMessage()}" for each in self.records if each.name == logger
        ]


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    handler = Log()
    names = ("django_sessionstores", "django.request")
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield handler
    for name in names:
        logging.getLogger(name).removeHandler(handler)


class Browser:
    """Has a session before the outage, and asks for it again and again."""

    def __init__(self, *, asgi: bool = False) -> None:
        client: Any = (AsyncClient if asgi else Client)(raise_request_exception=False)
        self._ask: Callable[[str], Any] = (
            (lambda path: async_to_sync(client.get)("/async" + path)) if asgi else client.get
        )
        assert self.status("/write/before/1/") == 200
        assert self.status("/read/") == 200
        self.key = client.cookies[COOKIE].value

    def status(self, path: str = "/read/") -> int:
        return int(self._ask(path).status_code)


def is_djangos() -> bool:
    return django_settings.MIDDLEWARE[0].startswith("django.")


def assert_begins_and_ends(log: Log, calls: int = MANY) -> None:
    """Assert that the last line has counted so many calls or more.

    Between the first and the last line are those of other reasons: a server that has gone breaks
    connections first, and then refuses them.
    """
    begins, *others, ends = log.lines()
    assert begins.startswith("ERROR Session store outage begins: ")
    assert all(each.startswith("WARNING Session store outage continues: ") for each in others)
    assert len(others) <= 2
    counted = re.fullmatch(
        r"WARNING Session store outage is over: .*\. It began [\d.]+ s ago, the last call failed "
        r"[\d.]+ s ago\. Calls failed: (\d+)",
        ends,
    )
    assert counted
    assert int(counted[1]) >= calls
    if not is_djangos():
        assert log.lines("django.request") == []


@pytest.mark.parametrize("asgi", [False, True], ids=["sync", "async"])
@pytest.mark.engines(*CACHES, *DATABASES)
@pytest.mark.private_servers
def test_refused(engine: Engine, log: Log, asgi: bool) -> None:
    browser = Browser(asgi=asgi)
    engine.server().kill()
    failed = {browser.status() for _ in range(MANY)}
    assert failed == {500 if is_djangos() else 503}
    assert len(log.lines()) <= 3
    test_outages.restart(engine.server())
    assert browser.status() == 200
    assert_begins_and_ends(log)
    assert browser.key not in "".join(log.lines())


@pytest.mark.engines(*CACHES, *DATABASES)
@pytest.mark.private_servers
def test_hanging(engine: Engine, log: Log) -> None:
    """The requests that do not wait, because another one does, are counted as well."""
    browser = Browser()
    engine.server().pause()
    for _ in range(MANY):
        browser.status()
    assert len(log.lines()) <= 3
    engine.server().resume()
    test_outages.until_the_store_is_asked(test_outages.Browser())
    deadline = time.monotonic() + 5
    while browser.status() != 200:
        assert time.monotonic() < deadline
    assert_begins_and_ends(log)


@pytest.mark.engines(*CACHED, "cached_db:django-redis+sqlite")
@pytest.mark.private_servers
@pytest.mark.parametrize("outage", [kill, pause])
def test_the_cache_of_cached_db(engine: Engine, log: Log, outage: Any) -> None:
    """Requests go on without it, and nobody else would notice."""
    browser = Browser()
    outage(cache_server(engine))
    for _ in range(MANY):
        assert browser.status() == 200
    begins = log.lines()[0]
    assert "Redis" in begins or "memcached" in begins
    back(cache_server(engine))
    deadline = time.monotonic() + 5
    while "is over" not in log.lines()[-1] and time.monotonic() < deadline:
        assert browser.status() == 200
    # It is asked once in STORE_RETRY seconds.
    assert_begins_and_ends(log, calls=1)
    assert log.lines("django.request") == []


@pytest.mark.engines("cache:memcached-nodes")
@pytest.mark.private_servers
def test_one_of_several_nodes(engine: Engine, log: Log) -> None:
    """The answers of the others do not make its outage look over."""
    # So many that some of their sessions are on each node.
    browsers = [Browser() for _ in range(4 * MANY)]
    dead = engine.server().members[0]
    dead.kill()
    for _ in range(3):
        assert {each.status() for each in browsers} == {200, 500 if is_djangos() else 503}
    begins = log.lines()[0]
    assert dead.addresses[0] in begins
    dead.restart()
    for each in browsers:
        each.status()
    assert_begins_and_ends(log, calls=3)


@pytest.mark.engines("file", "cache:file-cache")
def test_a_folder_that_has_gone(engine: Engine, log: Log) -> None:
    browser = Browser()
    assert all("was made for sessions" in each for each in log.lines())
    log.records.clear()
    folder = Path(engine.storage._folder.path)
    away = folder.with_name(folder.name + "-away")
    folder.rename(away)
    for _ in range(MANY):
        browser.status()
    away.rename(folder)
    assert browser.status() == 200
    assert_begins_and_ends(log)
    assert str(folder) in log.lines()[0]


@pytest.mark.engines("file", "cache:file-cache")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_cannot_be_written(
    engine: Engine, log: Log, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be read, which does not make the outage look over."""
    browser = Browser()
    assert Browser().status("/write/after/1/") == 200  # Which makes the folder, and says so.
    log.records.clear()

    def refuse(*args: Any) -> NoReturn:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", refuse)
        for _ in range(MANY):
            assert browser.status("/write/after/1/") != 200
            assert browser.status() == 200
    assert len(log.lines()) == 1
    assert browser.status("/write/after/1/") == 200
    assert_begins_and_ends(log)


@pytest.mark.engines("cache:redis-cache")
@pytest.mark.private_servers
def test_a_full_store_is_one_outage(engine: Engine, log: Log) -> None:
    """Reads go on between the writes that fail."""
    browser = Browser()
    engine.server(Redis).cli("config", "set", "maxmemory", "1")
    for _ in range(MANY):
        assert browser.status() == 200
        assert browser.status("/write/after/1/") != 200
    engine.server(Redis).cli("config", "set", "maxmemory", "0")
    assert browser.status() == 200
    assert len(log.lines()) == 1
    assert browser.status("/write/after/1/") == 200
    assert_begins_and_ends(log)


@pytest.mark.engines("memory")
def test_an_error_that_no_log_has_counted_has_a_line_of_its_own(engine: Engine, log: Log) -> None:
    """A lock that was not free, say, or a storage of the project's."""
    browser = Browser()

    def fail(name: str) -> None:
        raise StorageUnavailable("The lock was not free.")

    with observed(engine.storage, before=fail):
        for _ in range(3):
            browser.status()
    line = "WARNING Session storage unavailable: /read/: The lock was not free."
    assert log.lines() == ([] if is_djangos() else [line] * 3)


@pytest.mark.engines("cache:redis-cache")
@pytest.mark.private_servers
def test_the_filter_for_lines_of_django(engine: Engine, log: Log) -> None:
    """Under its middleware, Django logs an error with a traceback for each request."""
    browser = Browser()
    engine.server().kill()
    browser.status()
    tracebacks = 1 if is_djangos() else 0
    assert len(log.lines("django.request")) == tracebacks
    logger, ignore = logging.getLogger("django.request"), IgnoreOutages()
    logger.addFilter(ignore)
    try:
        assert browser.status() == (500 if is_djangos() else 503)
    finally:
        logger.removeFilter(ignore)
    assert len(log.lines("django.request")) == tracebacks


@pytest.mark.engines("cache:redis-cache")
@pytest.mark.private_servers
def test_a_request_without_a_session_is_not_logged(engine: Engine, log: Log) -> None:
    """With ON_OUTAGE the user is served, and the log still says that the store fails."""
    browser = Browser()
    with override_settings(SESSIONSTORES={"ON_OUTAGE": "anonymous"}):
        engine.server().kill()
        for _ in range(MANY):
            browser.status()
    assert 1 <= len(log.lines()) <= 3


@pytest.mark.engines("memory")
def test_redis_without_threads(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop that stays has connections of its own."""
    monkeypatch.setattr(client_loops, "LOOP_TRIAL", 0)

    async def fail(storage: Any) -> None:
        with pytest.raises(StorageUnavailable):
            await storage.aread("a" * 40)

    async def ask(storage: Any) -> None:
        for _ in range(2):  # The first one is asked in a thread.
            await storage.aread("a" * 40)
        server.kill()
        for _ in range(MANY):
            await fail(storage)
        server.restart()
        await storage.aread("a" * 40)

    with Redis() as server, storage_at(server.url()) as storage:
        asyncio.run(ask(storage))
    assert_begins_and_ends(log)


@pytest.mark.engines("cache:redis-cache")
@pytest.mark.private_servers
def test_websockets(engine: Engine, log: Log) -> None:
    """A page that connects again and again does not fill the log."""

    async def connect() -> None:
        app = SessionMiddlewareStack(AsyncWebsocketConsumer.as_asgi())
        name = f"{COOKIE}={browser.key}".encode()
        socket = WebsocketCommunicator(app, "/", headers=[(b"cookie", name)])
        await socket.connect(timeout=10)

    browser = Browser()
    engine.server().kill()
    for _ in range(MANY):
        asyncio.run(connect())
    engine.server().restart()
    assert browser.status() == 200
    assert_begins_and_ends(log)


@pytest.mark.engines("memory")
@pytest.mark.parametrize("fault", ["error", "drops"])
def test_a_cache_of_which_only_the_api_is_known(
    fault: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails, or loses what it is told."""
    with storage_of(OTHER) as storage:
        value: Any = ConnectionRefusedError() if fault == "error" else True
        monkeypatch.setattr(OtherCache, fault, value)
        for _ in range(MANY):
            with pytest.raises(StorageUnavailable):
                storage.create(make_record(), now())
        monkeypatch.setattr(OtherCache, fault, None)
        storage.create(make_record(), now())
    assert_begins_and_ends(log)


@pytest.mark.engines("memory")
def test_a_previous_backend(engine: Engine, log: Log) -> None:
    """It may know the session, so each request of a session that is not here asks it."""
    django_cache = "django.contrib.sessions.backends.cache"
    with Redis() as server:
        cache = {"BACKEND": REDIS_CACHE, "LOCATION": server.url()}
        with override_settings(
            CACHES={"default": cache},
            SESSION_CACHE_ALIAS="default",
            SESSIONSTORES={"MIGRATE_FROM": [django_cache]},
        ):
            client = Client(raise_request_exception=False)
            client.cookies[COOKIE] = "k" * 32
            server.kill()
            for _ in range(MANY):
                assert client.get("/read/").status_code in {500, 503}
            server.restart()
            assert client.get("/read/").status_code == 200
    assert_begins_and_ends(log)
    assert "A previous backend, " in log.lines()[0]
