"""A Redis without memory that drops nothing: sessions can still be listed and ended on it.

That is what its operator is advised to do, and it must not depend on whether the index was complete
before: no request has asked for a list of most sites' sessions yet when their Redis fills up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.test import override_settings

from django_sessionstores.core.flow import run
from django_sessionstores.core.records import State, make_tombstone
from django_sessionstores.exceptions import StorageFull, StorageUnavailable
from django_sessionstores.storages.base import Updated
from django_sessionstores.storages.redis import building
from django_sessionstores.storages.redis.keys import member_of
from django_sessionstores.storages.redis.storage import RedisStorage
from django_sessionstores.testing import Twin
from tests.services import Redis, RedisCluster
from tests.storages.redis import test_storage
from tests.storages.redis.test_storage import (
    HOUR,
    NOW,
    listed,
    own,
    record,
    storage_at,
)

server = test_storage.server
IDS = [letter * 40 for letter in "abcdef"]


@contextmanager
def full(*servers: Redis) -> Iterator[None]:
    """Leave no memory to servers, which drop nothing for it."""
    for each in servers:
        each.cli("config", "set", "maxmemory-policy", "noeviction")
        each.cli("config", "set", "maxmemory", "1")
    yield
    for each in servers:
        each.cli("config", "set", "maxmemory", "0")


@pytest.fixture
def storage(server: Redis) -> Iterator[RedisStorage]:
    with storage_at(server.url()) as storage:
        yield storage


def fill(storage: RedisStorage) -> None:
    """Store six sessions, three of them those of a user."""
    for number, each in enumerate(IDS):
        user = "7" if number < 3 else None
        storage.create(record(each, user_id=user, expires=NOW + HOUR + number), NOW)


def contents(storage: RedisStorage) -> dict[bytes, bytes]:
    ask = storage._server.ask
    return {key: ask("DUMP", key) for key in ask("KEYS", "*")}


def assert_lists_and_ends(storage: RedisStorage) -> None:
    """Of the sessions that `fill` has stored."""
    assert sorted(listed(storage, "7")) == IDS[:3]
    assert sorted(listed(storage)) == IDS
    assert (storage.count(NOW, None), storage.count(NOW, "7")) == (6, 3)
    assert storage.summarize(NOW, 10).live == 6
    assert storage.index_is_complete()
    assert storage.purge(NOW, 10) == 0
    assert sorted(storage.end_many(IDS[:2])) == IDS[:2]
    assert storage.delete(IDS[2])
    assert listed(storage, "7") == []
    assert sorted(listed(storage)) == IDS[3:]


@pytest.mark.parametrize("is_complete", [False, True], ids=["never listed", "listed before"])
def test_a_full_server_lists_and_ends_sessions(
    storage: RedisStorage, server: Redis, is_complete: bool
) -> None:
    fill(storage)
    if is_complete:
        storage.reindex()
    with full(server):
        assert storage.index_is_complete() is is_complete
        assert_lists_and_ends(storage)
        with pytest.raises(StorageFull):
            storage.create(record(), NOW)
    storage.create(record(), NOW)


def test_an_outdated_member_is_corrected_on_a_full_server(
    storage: RedisStorage, server: Redis
) -> None:
    """A list puts right what it finds, and must not fail because that is refused."""
    fill(storage)
    storage.reindex()
    (bucket,) = (
        directory + b":1"
        for directory in storage._index.builder.directories()
        if storage._server.ask("ZSCORE", directory + b":1", member_of(IDS[4]))
    )
    storage._server.ask("ZADD", bucket, NOW + 2 * HOUR, member_of(IDS[4]))
    storage._server.ask("DEL", storage._server.key(IDS[5]))
    with full(server):
        assert sorted(each.id for each in storage.scan("", 10, None).records) == IDS[:5]
        score = storage._server.ask("ZSCORE", bucket, member_of(IDS[4]))
        assert score == NOW + HOUR + 4
        assert storage.count(NOW, None) == 5


def test_the_index_of_a_new_key_on_a_full_server(storage: RedisStorage, server: Redis) -> None:
    """The site has changed its secret key since the last list."""
    storage.create(own(storage, "a"), NOW)
    listed(storage)
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["tests only"]):
        storage.create(own(storage, "b"), NOW)
        with full(server):
            assert sorted(listed(storage)) == IDS[:2]
            assert storage.index_is_complete()


@contextmanager
def lost_index(storage: RedisStorage, server: Redis) -> Iterator[None]:
    """Leave no memory to a server that has dropped the index, as with another policy before."""
    fill(storage)
    storage._server.ask("DEL", *storage._index.builder.directories())
    # Not anybody's: of another user, of another site, a tombstone, and not a session.
    storage.create(record("0" * 40, user_id="70", expires=NOW + HOUR), NOW)
    storage.create(record("1" * 40, site=12345), NOW)
    storage.create(make_tombstone("2" * 40, State.SUPERSEDED, now=NOW, seconds=3600), NOW)
    storage._server.ask("SET", storage._server.key("3" * 40), b"rubbish")
    with full(server):
        yield


def test_a_full_server_has_no_memory_for_a_lost_index(storage: RedisStorage, server: Redis) -> None:
    """There may be very many sessions that it lacks: a server that takes more memory than it was
    given may be killed, and have nobody's session any more."""
    with lost_index(storage, server):
        before = contents(storage)
        with pytest.raises(StorageFull, match=r"maxmemory.*sessions reindex"):
            storage.reindex()
        # Nothing has changed, and no lock stays.
        assert contents(storage) == before
        assert storage.delete("0" * 40)
    assert storage.reindex() == len(IDS)
    with full(server):
        assert_lists_and_ends(storage)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_sessions_are_listed_and_ended_without_an_index(
    storage: RedisStorage, server: Redis, is_async: bool
) -> None:
    asked = Twin(storage, awaited=is_async)
    with lost_index(storage, server):
        before = contents(storage)
        for limit in range(1, 9):
            assert pages(asked, limit, None) == ["0" * 40, *IDS]
            assert pages(asked, limit, "7") == IDS[:3]
            assert pages(asked, limit, "nobody") == []
        assert (asked.count(NOW, None), asked.count(NOW, "7")) == (7, 3)
        assert storage.summarize(NOW, 10).live == 7
        assert storage.summarize(NOW, 2).live == 2
        assert (
            asked.scan("", 10, None, NOW + HOUR + 2).records
            == storage.scan(IDS[2], 9, None).records
        )
        assert contents(storage) == before
        assert not storage.index_is_complete()
        page = asked.scan("", 2, None)
        assert asked.end_many([each.id for each in page.records]) == ["0" * 40, IDS[0]]
        assert [each.id for each in asked.scan(page.next, 9, None).records] == IDS[1:]
        assert storage.purge(NOW, 10) == 0


