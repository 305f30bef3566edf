"""The settings that the guide on failovers shows for sentinels and clusters, with real servers."""

from __future__ import annotations

import socket
import sys
import types
from collections.abc import Iterator
from contextlib import closing
from threading import Thread
from typing import Any

import pytest
from django.test import override_settings
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster as ClusterClient
from redis.retry import Retry

from django_sessionstores.conf import session_store
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.operations.checks.stores import (
    check_cache_retries,
    check_cache_timeouts,
)
from tests.operations.checks.conftest import production as production  # A fixture.
from tests.redis_versions import repeats
from tests.services import HOST, RedisCluster, RedisSentinel, refusing_port, shared_service
from tests.test_docs import DOCS, blocks

PAGE = DOCS / "howto" / "failover.rst"
CACHE = "django_sessionstores.backends.cache"


def block_with(text: str) -> dict[str, Any]:
    """Return what the one block of the guide that has a text in it defines."""
    (code,) = (each for each in blocks(PAGE) if text in each)
    names: dict[str, Any] = {"__name__": "shop.cluster"}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


class Hanging:
    """A server that accepts connections and never answers. It counts them."""

    def __init__(self) -> None:
        self.listener = socket.create_server((HOST, 0))
        self.address = self.listener.getsockname()
        self.accepted: list[socket.socket] = []
        Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                self.accepted.append(self.listener.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        for each in (self.listener, *self.accepted):
            each.close()


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    with closing(Hanging()) as server:
        yield server


def store_behind(sentinels: list[tuple[str, int]], number: int, **kwargs: Any) -> Any:
    """Return the settings of the guide with these sentinels, and arguments of their clients.

    A pool is kept for each address.
    """
    caches = block_with('"SENTINELS"')["CACHES"]
    entry = caches["sessions"]
    entry["LOCATION"] += f"?client_name=guide-{number}"
    entry["OPTIONS"]["SENTINELS"] = sentinels
    entry["OPTIONS"]["SENTINEL_KWARGS"].update(kwargs)
    for limits in (entry["OPTIONS"]["SENTINEL_KWARGS"], entry["OPTIONS"]):
        for name in limits:
            if name.lower().endswith("timeout"):
                limits[name] = 0.2
    return override_settings(CACHES=caches, SESSION_CACHE_ALIAS="sessions", SESSION_ENGINE=CACHE)


def save() -> None:
    store = session_store(CACHE)
    assert store is not None
    session = store()
    session["a"] = 1
    session.save()
    assert store(session.session_key)["a"] == 1


def test_a_sentinel_that_hangs_is_asked_once(hanging: Hanging) -> None:
    sentinels = shared_service(RedisSentinel).sentinel_addresses
    with store_behind([hanging.address, *sentinels], 1):
        save()
    assert len(hanging.accepted) == 1


def test_sentinels_of_which_none_answers_are_asked_once(hanging: Hanging) -> None:
    refusing = (HOST, refusing_port())
    with store_behind([hanging.address, refusing], 2), pytest.raises(StorageUnavailable):
        save()
    assert len(hanging.accepted) == 1


@repeats
@pytest.mark.usefixtures("production")
def test_the_check_knows_how_often_a_sentinel_is_asked(hanging: Hanging) -> None:
    with store_behind([hanging.address], 3):
        assert check_cache_timeouts(None) == check_cache_retries(None) == []
    with store_behind([hanging.address], 4, retry=Retry(NoBackoff(), 3)):
        (message,) = check_cache_retries(None)
        assert "the client tries it 4 times" in message.msg
        assert hanging.accepted == []
        with pytest.raises(StorageUnavailable):
            save()
    assert len(hanging.accepted) == 4


def test_the_cluster_of_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("shop.cluster")
    vars(module).update(block_with("class ClusterCache"))
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.cluster", module)
    caches = block_with('"shop.cluster.ClusterCache"')["CACHES"]
    caches["sessions"]["LOCATION"] = shared_service(RedisCluster).url()
    with override_settings(CACHES=caches, SESSION_CACHE_ALIAS="sessions", SESSION_ENGINE=CACHE):
        save()
        store = session_store(CACHE)
        assert store is not None
        client = store.own_storage()._server.client()
    assert isinstance(client, ClusterClient)
    assert client.get_connection_kwargs()["socket_timeout"] == 1
