"""MongoDB while a primary answers, and too few members confirm what is written to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from django_sessionstores.core.records import Record, State, make_tombstone
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.storages.base import Updated
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.mongodb.storage import MongoDBStorage
from django_sessionstores.storages.registered import RegisteredStorage
from django_sessionstores.testing import now, successor
from tests.services import MongoDB, MongoReplicaSet, shared_service
from tests.storages.mongodb.stores import (
    DATABASE,
    failing,
    impatient,
    run_in_mongo,
    storage_at,
)
from tests.storages.records import ID, make_record

NEW_ID = "b" * 40
UNCONFIRMED: dict[str, Any] = {"writeConcernError": {"code": 64, "errmsg": "waiting timed out"}}
"""What a primary says of a write that it has carried out, if too few members confirm it in time."""


@pytest.fixture
def server() -> MongoDB:
    server = shared_service(MongoDB)
    run_in_mongo(server, {"dropDatabase": 1}, DATABASE)
    return server


@pytest.fixture
def storage(server: MongoDB) -> Iterator[MongoDBStorage]:
    # The breaker stays open for longer than a test takes.
    with storage_at(server, STORE_RETRY=60) as storage:
        yield storage


def rotation() -> tuple[Record, Record, Record]:
    """Return a session, the one that a login makes of it, and what is left under its id."""
    base, new = make_record(), make_record(NEW_ID)
    return base, new, make_tombstone(ID, State.SUPERSEDED, now=now(), seconds=60, successor=new.id)


@pytest.mark.parametrize("awaited", [False, True], ids=["blocking", "awaited"])
def test_a_login_that_too_few_members_confirm_has_failed(
    server: MongoDB, storage: MongoDBStorage, awaited: bool
) -> None:
    """The next primary may not have it. Both of its records stay, because it may have it, too."""
    base, new, tombstone = rotation()
    storage.create(base, now())

    def rotate() -> object:
        arguments = new, base, tombstone, now()
        return asyncio.run(storage.arotate(*arguments)) if awaited else storage.rotate(*arguments)

    with (
        failing(server, 2, failCommands=["update"], **UNCONFIRMED),
        pytest.raises(StorageUnavailable, match="Too few members") as caught,
    ):
        rotate()
    assert caught.value.was_sent
    assert (storage.read(ID), storage.read(NEW_ID)) == (tombstone, new)


def test_a_login_that_is_confirmed_late_has_succeeded(
    server: MongoDB, storage: MongoDBStorage
) -> None:
    base, new, tombstone = rotation()
    storage.create(base, now())
    with failing(server, 1, failCommands=["update"], **UNCONFIRMED):
        assert isinstance(storage.rotate(new, base, tombstone, now()), Updated)


def test_a_registry_that_too_few_members_confirm_fails_a_login(
    server: MongoDB, storage: MongoDBStorage
) -> None:
    pair = RegisteredStorage(MemoryStorage(10), storage, window=60)
    _, new, tombstone = rotation()
    created = pair.create(make_record(), now())
    with (
        failing(server, 2, failCommands=["update"], **UNCONFIRMED),
        pytest.raises(StorageUnavailable, match="Too few members"),
    ):
        pair.rotate(new, created.record, tombstone, now())  # type: ignore[union-attr]
    # If the registry has kept it after all, so has the other storage.
    assert pair.read(NEW_ID) is not None


def test_the_next_primary_has_each_login_that_was_acknowledged() -> None:
    with MongoReplicaSet(patience=4) as replica_set, storage_at(replica_set) as storage:
        base, new, tombstone = rotation()
        storage.create(base, now())
        primary = replica_set.primary
        others = [each for each in replica_set.members if each is not primary]
        for each in others:
            each.kill()
        with impatient(storage), pytest.raises(StorageUnavailable):
            storage.rotate(new, base, tombstone, now())
        primary.kill()
        for each in others:
            each.restart()
        assert storage.read(ID) == base
        primary.restart()
        replica_set.wait_until_whole()


def test_reads_go_on_while_writes_wait_in_vain(server: MongoDB, storage: MongoDBStorage) -> None:
    """The writes that come later wait no more, and the reads are not taken for them."""
    record = make_record()
    storage.create(record, now())
    run_in_mongo(server, {"fsync": 1, "lock": True})
    try:
        with impatient(storage):
            for says in ("in time", "in time", "did not wait"):
                with pytest.raises(StorageUnavailable, match=says):
                    storage.update(successor(record), record, now())
        for _ in range(3):
            assert storage.read(ID) == record
            assert asyncio.run(storage.aread(ID)) == record
        with pytest.raises(StorageUnavailable, match="did not wait"):
            storage.delete(ID)
    finally:
        run_in_mongo(server, {"fsyncUnlock": 1})


def test_a_write_that_is_answered_lets_reads_pass(server: MongoDB, storage: MongoDBStorage) -> None:
    storage.read(ID)
    server.pause()
    try:
        with impatient(storage):
            for _ in range(2):
                with pytest.raises(StorageUnavailable, match="in time"):
                    storage.read(ID)
    finally:
        server.resume()
    with pytest.raises(StorageUnavailable, match="did not wait"):
        storage.read(ID)
    storage.create(make_record(), now())
    assert storage.read(ID) is not None


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (
            {"writeConcernError": {"code": 50, "errmsg": "operation exceeded time limit"}},
            "Too few members of the replica set confirm writes",
        ),
        ({"errorCode": 50}, "In a replica set, a write also waits for the majority"),
    ],
)
def test_a_write_that_takes_too_long_may_wait_for_the_majority(
    server: MongoDB, storage: MongoDBStorage, failure: dict[str, Any], says: str
) -> None:
    with failing(server, 2, failCommands=["insert", "delete"], **failure):
        with pytest.raises(StorageUnavailable, match=says):
            storage.create(make_record(), now())
        with pytest.raises(StorageUnavailable, match=says):
            storage.delete(NEW_ID)


def test_a_read_that_takes_too_long_does_not(server: MongoDB, storage: MongoDBStorage) -> None:
    with (
        failing(server, 1, failCommands=["find"], errorCode=50),
        pytest.raises(StorageUnavailable) as caught,
    ):
        storage.read(ID)
    assert "majority" not in str(caught.value)
