"""Commands that go together: to whom their answers and errors go, and how many they are."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from redis.asyncio.client import Pipeline

from django_sessionstores.exceptions import StorageFull, StorageUnavailable, UnreadablePayload
from django_sessionstores.storages.base import Updated
from django_sessionstores.storages.redis.pipelining import (
    LARGE,
    MOST_TOGETHER,
    PipeliningClient,
)
from tests.services import Redis
from tests.storages.event_loop import Loop
from tests.storages.redis import test_loops, test_storage
from tests.storages.redis.test_storage import (
    NOW,
    REDIS_CACHE,
    commands,
    raw_client,
    record,
    short_timeouts,
    storage_at,
)

loop, at_once, server = test_loops.loop, test_loops.at_once, test_storage.server
IDS = [f"{number:040x}" for number in range(MOST_TOGETHER)]


@pytest.fixture
def storage(server: Redis, loop: Loop, at_once: None) -> Iterator[Any]:
    """Yield a storage with a session for each of `IDS`, connected."""
    options = short_timeouts(REDIS_CACHE)
    with storage_at(server.url(), OPTIONS=options) as storage:
        for session_id in IDS:
            storage.create(record(session_id, user_id=session_id[-2:]), NOW)
        loop.run(storage.aread(IDS[0]))
        yield storage


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of commands of each pipeline."""
    sent: list[int] = []
    execute = Pipeline.execute

    async def noted(self: Any, *args: Any, **options: Any) -> Any:
        sent.append(len(self.command_stack))
        return await execute(self, *args, **options)

    monkeypatch.setattr(Pipeline, "execute", noted)
    return sent


async def outcomes(*coroutines: Any) -> list[Any]:
    return await asyncio.gather(*coroutines, return_exceptions=True)


def read_all(storage: Any, loop: Loop, number: int = MOST_TOGETHER) -> list[Any]:
    return loop.run(outcomes(*(storage.aread(each) for each in IDS[:number])))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (1, []),
        (2, [2]),
        (MOST_TOGETHER, [MOST_TOGETHER]),
        (MOST_TOGETHER + 1, [MOST_TOGETHER]),
        (2 * MOST_TOGETHER + 2, [MOST_TOGETHER, MOST_TOGETHER, 2]),
    ],
)
def test_each_gets_its_own_answer(
    storage: Any, loop: Loop, together: list[int], number: int, expected: list[int]
) -> None:
    """One command goes as it would by itself, and there is a limit to how many go together."""
    ids = [IDS[each % len(IDS)] for each in range(number)]
    found = loop.run(outcomes(*map(storage.aread, ids)))
    assert [each.id for each in found] == ids
    assert [each.user_id for each in found] == [each[-2:] for each in ids]
    assert together == expected


def test_commands_that_come_later_do_not_wait(
    storage: Any, loop: Loop, together: list[int]
) -> None:
    """Those of the next tick go at once, over another connection."""

    async def read() -> list[Any]:
        first = [asyncio.ensure_future(storage.aread(each)) for each in IDS[:4]]
        for _ in range(3):
            await asyncio.sleep(0)
        return await outcomes(*first, *map(storage.aread, IDS[4:7]))

    assert [each.id for each in loop.run(read())] == IDS[:7]
    assert together == [4, 3]


def test_large_sessions_go_by_themselves(storage: Any, loop: Loop, together: list[int]) -> None:
    """The others would wait for them."""
    large = [record(f"c{each[1:]}", payload=bytes(LARGE)) for each in IDS[:3]]
    created = [storage.acreate(each, NOW) for each in large]
    done = loop.run(outcomes(*created, *map(storage.aread, IDS[:2])))
    assert done[:3] == [Updated(each) for each in large]
    assert [each.id for each in done[3:]] == IDS[:2]
    assert together == [2]


def test_each_gets_its_own_error(
    storage: Any, server: Redis, loop: Loop, together: list[int]
) -> None:
    raw_client(server).delete(storage._server.key(IDS[1]))
    raw_client(server).lpush(storage._server.key(IDS[1]), "of another type")
    server.cli("config", "set", "maxmemory-policy", "noeviction")
    server.cli("config", "set", "maxmemory", "1")
    new = record("d" * 40)
    done = loop.run(outcomes(*map(storage.aread, IDS[:3]), storage.acreate(new, NOW)))
    assert isinstance(done[1], UnreadablePayload)
    assert isinstance(done[3], StorageFull)
    assert [done[0].id, done[2].id] == [IDS[0], IDS[2]]
    assert together == [4]


