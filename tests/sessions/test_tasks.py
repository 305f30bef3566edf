"""Several tasks of one request use its session object at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from django.test import override_settings

from django_sessionstores import signals
from django_sessionstores.core.records import Record
from django_sessionstores.sessions import SessionStore
from django_sessionstores.storages.base import Found, Outcome, Storage, Taken, Updated
from django_sessionstores.storages.memory import MemoryStorage


class Waiting(MemoryStorage):
    """A storage in which each call of a task lets the other tasks go on first."""

    async def afind(self, key: str, cookie: str) -> Found:
        await asyncio.sleep(0)
        return self.find(key, cookie)

    async def acreate(self, record: Record, now: int) -> Updated | Taken:
        outcome = self.create(record, now)
        await asyncio.sleep(0)
        return outcome

    async def aupdate(self, record: Record, base: Record, now: int) -> Outcome:
        outcome = self.update(record, base, now)
        for _ in range(3):
            await asyncio.sleep(0)
        return outcome

    async def adelete(self, session_id: str) -> bool:
        deleted = self.delete(session_id)
        for _ in range(9):
            await asyncio.sleep(0)
        return deleted


@pytest.fixture
def store() -> type[SessionStore]:
    storage = Waiting(100)

    class Store(SessionStore):
        @classmethod
        def make_storage(cls) -> Storage:
            return storage

    return Store


@pytest.fixture
def key(store: type[SessionStore]) -> str:
    session = store()
    session["list"] = [1]
    session.save()
    return str(session.session_key)


def run(*tasks: Callable[[], Any]) -> list[Any]:
    async def gather() -> list[Any]:
        return await asyncio.gather(*(each() for each in tasks))

    return asyncio.run(gather())


def test_two_tasks_get_the_same_values(store: type[SessionStore], key: str) -> None:
    """The change that one of them makes in a value must not be lost because the other one reads."""
    session = store(key)

    async def change() -> None:
        (await session.aget("list")).append(2)

    async def read() -> list[int]:
        return await session.aget("list")

    _, one, other = run(change, read, lambda: session.aload())
    assert one is session["list"]
    assert one == [1, 2]
    assert other == {"list": [1, 2]}
    session.save()
    assert store(key)["list"] == [1, 2]


@pytest.mark.parametrize("other", ["change", "change inside", "rotate", "flush", "login"])
def test_a_task_goes_on_while_another_one_saves(
    store: type[SessionStore], key: str, other: str
) -> None:
    """A merge with the save of another request updates the data of the task, unless that has
    another session by now."""
    session, elsewhere = store(key), store(key)
    session["mine"] = 1
    elsewhere["theirs"] = 1
    elsewhere.save()

    async def meanwhile() -> None:
        for _ in range(5):  # Until the second try of the save, after a conflict.
            await asyncio.sleep(0)
        if other == "change":
            session["late"] = 1
            await session.asave()
        elif other == "change inside":
            session["list"].append(2)
        elif other == "rotate":
            await session.arotate_later()
        elif other == "flush":
            await session.aflush()
        else:
            await session.aflush()
            session["late"] = 1
            await session.asave()

    run(session.asave, meanwhile)
    expected = {
        "change": {"list": [1], "mine": 1, "theirs": 1, "late": 1},
        "change inside": {"list": [1, 2], "mine": 1, "theirs": 1},
        "rotate": {"list": [1], "mine": 1, "theirs": 1},
        "flush": {},
        "login": {"late": 1},
    }[other]
    assert dict(session.items()) == expected
    session.save()
    assert dict(store(session.session_key).items()) == expected


def test_a_merge_function_also_merges_what_a_task_changes_meanwhile(
    store: type[SessionStore], key: str
) -> None:
    """The save has merged with the stored data already, and its result is merged a second time."""
    session, elsewhere = store(key), store(key)
    session["list"] = [1, 2]
    elsewhere["list"] = [1, 3]
    elsewhere.save()

    async def meanwhile() -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        session["list"].append(4)

    merge = {"MERGE": {"list": "tests.sessions.test_tasks.add_items"}}
    with override_settings(SESSIONSTORES=merge):
        run(session.asave, meanwhile)
        session.save()
    assert store(key)["list"] == [1, 3, 2, 4]


def add_items(base: list[int], mine: list[int], theirs: list[int]) -> list[int]:
    return theirs + [each for each in mine if each not in base]


def stored_data(store: type[SessionStore]) -> list[dict[str, Any]]:
    """Return the data of all sessions that live."""
    storage = store.storage()
    found = [storage.read(each.id) for each in storage.scan("", 10, None).records]
    return [store.data_of(each) for each in found if each is not None]


@pytest.mark.parametrize("other", ["asave", "acreate", "acycle_key", "arotate_later"])
def test_two_tasks_store_a_new_session(store: type[SessionStore], other: str) -> None:
    """Both are answered, so both changes are stored, and in one session."""
    session = store()

    async def save() -> None:
        session["one"] = 1
        await session.asave()

    async def save_too() -> None:
        session["two"] = 2
        await getattr(session, other)()
        await session.asave()

    run(save, save_too)
    assert store(session.session_key).load() == {"one": 1, "two": 2}
    assert stored_data(store) == [{"one": 1, "two": 2}]


@pytest.mark.parametrize("logs_in", [False, True])
def test_a_logout_while_a_new_session_is_stored(store: type[SessionStore], logs_in: bool) -> None:
    """The session that the save has stored would live, and nobody would have its key."""
    session, told = store(), list[Any]()
    session["_auth_user_id"] = "7"
    observe: signals.Observer = lambda signal, sender, facts: told.append(facts["session_id"])  # noqa: E731
    signals.observers.append(observe)

    async def flush() -> None:
        await session.aflush()
        if logs_in:
            session["_auth_user_id"] = "8"

    try:
        run(session.asave, flush)
    finally:
        signals.observers.remove(observe)
    assert stored_data(store) == ([{"_auth_user_id": "8"}] if logs_in else [])
    assert told[0] == told[1]  # It was created, and has ended.


def test_a_login_while_another_task_logs_out(store: type[SessionStore], key: str) -> None:
    """The logout is the last to be answered, and leaves nobody signed in."""
    session = store(key)

    async def login() -> None:
        await session.aget("list")
        await session.acycle_key()
        session["_auth_user_id"] = "7"
        await session.asave()

    run(session.aflush, login)
    assert session.is_empty()
    assert stored_data(store) == []


def test_a_task_is_cancelled_while_it_stores_a_new_session(store: type[SessionStore]) -> None:
    """The next save finds what the cancelled one has stored."""
    session = store()
    session["one"] = 1

    async def cancel() -> None:
        task = asyncio.create_task(session.asave())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        session["two"] = 2
        await session.asave()

    asyncio.run(cancel())
    assert stored_data(store) == [{"one": 1, "two": 2}]


def test_what_was_stored_is_told_although_another_task_has_gone_on(
    store: type[SessionStore],
) -> None:
    """The session was there, and others may count it."""
    session, told = store(), list[Any]()
    session["a"] = 1
    observe: signals.Observer = lambda signal, sender, facts: told.append(signal)  # noqa: E731
    signals.observers.append(observe)
    try:
        run(session.asave, session.aflush)
    finally:
        signals.observers.remove(observe)
    assert signals.session_created in told