def pages(asked: Any, limit: int, user_id: str | None) -> list[str]:
    """Return the ids of all pages, which have their size."""
    ids, cursor = list[str](), ""
    while True:
        page = asked.scan(cursor, limit, user_id)
        ids += [each.id for each in page.records]
        cursor = page.next
        if not cursor:
            return ids
        assert len(page.records) == limit


def test_one_request_at_a_time_looks_at_all_keys(
    storage: RedisStorage, server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "WAIT_SECONDS", 0.1)
    with lost_index(storage, server):
        cursor = storage.scan("", 2, None).next
        token = run(storage._index.builder.take_lock())
        for ask in (lambda: storage.scan(cursor, 2, None), lambda: storage.count(NOW, None)):
            with pytest.raises(StorageUnavailable, match="makes the index of sessions anew"):
                ask()
        storage._index.builder.release(token)
        assert storage.count(NOW, None) == 7


def test_a_tombstone_takes_the_place_of_a_session_on_a_full_server(
    storage: RedisStorage, server: Redis
) -> None:
    """So a session ends whose user has a new password. It takes less memory than the session."""
    storage.create(record(), NOW)
    tombstone = make_tombstone(record().id, State.SUPERSEDED, now=NOW, seconds=60)
    with full(server):
        with pytest.raises(StorageFull):
            storage.update(record(version=2), record(), NOW)
        assert isinstance(storage.update(tombstone, record(), NOW), Updated)
        assert storage.read(record().id) == tombstone
        assert listed(storage) == []


@pytest.mark.slow
@pytest.mark.parametrize("is_complete", [False, True], ids=["never listed", "listed before"])
def test_a_full_cluster_lists_and_ends_sessions(is_complete: bool) -> None:
    """On one, the index is moved by a command of its own."""
    with (
        RedisCluster() as cluster,
        storage_at(cluster.url(), f"{test_storage.__name__}.ClusterCache") as storage,
    ):
        fill(storage)
        if is_complete:
            storage.reindex()
        with full(*cluster.members):
            assert_lists_and_ends(storage)
