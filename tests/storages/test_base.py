"""What storages have by default, and what is built on the contract alone."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from asgiref.sync import async_to_sync

from django_sessionstores.core.clock import now
from django_sessionstores.core.flow import run
from django_sessionstores.core.records import State, make_tombstone
from django_sessionstores.storages.base import CacheStorage
from django_sessionstores.storages.limited import LimitedStorage
from django_sessionstores.storages.memory import MemoryStorage
from django_sessionstores.storages.tombstones import leave_tombstone
from django_sessionstores.testing import observed
from tests.storages.records import make_record


def _twins() -> list[str]:
    """Return the methods whose async twin runs them in a thread by default."""
    members = inspect.getmembers(CacheStorage, inspect.iscoroutinefunction)
    return [
        name[1:] for name, method in members if f"self.{name[1:]})" in inspect.getsource(method)
    ]


@pytest.mark.parametrize("name", _twins())
def test_an_async_method_does_what_the_sync_one_does(name: str) -> None:
    """A storage whose driver is not async writes the sync methods only."""
    parameters = list(inspect.signature(getattr(CacheStorage, name)).parameters)[1:]
    given, answer = tuple(object() for _ in parameters), object()
    asked: list[tuple[Any, ...]] = []

    def method(self: Any, *args: Any) -> Any:
        asked.append(args)
        return answer

    kind = type("Written", (CacheStorage,), {name: method})
    storage = kind.__new__(kind)
    returned = async_to_sync(getattr(storage, f"a{name}"))(*given)
    assert asked == [given]
    annotation = inspect.signature(getattr(CacheStorage, name)).return_annotation
    assert returned is (None if annotation == "None" else answer)


def test_a_tombstone_takes_the_place_of_a_record_that_is_stored_meanwhile() -> None:
    storage, record = MemoryStorage(10), make_record()
    tombstone = make_tombstone(record.id, State.ENDED, now=now(), seconds=60)
    created: list[object] = []

    def create(name: str) -> None:
        if name == "create" and not created:
            created.append(None)
            storage.create(record, now())

    with observed(storage, before=create):
        outcome = run(leave_tombstone(storage, tombstone))
    assert created
    assert (outcome.is_stored, outcome.has_ended) == (True, True)
    left = storage.read(record.id)
    assert left is not None
    assert left.state is State.ENDED


@pytest.mark.parametrize("is_over", [False, True], ids=["live", "ended"])
def test_a_login_that_has_lost_its_lock_counts_again(is_over: bool) -> None:
    """Another login may have been counted meanwhile, and may have ended this one."""
    storage, locks = MemoryStorage(100), MemoryStorage(100)
    limited = LimitedStorage(storage, locks, most=1, refuses=False)
    record, other = make_record(user_id="7"), make_record("b" * 40, user_id="7", created=0)
    seen: list[str] = []

    def meanwhile(name: str) -> None:
        if name == "create" and name not in seen:
            locks._records.clear()
            storage.create(other, now())
        if name == "lookup" and name not in seen and is_over:
            storage.delete(record.id)
        seen.append(name)

    with observed(storage, before=meanwhile):
        limited.create(record, now())
    assert "lookup" in seen
    live = {each for each in (record.id, other.id) if storage.read(each)}
    assert live == ({other.id} if is_over else {record.id})