def test_a_server_that_forgets_its_scripts_is_told_again(
    storage: Any, server: Redis, loop: Loop
) -> None:
    server.cli("script", "flush")
    ids = IDS[:5]
    base = [storage.read(each) for each in ids]
    new = [record(each, version=2, user_id=each[-2:]) for each in ids]
    with commands(server) as sent:
        updated = [storage.aupdate(*pair, NOW) for pair in zip(new, base, strict=True)]
        assert loop.run(outcomes(*updated)) == list(map(Updated, new))
    assert sent == ["EVALSHA"] * 5 + ["EVAL"] * 5


@pytest.mark.parametrize("is_sent", [False, True])
def test_a_cancelled_request_leaves_the_others_alone(
    server: Redis, loop: Loop, at_once: None, is_sent: bool
) -> None:
    with storage_at(server.url()) as storage:
        for session_id in IDS[:6]:
            storage.create(record(session_id), NOW)
        loop.run(storage.aread(IDS[0]))
        with commands(server) as sent:

            async def read() -> list[Any]:
                tasks = [asyncio.ensure_future(storage.aread(each)) for each in IDS[:6]]
                server.pause()
                await asyncio.sleep(0.05 if is_sent else 0)
                tasks[0].cancel()
                tasks[3].cancel()
                await asyncio.sleep(0.05)
                server.resume()
                return await outcomes(*tasks)

            found = loop.run(read())
        cancelled = [each for each in found if isinstance(each, asyncio.CancelledError)]
        assert [each.id for each in found if each not in cancelled] == [
            IDS[each] for each in (1, 2, 4, 5)
        ]
        assert len(cancelled) == 2
        assert sent == ["GET"] * (6 if is_sent else 4)
        again = loop.run(outcomes(*map(storage.aread, IDS[:6])))
        assert [each.id for each in again] == IDS[:6]


def test_an_outage_is_told_to_each(
    storage: Any,
    server: Redis,
    loop: Loop,
    together: list[int],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each has an exception of its own, whose traceback is that of its request. The log has one
    line, and counts each call."""
    server.pause()
    with caplog.at_level(logging.WARNING, "django_sessionstores"):
        done = read_all(storage, loop)
    server.resume()
    assert {type(each) for each in done} == {StorageUnavailable}
    assert len({id(each) for each in done}) == MOST_TOGETHER
    assert len({id(each.__cause__) for each in done}) == MOST_TOGETHER
    assert together == [MOST_TOGETHER]
    assert len(caplog.messages) == 1
    outage = storage._server._breaker.log._outage
    assert outage.calls == MOST_TOGETHER


def test_while_a_server_hangs_one_command_tries_it(
    storage: Any, server: Redis, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    ask = PipeliningClient.ask

    async def noted(self: PipeliningClient, command: tuple[Any, ...]) -> Any:
        asked.append(command)
        return await ask(self, command)

    server.pause()
    read_all(storage, loop)
    monkeypatch.setattr(PipeliningClient, "ask", noted)
    done = read_all(storage, loop)
    server.resume()
    assert {type(each) for each in done} == {StorageUnavailable}
    assert len(asked) == 1


@pytest.mark.parametrize("is_first", [False, True])
def test_connections_that_the_server_has_closed_fail_no_request(
    storage: Any, server: Redis, loop: Loop, together: list[int], is_first: bool
) -> None:
    if not is_first:
        read_all(storage, loop)
    server.cli("client", "kill", "type", "normal", "skipme", "yes")
    assert [each.id for each in read_all(storage, loop)] == IDS


def test_a_loop_that_ends_meanwhile(server: Redis, at_once: None) -> None:
    with storage_at(server.url()) as storage:
        storage.create(record(), NOW)
        tasks: list[asyncio.Task[Any]] = []

        async def leave() -> None:
            await storage.aread("a" * 40)
            server.pause()
            tasks.extend(asyncio.ensure_future(storage.aread("a" * 40)) for _ in range(5))
            await asyncio.sleep(0.05)

        asyncio.run(asyncio.wait_for(leave(), 10))
        server.resume()
        assert all(each.cancelled() for each in tasks)
        assert asyncio.run(storage.aread("a" * 40)) == record()
