"""A session that was created although the store has not said so, and what its object does next."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest import mock

import pytest

from django_sessionstores.core.clock import now
from django_sessionstores.exceptions import StorageUnavailable
from django_sessionstores.testing import observed

NEXT: dict[str, Callable[[Any], None]] = {
    "save": lambda session: session.save(),
    "cycle_key": lambda session: session.cycle_key(),
    "cycle_key twice": lambda session: (session.cycle_key(), session.cycle_key()),
    "create": lambda session: session.create(),
    "rotate_later": lambda session: session.rotate_later(),
}
ENDS: dict[str, Callable[[Any], None]] = {
    "flush": lambda session: session.flush(),
    "delete": lambda session: session.delete(),
}


def create_in_vain(engine: Any, session: Any, how: str) -> str:
    """Store a session whose object does not learn it; return its key."""

    def lose(name: str) -> None:
        if name == "create":
            raise StorageUnavailable("the answer was lost")

    session.set("x", 1)
    *before, method = how.split(", ")
    for each in before:
        getattr(session, each)()
    with observed(engine.storage, after=lose), pytest.raises(StorageUnavailable):
        getattr(session, method)()
    key: str = session.session_key
    assert engine.storage.read(engine.storage.locate(key)) is not None
    return key


@pytest.mark.payload_stored
@pytest.mark.parametrize("after", NEXT)
@pytest.mark.parametrize("first", ["save", "create", "cycle_key, create"])
def test_it_is_the_session_that_the_object_stores_next(
    engine: Any, open_session: Any, first: str, after: str
) -> None:
    """Under another key, it would be left to whoever has the first one, and to the lists."""
    session = open_session()
    key = create_in_vain(engine, session, first)
    NEXT[after](session)
    session.set("y", 2)
    session.save()
    found = {each: dict(engine.SessionStore(each).items()) for each in {key, session.session_key}}
    assert list(filter(None, found.values())) == [{"x": 1, "y": 2}]
    assert found[session.session_key]
    if engine.storage.lists:
        assert engine.storage.count(now(), None) == 1


@pytest.mark.engines("memory")
def test_it_was_created_by_a_save_that_was_cancelled(engine: Any) -> None:
    """A view may limit the time that it waits for a save."""
    session = engine.SessionStore()

    async def cancel(*args: Any) -> None:
        type(engine.storage).create(engine.storage, *args)
        raise asyncio.CancelledError

    async def save() -> None:
        await session.aset("x", 1)
        with (
            mock.patch.object(engine.storage, "acreate", cancel),
            suppress(asyncio.CancelledError),
        ):
            await session.asave()
        await session.acycle_key()
        await session.asave()

    asyncio.run(save())
    assert dict(engine.SessionStore(session.session_key).items()) == {"x": 1}
    assert engine.storage.count(now(), None) == 1


@pytest.mark.payload_stored
@pytest.mark.parametrize("after", ENDS)
def test_it_ends_with_what_the_object_knows(engine: Any, open_session: Any, after: str) -> None:
    session = open_session()
    key = create_in_vain(engine, session, "save")
    ENDS[after](session)
    assert dict(engine.SessionStore(key).items()) == {}
    if engine.storage.lists:
        assert engine.storage.count(now(), None) == 0
