"""What the guide on failovers says of writes that replicas do not have yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth import SESSION_KEY
from django.test import RequestFactory, override_settings
from redis import Redis as Client

from django_sessionstores.backends import cache as engine
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages.redis.keys import record_key
from tests import ROOT
from tests.services import Redis, Replica, wait_until
from tests.test_docs import blocks

PAGE = ROOT / "docs/howto/failover.rst"


@pytest.fixture(scope="module")
def primary() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture(scope="module")
def replica(primary: Redis) -> Iterator[Replica]:
    with Replica(primary) as server:
        yield server


@pytest.fixture
def site(primary: Redis) -> Iterator[dict[str, Any]]:
    """Yield the names of the guide, on a site whose sessions are on the primary."""
    entry = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": primary.url()}
    settings = {"CACHES": {"default": entry, "sessions": entry}, "SESSION_CACHE_ALIAS": "sessions"}
    (code,) = [each for each in blocks(PAGE) if "WAIT" in each]
    names: dict[str, Any] = {}
    exec(compile(code, str(PAGE), "exec"), names)
    with override_settings(SESSION_ENGINE="django_sessionstores.backends.cache", **settings):
        yield names


def new_session() -> Any:
    session = engine.SessionStore()
    session[SESSION_KEY] = "1"
    session.save()
    return session


def has(server: Redis, session_id: str) -> bool:
    """Return whether a server has the data of a session."""
    length = Client(port=server.port).strlen(record_key(b":1:dss:", session_id))
    return int(length) > 60  # A tombstone is shorter.


@pytest.mark.django_db
def test_a_logout_that_waits_for_a_replica(
    primary: Redis, replica: Replica, site: dict[str, Any]
) -> None:
    """A logout that no replica has is carried out nevertheless: a failover would lose it."""
    request = RequestFactory().get("/")
    request.session = new_session()
    ended = request.session.session_id
    assert site["sign_out"](request).status_code == 200
    assert not has(replica, ended)
    request.session = new_session()
    ended = request.session.session_id
    wait_until(lambda: has(replica, ended), "the replica has the session")
    replica.pause()
    try:
        assert site["sign_out"](request).status_code == 503
        assert not has(primary, ended)
    finally:
        replica.resume()


def test_a_primary_without_its_replica_refuses_writes(
    primary: Redis, replica: Replica, site: dict[str, Any]
) -> None:
    primary.cli("config", "set", "min-replicas-max-lag", "1")
    primary.cli("config", "set", "min-replicas-to-write", "1")

    def is_refused() -> bool:
        try:
            new_session()
        except StorageUnavailable as error:
            return "(NOREPLICAS: " in str(error)
        return False

    wait_until(lambda: not is_refused(), "the replica is connected")
    kept = new_session()
    replica.pause()
    try:
        wait_until(is_refused, "writes are refused")
        assert engine.SessionStore(kept.session_key)[SESSION_KEY] == "1"
    finally:
        replica.resume()
        primary.cli("config", "set", "min-replicas-to-write", "0")
