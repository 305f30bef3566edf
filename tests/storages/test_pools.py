"""Pools with fewer connections than there are threads: a request waits for one, not for long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from django.test import override_settings
from redis import Redis as Client

from django_sessionstores.core.records import State, make_tombstone
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages import pool_waits
from django_sessionstores.storages.base import Updated
from django_sessionstores.storages.memcached.django_items import DjangoItems
from django_sessionstores.testing import now
from tests.services import Memcached, Redis, shared_service
from tests.storages.memcached.test_storage import BACKEND, client_of
from tests.storages.memcached.test_storage import storage_at as memcached_at
from tests.storages.records import make_record
from tests.storages.redis.test_storage import DJANGO_REDIS, REDIS_CACHE
from tests.storages.redis.test_storage import storage_at as redis_at
from tests.storages.test_hung_servers import RETRY, opened

TIMEOUT = 0.3
LONG_TIMEOUT = 20.0


class Site(NamedTuple):
    """A storage whose pool has one connection."""

    storage: Any
    take: Callable[[], Callable[[], object]]
    """Takes the connection, and returns a function that gives it back."""
    breaker: Callable[[], Any]


@contextmanager
def _redis(backend: str, timeout: float, options: dict[str, Any]) -> Iterator[Site]:
    server = shared_service(Redis)
    server.cli("flushall")
    # django-redis keeps a pool for each address. Other tests have other options.
    url = server.url(9 if timeout == TIMEOUT else 8)
    with redis_at(url, backend, OPTIONS=options) as storage:
        pool = storage._server.connect().connection_pool

        def take() -> Callable[[], object]:
            return Client(connection_pool=pool, single_connection_client=True).close

        yield Site(storage, take, lambda: storage._server._breaker)


def _django_redis(timeout: float) -> Any:
    options = {"SOCKET_TIMEOUT": timeout, "CONNECTION_POOL_KWARGS": {"max_connections": 1}}
    return _redis(DJANGO_REDIS, timeout, options)


def _redis_cache(timeout: float) -> Any:
    return _redis(REDIS_CACHE, timeout, {"socket_timeout": timeout, "max_connections": 1})


@contextmanager
def _memcached(timeout: float) -> Iterator[Site]:
    server, options = shared_service(Memcached), {"timeout": timeout, "max_pool_size": 1}
    with closing(client_of(server)) as client:
        client.flush_all()
    with memcached_at(server.addresses, OPTIONS=options) as storage:
        (client,) = storage._nodes.clients.values()
        pool = client.client_pool

        def take() -> Callable[[], object]:
            return partial(pool.release, pool.get())

        (breaker,) = storage._nodes._breakers.values()
        yield Site(storage, take, lambda: breaker)


SITES = [_django_redis, _redis_cache, _memcached]


@pytest.fixture(params=SITES, ids=lambda make: make.__name__)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Yield a site that does not wait long, for an answer or for a connection."""
    with request.param(TIMEOUT) as site:
        yield site


@pytest.fixture(params=SITES, ids=lambda make: make.__name__)
def patient_site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with request.param(LONG_TIMEOUT) as site:
        yield site


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set as soon as somebody waits for a connection."""
    event = threading.Event()

    def sleep(seconds: float) -> None:
        event.set()
        time.sleep(seconds)

    monkeypatch.setattr(pool_waits, "time", SimpleNamespace(sleep=sleep))
    return event


def asked_meanwhile(site: Site, waiting: threading.Event, ask: Callable[[], Any]) -> Any:
    """Return what a call returns that has to wait for the connection."""
    waiting.clear()
    release = site.take()
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask)
        waited = waiting.wait(10)
        release()
        answer = asked.result(10)
    assert waited
    return answer


def test_a_call_waits_for_a_connection(patient_site: Site, waiting: threading.Event) -> None:
    """A site with more threads than connections would answer with an error when it has most to
    do."""
    site = patient_site
    storage, base = site.storage, make_record(expires=now() + 60_000)
    assert isinstance(asked_meanwhile(site, waiting, lambda: storage.create(base, now())), Updated)
    read = asked_meanwhile(site, waiting, lambda: storage.read(base.id))
    assert read.payload == base.payload
    found = asked_meanwhile(site, waiting, lambda: storage.lookup_many([base.id]))
    assert list(found) == [base.id]
    rotated = make_record("b" * 40, expires=base.expires)
    tombstone = make_tombstone(base.id, State.SUPERSEDED, now=now(), seconds=60)
    rotate = partial(storage.rotate, rotated, read, tombstone, now())
    assert isinstance(asked_meanwhile(site, waiting, rotate), Updated)
    assert storage.read(rotated.id).payload == rotated.payload
    if storage.lists:
        assert asked_meanwhile(site, waiting, storage.reindex) == 1
    assert asked_meanwhile(site, waiting, lambda: storage.end_many([rotated.id])) == [rotated.id]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_many_threads_share_one_connection(patient_site: Site, is_async: bool) -> None:
    storage, ids = patient_site.storage, [f"{number:040x}" for number in range(100)]
    records = [make_record(each, expires=now() + 60_000) for each in ids]

    async def create_all() -> list[Any]:
        return await asyncio.gather(*(storage.acreate(each, now()) for each in records))

    if is_async:
        outcomes = asyncio.run(create_all())
    else:
        with ThreadPoolExecutor(16) as threads:
            outcomes = list(threads.map(lambda each: storage.create(each, now()), records))
    assert {type(each) for each in outcomes} == {Updated}
    assert sorted(storage.end_many(ids)) == ids


def test_a_call_does_not_wait_longer_than_for_an_answer(site: Site) -> None:
    """The message has the option to raise. It says nothing about the server."""
    release = site.take()
    with pytest.raises(StorageUnavailable, match=r"max_connections|max_pool_size"):
        site.storage.read("a" * 40)
    assert not site.breaker().is_open
    release()
    assert site.storage.read("a" * 40) is None


def test_whoever_waits_for_a_connection_hears_that_the_server_hangs(
    site: Site, waiting: threading.Event
) -> None:
    """The calls that have the connections have waited in vain for it."""

    with override_settings(SESSIONSTORES={"STORE_RETRY": RETRY}), ThreadPoolExecutor(1) as threads:
        release, breaker = site.take(), site.breaker()
        asked = threads.submit(site.storage.read, "a" * 40)
        assert waiting.wait(10)
        opened(breaker).begin()
        with pytest.raises(StorageUnavailable, match="STORE_RETRY"):
            asked.result(10)
        release()
        breaker.answered()


def test_the_items_of_djangos_cache_on_memcached(waiting: threading.Event) -> None:
    """A session that has not been migrated yet is looked for there."""
    server = shared_service(Memcached)
    options = {"timeout": TIMEOUT, "max_pool_size": 1}
    entry = {"BACKEND": BACKEND, "LOCATION": server.addresses, "OPTIONS": options}
    with override_settings(CACHES={"default": entry}), closing(DjangoItems("default")) as items:
        (client,) = items._nodes.clients.values()
        site = Site(
            items, lambda: partial(client.client_pool.release, client.client_pool.get()), int
        )
        assert asked_meanwhile(site, waiting, lambda: items.get("a")) is None
        release = site.take()
        with pytest.raises(RuntimeError):
            items.get("a")
        release()
